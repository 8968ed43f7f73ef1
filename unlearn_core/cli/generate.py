"""Drawing pictures from prompts, with noise that depends on the prompt's place only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile, BadSettings
from ..files.file_names import typed_path
from ..files.input_files import is_file, read_text
from ..lora.file import load_lora
from ..lora.weights import LoraWeights, apply_lora
from ..models.lent_model import LentModel
from ..models.sampling import BATCH, DEFAULT_GUIDANCE, DEFAULT_STEPS, draw_pictures, paired_noise
from ..progress import DRAWING, Progress, RunMonitor, SilentMonitor, stop_if_asked
from ..settings import bounds_of
from ..text.embedding_file import load_embedding
from ..text.prompt_words import prompt_ids
from ..text.text_encoder import TextEncoder
from ..text.tokenizer import VOCABULARY, token_ids

MOST_COPIES = 1024
MOST_LINES = 2**24 // MOST_COPIES
"""`paired_noise` has 2**24 indices per seed."""
BATCH_PIXELS = 4 * 768 * 768
"""Pixels that are drawn at once: 4 pictures of 768x768, 9 of 512x512, `BATCH` of 64x64."""
MOST_STEPS = 1000
SIZE_STEP = 8
SIZES = (32, 4096)


@dataclass(frozen=True)
class Drawing:
    """One picture of one prompt."""

    line: int
    """The prompt's place among the prompts, from 0."""
    copy: int
    """Which of the prompt's pictures, from 0."""
    pixels: Tensor
    """(3, height, width) float32 in [-1, 1] on the CPU."""


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


def noise_index(line: int, copy: int) -> int:
    """Which noise a picture starts from: line * 1024 + copy.

    So the third picture of line 7 has the same noise whatever the LoRA, the other lines, their
    number, and how many pictures are drawn of each.
    """
    return line * MOST_COPIES + copy


def load_loras(chosen: Sequence[ChosenLora]) -> list[tuple[LoraWeights, float]]:
    """The LoRAs with their strengths; raises BadFile."""
    return [(load_lora(one.path), one.strength) for one in chosen]


def encoder_with_loras(model: LentModel, loras: Sequence[tuple[LoraWeights, float]]) -> TextEncoder:
    """A private text encoder with the LoRAs added; raises WrongModel, BadSettings."""
    weights = model.text_encoder_weights()
    for lora, strength in loras:
        weights = apply_lora(weights, lora, strength)
    return TextEncoder(weights, model.last_used_layer, model.device)


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


def draw_prompts(
    model: LentModel,
    prompts: Sequence[str],
    encoder: TextEncoder,
    seed: int = 0,
    count: int = 1,
    size: tuple[int, int] | None = None,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    negative: str = "",
    embeddings: Mapping[str, Tensor] | None = None,
    monitor: RunMonitor | None = None,
) -> Iterator[Drawing]:
    """Draw `count` pictures of each prompt; see `noise_index` for the noise of each.

    `size` is (width, height) in pixels, None the model's own. Emphasis such as "(dog:1.4)" is read
    as the bare words. A prompt beyond 75 tokens takes several chunks, side by side for the UNet;
    the shorter of prompt and negative prompt is filled up with empty chunks, as the WebUI does it.
    `embeddings` maps a word to its vectors (n, width). Prompts of equal chunk count are drawn
    together, fewer chunks first, so the pictures do not come in the order of lines.

    Raises BadSettings at once, and Cancelled while drawing.
    """
    width, height = size or (model.native_size, model.native_size)
    _check(seed, count, width, height, steps, guidance, len(prompts))
    placeholders, learned = _placeholders(embeddings or {}, encoder)
    ids = [prompt_ids(prompt, placeholders) for prompt in prompts]
    unwanted = prompt_ids(negative, placeholders)
    fewest = 1 if guidance == 1 else len(unwanted)
    at_once = max(1, min(BATCH, BATCH_PIXELS // (width * height)))
    batches = _batches([max(fewest, len(rows)) for rows in ids], count, at_once)
    watch = monitor or SilentMonitor()

    def draw() -> Iterator[Drawing]:
        for number, (chunks, jobs) in enumerate(batches):

            def on_step(step: int, before: int = number * steps) -> None:
                watch.report(Progress(DRAWING, before + step, len(batches) * steps))
                stop_if_asked(watch)

            stop_if_asked(watch)
            lines = sorted({line for line, _ in jobs})
            with torch.no_grad():
                texts = _encode(encoder, [ids[line] for line in lines], chunks, learned)
                # At guidance 1 it is not looked at, and may be longer than the prompt.
                against = _encode(encoder, [unwanted[:chunks]], chunks, learned)
            text = texts[[lines.index(line) for line, _ in jobs]]
            noise = torch.cat(
                [paired_noise(seed, noise_index(*job), height, width) for job in jobs]
            )
            pictures = draw_pictures(model, text, against, noise, steps, guidance, on_step)
            for (line, copy), pixels in zip(jobs, pictures, strict=True):
                yield Drawing(line, copy, pixels)

    return draw()


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


def _check(
    seed: int, count: int, width: int, height: int, steps: int, guidance: float, lines: int
) -> None:
    low, high = bounds_of("seed")
    for name, value, lowest, highest in (
        ("seed", seed, low, high),
        ("count", count, 1, MOST_COPIES),
        ("steps", steps, 1, MOST_STEPS),
        ("guidance", guidance, 0.0, 100.0),
        ("width", width, *SIZES),
        ("height", height, *SIZES),
    ):
        if not lowest <= value <= highest:  # also refuses NaN
            raise BadSettings(f"{name} is {value}; it must lie between {lowest} and {highest}.")
    if width % SIZE_STEP or height % SIZE_STEP:
        near = "x".join(str(round(edge / SIZE_STEP) * SIZE_STEP) for edge in (width, height))
        raise BadSettings(
            f"The size is {width}x{height}; both edges must be multiples of {SIZE_STEP}, for "
            f"example {near}."
        )
    if not 1 <= lines <= MOST_LINES:
        raise BadSettings(f"There are {lines} prompts; 1 to {MOST_LINES} can be drawn at once.")


def _placeholders(
    embeddings: Mapping[str, Tensor], encoder: TextEncoder
) -> tuple[dict[str, range], Tensor | None]:
    """Each word's rows of the extra table, and that table (n, width)."""
    words: dict[str, range] = {}
    first = VOCABULARY
    for word, vectors in embeddings.items():
        words[word] = range(first, first + len(vectors))
        first += len(vectors)
    if not words:
        return words, None
    return words, torch.cat([v.float() for v in embeddings.values()]).to(encoder.device)


def _batches(
    chunks: Sequence[int], count: int, at_once: int
) -> list[tuple[int, list[tuple[int, int]]]]:
    """(chunk count, its (line, copy) pairs), at most `at_once` pairs each."""
    batches = []
    for number in sorted(set(chunks)):
        lines = [line for line, found in enumerate(chunks) if found == number]
        jobs = [(line, copy) for line in lines for copy in range(count)]
        batches += [
            (number, jobs[start : start + at_once]) for start in range(0, len(jobs), at_once)
        ]
    return batches


def _encode(
    encoder: TextEncoder, ids: Sequence[Tensor], chunks: int, learned: Tensor | None
) -> Tensor:
    """(B, 77 chunks, width): each prompt's chunks side by side, filled up with empty ones."""
    empty = token_ids("")
    rows = [torch.cat([chunk, *[empty] * (chunks - len(chunk))]) for chunk in ids]
    text: Tensor = encoder.encode(torch.cat(rows), learned).unflatten(0, (-1, chunks))
    return text.flatten(1, 2)
