"""What a LoRA does to a model, on one page that can be handed on with it.

    python -m bench verify --model FILE --lora FILE [--also TEXT ...] [--clip FOLDER] [--out FILE]

The unchanged model draws and reads the pictures: the concept by name and by description, what is
near it and what is not, kept words in compositions. CLIP from a local folder reads the same
pictures beside it. Nothing is downloaded, and the LoRA's file is left as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, device

from bench.protocol.clip_judge import ClipJudge
from bench.verify.compositions import compositions, read_composition
from unlearn_core.cli.terminal import ProgressBar
from unlearn_core.errors import BadSettings
from unlearn_core.files.input_files import file_digest
from unlearn_core.files.output_files import check_apart, check_file
from unlearn_core.files.tensor_file import write_whole
from unlearn_core.loaders.demo_model import DEMOS, demo_model_folder
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.lora.file import load_lora
from unlearn_core.lora.metadata import Forgotten, all_from_metadata
from unlearn_core.measuring.evaluation import evaluate
from unlearn_core.measuring.judge import Judge
from unlearn_core.measuring.scaled_encoder import ScaledEncoder
from unlearn_core.measuring.subjects import Role
from unlearn_core.models.lent_model import LentModel, Stoppable, build_encoder
from unlearn_core.progress import RunMonitor
from unlearn_core.reporting.lines import main_numbers
from unlearn_core.reporting.report import page_bytes

PICTURES: dict[Role, int] = {
    "concept": 32, "synonym": 16, "description": 8,
    "neighbour": 16, "stand-in": 16, "unrelated": 16,
}  # fmt: skip


def main(words: Sequence[str]) -> None:
    """Measure and write the page; raises UnlearnError."""
    parser = argparse.ArgumentParser(
        prog="python -m bench verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help=f"{', '.join(DEMOS)}, a folder or a file")
    parser.add_argument("--lora", required=True, type=Path, help="the LoRA to look at")
    parser.add_argument("--concept", help="which, where the LoRA forgets several")
    parser.add_argument("--also", action="append", default=[], help="means it, without its name")
    parser.add_argument("--clip", type=Path, help="folder of a CLIPModel that reads too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("verify.html"))
    chosen = parser.parse_args(words)
    model_place = demo_model_folder(chosen.model) if chosen.model in DEMOS else Path(chosen.model)
    check_file(chosen.out)
    check_apart([chosen.out], [chosen.lora], model_place)
    lora = load_lora(chosen.lora, with_unet=True)
    forgotten = said_by(lora.metadata, chosen.concept)
    with ProgressBar() as monitor:
        model, line = load_model(chosen.model)
        print(line)
        scaled = ScaledEncoder.with_lora(model, lora)
        judges = [
            None,
            *([clip_judge(chosen.clip, forgotten, model.device)] if chosen.clip else []),
        ]
        found = [
            evaluate(model, forgotten, scaled, chosen.seed, monitor, judge, chosen.also, PICTURES)
            for judge in judges
        ]
        more = {"Compositions": composed(model, scaled, forgotten, chosen.seed, monitor)}
    digest = file_digest(chosen.lora)
    write_whole(chosen.out, page_bytes(found[0], lora.metadata, digest, more, found[1:]))
    for text in (*main_numbers(found[0]), *more["Compositions"].items()):
        print(text if isinstance(text, str) else ": ".join(text))
    print(f"written: {chosen.out.absolute()}")


def said_by(metadata: dict[str, str], name: str | None) -> Forgotten:
    """What the LoRA's file says of the concept, or of its first one; raises BadSettings."""
    parts = {part.concept.name: part for part in all_from_metadata(metadata)}
    found = parts.get(name) if name else next(iter(parts.values()), None)
    if found is None:
        said = ", ".join(parts) or "nothing"
        raise BadSettings(f"The LoRA's file says that it forgets {said}: choose with --concept.")
    return found


def composed(
    model: LentModel, scaled: ScaledEncoder, forgotten: Forgotten, seed: int, monitor: RunMonitor
) -> dict[str, str]:
    """What becomes of kept words that are drawn together; nothing of a style's."""
    kept = [word for word in forgotten.kept if word != forgotten.stand_in]
    if forgotten.concept.kind == "style" or len(kept) < 2:
        return {}
    before = build_encoder(model)
    careful = Stoppable(model, monitor)
    return {
        f"{it.asks}: {it.prompt}": read_composition(careful, before, scaled, it, seed)
        for it in compositions(kept[0], kept[1])
    }


def clip_judge(folder: Path, forgotten: Forgotten, place: device) -> Judge:
    """CLIP, which is asked about the concept, its stand-in and what was kept; raises BadFile."""
    words = list(dict.fromkeys((forgotten.concept.name, forgotten.stand_in, *forgotten.kept)))
    is_style = forgotten.concept.kind == "style"
    clip = ClipJudge(folder, words, words, place)

    def read(pixels: Tensor, word: str) -> list[str | None]:
        rows = clip(pixels)[1 if is_style else 0].argmax(1).tolist()
        return [words[row] for row in rows]

    return Judge("CLIP", frozenset(words), read)
