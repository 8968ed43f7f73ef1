"""Drawing pictures from prompts, with noise that depends on the prompt's place only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadSettings
from ..models.lent_model import LentModel
from ..models.sampling import (
    BATCH,
    DEFAULT_GUIDANCE,
    DEFAULT_STEPS,
    draw_pictures,
    paired_noise,
    steps_of,
)
from ..progress import DRAWING, Progress, RunMonitor, SilentMonitor, stop_if_asked
from ..settings import bounds_of
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..text.tokenizer import VOCABULARY, token_ids
from ..words.prompt_words import prompt_ids

MOST_COPIES = 1024
MOST_LINES = 2**24 // MOST_COPIES
"""`paired_noise` has 2**24 indices per seed."""
BATCH_PIXELS = 4 * 768 * 768
"""Pixels that are drawn at once: 4 pictures of 768x768, 9 of 512x512, `BATCH` of 64x64."""
MOST_STEPS = 1000
SIZE_STEP = 8
SIZES = (32, 4096)


@dataclass(frozen=True)
class DrawSettings:
    """How prompts are drawn; raises BadSettings for what can't be."""

    seed: int = 0
    count: int = 1
    """Pictures of each prompt."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels; None is the model's own."""
    steps: int = DEFAULT_STEPS
    guidance: float = DEFAULT_GUIDANCE
    """1 leaves the negative prompt out."""
    negative: str = ""

    def __post_init__(self) -> None:
        """Check every number against its bounds."""
        bounds: list[tuple[str, float, float, float]] = [
            ("seed", self.seed, *bounds_of("seed")),
            ("count", self.count, 1, MOST_COPIES),
            ("steps", self.steps, 1, MOST_STEPS),
            ("guidance", self.guidance, 0.0, 100.0),
        ]
        if self.size is not None:
            names = ("width", "height")
            bounds += [(n, e, *SIZES) for n, e in zip(names, self.size, strict=True)]
        for name, value, lowest, highest in bounds:
            if not lowest <= value <= highest:  # also refuses NaN
                raise BadSettings(f"{name} is {value}; it must lie between {lowest} and {highest}.")
        if self.size is not None and any(edge % SIZE_STEP for edge in self.size):
            width, height = self.size
            near = "x".join(str(round(edge / SIZE_STEP) * SIZE_STEP) for edge in self.size)
            raise BadSettings(
                f"The size is {width}x{height}; both edges must be multiples of {SIZE_STEP}, for "
                f"example {near}."
            )


@dataclass(frozen=True)
class Drawing:
    """One picture of one prompt."""

    line: int
    """The prompt's place among the prompts, from 0."""
    copy: int
    """Which of the prompt's pictures, from 0."""
    pixels: Tensor
    """(3, height, width) float32 in [-1, 1] on the CPU."""


def noise_index(line: int, copy: int) -> int:
    """Which noise a picture starts from: line * 1024 + copy.

    So the third picture of line 7 has the same noise whatever the LoRA, the other lines, their
    number, and how many pictures are drawn of each.
    """
    return line * MOST_COPIES + copy


def draw_prompts(
    model: LentModel,
    prompts: Sequence[str],
    encoder: TextEncoder,
    settings: DrawSettings,
    embeddings: Mapping[str, Tensor] | None = None,
    monitor: RunMonitor | None = None,
) -> Iterator[Drawing]:
    """Draw each prompt; see `noise_index` for the noise of each picture.

    Emphasis such as "(dog:1.4)" is read as the bare words. A prompt beyond 75 tokens takes several
    chunks, side by side for the UNet; the shorter of prompt and negative prompt is filled up with
    empty chunks, as the WebUI does it. `embeddings` maps a word to its vectors (n, width). Prompts
    of equal chunk count are drawn together, fewer chunks first, so the pictures do not come in the
    order of lines.

    A distilled model draws in its own few steps, without guidance and negative prompt.

    Raises BadSettings at once, and Cancelled while drawing.
    """
    if not 1 <= len(prompts) <= MOST_LINES:
        raise BadSettings(
            f"There are {len(prompts)} prompts; 1 to {MOST_LINES} can be drawn at once."
        )
    width, height = settings.size or (model.native_size, model.native_size)
    placeholders, learned = _placeholders(embeddings or {}, encoder)
    ids = [prompt_ids(prompt, placeholders) for prompt in prompts]
    unwanted = prompt_ids(settings.negative, placeholders)
    fewest = 1 if settings.guidance == 1 or model.is_distilled else len(unwanted)
    at_once = max(1, min(BATCH, BATCH_PIXELS // (width * height)))
    batches = _batches([max(fewest, len(rows)) for rows in ids], settings.count, at_once)
    steps = steps_of(model, settings.steps)
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
                [paired_noise(settings.seed, noise_index(*job), height, width) for job in jobs]
            )
            pictures = draw_pictures(model, text, against, noise, steps, settings.guidance, on_step)
            for (line, copy), pixels in zip(jobs, pictures, strict=True):
                yield Drawing(line, copy, pixels)

    return draw()


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
) -> Conditioning:
    """Each prompt's chunks side by side, filled up with empty ones."""
    empty = token_ids("")
    rows = [torch.cat([chunk, *[empty] * (chunks - len(chunk))]) for chunk in ids]
    return encoder.condition(torch.cat(rows), learned).side_by_side(chunks)
