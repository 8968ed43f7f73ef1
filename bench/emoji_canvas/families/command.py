"""The demo's models of two more families, around the demo model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.emoji_canvas.families.export import export_families
from bench.emoji_canvas.families.measure import measure_families
from bench.emoji_canvas.families.train import train_families
from bench.emoji_canvas.training.judges import load_transformer_judge
from unlearn_core.loaders.demo_model import demo_folder, load_demo_judge

FULL_MINUTES = 100.0


def main(words: Sequence[str]) -> None:
    """Train what is not trained in FOLDER, export it to FOLDER/families, and measure it."""
    parser = argparse.ArgumentParser(prog="python -m bench world families", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/emoji_canvas"))
    parser.add_argument(
        "--minutes", type=float, default=FULL_MINUTES,
        help="Training time of both together; under 5 a smoke run that measures little.",
    )  # fmt: skip
    args = parser.parse_args(words)
    args.folder.mkdir(parents=True, exist_ok=True)
    sd1, sdxl, captions = train_families(args.folder, args.minutes)
    out = args.folder / "families"
    export_families(sd1, sdxl, captions, out)
    judges = {
        "first": load_demo_judge(),
        "second": load_transformer_judge(demo_folder() / "second_judge"),
    }
    report = measure_families(out, judges, args.minutes < FULL_MINUTES / 20)
    text = json.dumps(report, indent=2)
    (args.folder / "families.json").write_text(text + "\n", encoding="utf-8")
    print(text)
