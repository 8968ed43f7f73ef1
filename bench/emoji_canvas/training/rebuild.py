"""The demo's world, model and judges, from nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.attacks import pictures as attack_pictures
from bench.emoji_canvas.drawings import load_drawings
from bench.emoji_canvas.pictures import Painter
from bench.emoji_canvas.render import load_renders, splits
from bench.emoji_canvas.training.autoencoder import (
    SCALING,
    encode,
    peak_signal_to_noise,
    reconstruct,
    train_autoencoder,
)
from bench.emoji_canvas.training.export import export_model, export_world
from bench.emoji_canvas.training.generator import train_generator, write_captions
from bench.emoji_canvas.training.judges import accuracy, save_judge, train_judge
from bench.emoji_canvas.training.measure import measure_generator, measure_judges
from bench.protocol import task_pictures
from unlearn_core.loaders.demo_model import load_demo_pipeline

SHARES = {"autoencoder": 0.36, "generator": 0.54, "convolutional": 0.05, "transformer": 0.05}
"""Parts of the training time."""
FULL_MINUTES = 240.0


def rebuild(folder: Path, minutes: float, warm: bool) -> None:
    """Run every stage that is not done in `folder`, then measure; OUT/ holds what demo/ holds."""
    folder.mkdir(parents=True, exist_ok=True)
    small = minutes < FULL_MINUTES / 20
    sets = splits(min(1.0, minutes / FULL_MINUTES * 2))
    start = load_demo_pipeline() if warm else None

    pictures = load_renders(sets["generator"], folder)
    tests = load_renders(sets["generator-test"], folder)
    vae = train_autoencoder(
        pictures.pixels,
        tests.pixels,
        folder,
        minutes * SHARES["autoencoder"],
        start.vae if start else None,
    )
    latents = encode(vae, pictures.pixels) * SCALING
    captions = write_captions(pictures.scenes)
    generator = train_generator(latents, captions, folder, minutes * SHARES["generator"], start)
    judge_pictures = load_renders(sets["judges"], folder)
    judges = {
        design: train_judge(design, judge_pictures, folder, minutes * SHARES[design])
        for design in ("convolutional", "transformer")
    }

    out = folder / "demo"
    export_model(generator, captions, vae, out / "model")
    export_world(folder, out)
    save_judge(judges["convolutional"], out / "judge")
    save_judge(judges["transformer"], out / "second_judge")
    rebuilt = reconstruct(vae, tests.pixels)
    report = {
        "autoencoder": {
            "decibel": peak_signal_to_noise(vae, tests.pixels),
            "judges": {
                name: accuracy(judge, rebuilt, tests.scenes) for name, judge in judges.items()
            },
        },
        "judges": measure_judges(
            {name: load_renders(sets[name], folder) for name in ("judges-test", "unseen-test")},
            judges,
        ),
        "generator": measure_generator(out, judges, small),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def main(words: Sequence[str]) -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    strips = commands.add_parser("strips", help="Paint the pictures that methods and attacks see.")
    strips.add_argument("folder", type=Path, help="Where rebuild keeps its drawings.")
    command = commands.add_parser("rebuild", help="Train the demo model and its judges.")
    command.add_argument("--folder", type=Path, default=Path("out/emoji_canvas"))
    command.add_argument(
        "--minutes", type=float, default=FULL_MINUTES,
        help="Training time of all stages together; under 12 a smoke run with few pictures.",
    )  # fmt: skip
    command.add_argument(
        "--warm",
        action="store_true",
        help="Go on from the weights in demo/ instead of from nothing.",
    )
    args = parser.parse_args(words)
    if args.command == "rebuild":
        rebuild(args.folder, args.minutes, args.warm)
        return
    painter = Painter(load_drawings(args.folder))
    task_pictures.paint_strips(painter)
    attack_pictures.paint_strips(painter)
