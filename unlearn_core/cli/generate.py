"""The command generate: every check first, then the pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import BadFile, BadSettings, Cancelled
from ..files.file_names import typed_path
from ..files.input_files import is_file, read_text
from ..files.output_files import check_apart, check_writable, make_folder, png_bytes
from ..files.tensor_file import write_whole
from ..lora.file import load_lora
from ..lora.weights import LoraWeights, apply_lora, check_family
from ..models.lent_model import LentModel, build_encoder
from ..text.embedding_file import load_embedding
from ..text.text_encoder import TextEncoder
from ..unet_lora.hooks import unet_with_loras
from ..words.prompt_words import notes_on_embeddings, refuse_lora_tags
from .commands import Session
from .drawing import Drawing, DrawSettings, draw_prompts


@dataclass(frozen=True)
class ChosenLora:
    """A LoRA file and the strength at which it is added."""

    path: Path
    strength: float = 1.0

    @classmethod
    def parse(cls, text: str) -> ChosenLora:
        """Read FILE or FILE:STRENGTH; a file of exactly that name wins, and C:\\x has no strength.

        Raises BadSettings for a strength that is not finite, BadFile for a name like no file's.
        """
        head, colon, tail = text.rpartition(":")
        try:
            strength = float(tail)
        except ValueError:
            return cls(typed_path(text))
        if not colon or not head or is_file(typed_path(text)):
            return cls(typed_path(text))
        if not math.isfinite(strength):
            raise BadSettings(f"The strength of a LoRA is {tail}: it must be a finite number.")
        return cls(typed_path(head), strength)


def load_loras(chosen: Sequence[ChosenLora]) -> list[tuple[LoraWeights, float]]:
    """The LoRAs with their strengths; raises BadFile."""
    return [(load_lora(one.path, with_unet=True), one.strength) for one in chosen]


def encoder_with_loras(model: LentModel, loras: Sequence[tuple[LoraWeights, float]]) -> TextEncoder:
    """A private text encoder with the LoRAs added; raises WrongModel, BadSettings."""
    weights = model.text_encoder_weights()
    for lora, strength in loras:
        check_family(lora, model.family)
        weights = apply_lora(weights, lora, strength)
    return build_encoder(model, weights)


def load_embeddings(paths: Sequence[Path], width: int) -> dict[str, Tensor]:
    """Learned vectors by the word that a prompt uses, the file's stem: each (n, width) float32.

    Raises BadFile as `load_embedding` does, and BadSettings for two files of one stem.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        if path.stem in found:
            raise BadSettings(
                f"Two embeddings are named {path.stem!r}, and a prompt can't tell them apart: "
                "rename one of the files."
            )
        found[path.stem] = load_embedding(path, width)
    return found


def picture_name(drawing: Drawing, lines: int, count: int) -> str:
    """The file name of a picture, 0007-2.png; names sort by line, then by copy."""
    line_digits = max(4, len(str(lines - 1)))
    return f"{drawing.line:0{line_digits}}-{drawing.copy:0{len(str(count - 1))}}.png"


def read_prompts(file: Path) -> list[str]:
    """The lines of a UTF-8 text file, an empty one being the empty prompt; raises BadFile.

    Only the line end at the very end is left out, so prompt n is line n + 1 of the file.
    """
    text = read_text(file, pipe=True)
    if not text:
        raise BadFile(f"{file} is empty: write one prompt a line.")
    return text.removesuffix("\n").split("\n")


def generate(
    session: Session,
    prompts: Sequence[str],
    settings: DrawSettings,
    out: Path,
    loras: Sequence[ChosenLora] = (),
    embeddings: Sequence[Path] = (),
) -> None:
    """Draw the prompts into a folder that holds no PNG yet."""
    check_writable(out)
    check_apart([], (), session.place, [out])
    found = sorted(out.glob("*.[pP][nN][gG]"))
    if found:
        raise BadFile(
            f"{out} already holds {len(found)} PNG files, the first is {found[0].name}: choose a "
            "folder without, so that the pictures can't be mixed up."
        )
    loaded = load_loras(loras)
    for text in (*prompts, settings.negative):
        refuse_lora_tags(text)
    model = session.load()
    for lora, _ in loaded:
        session.say_notes(lora)
    encoder = encoder_with_loras(model, loaded)
    vectors = load_embeddings(embeddings, encoder.width)
    read = prompts if settings.guidance == 1 else (*prompts, settings.negative)
    for note in notes_on_embeddings(read, list(vectors)):
        session.say(f"note: {note}")
    settings = dataclasses.replace(settings, size=settings.size or model.picture_size)
    drawings = draw_prompts(model, prompts, encoder, settings, vectors, session.monitor)
    total, done = len(prompts) * settings.count, 0
    make_folder(out)
    try:
        with unet_with_loras(model, loaded):
            for drawn in drawings:
                name = picture_name(drawn, len(prompts), settings.count)
                write_whole(out / name, png_bytes(drawn.pixels))
                done += 1
    except Cancelled as error:
        raise Cancelled(
            f"Stopped as you asked: {done} of {total} pictures are in {out}."
        ) from error
    session.say(f"written: {total} pictures in {out.absolute()}")
