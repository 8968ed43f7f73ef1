"""How many bytes a run takes beside the model that is lent, counted from sizes alone.

Each stage holds some of: the private copy of the text encoder, the LoRA with Adam's moments, the
prompts' states, what the text encoder and the UNet keep for the way back, and pictures on their way
through the VAE. The stage that holds most decides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..lora.encoder_lora import chosen_modules
from ..lora.keys import MLP, TEXT, ModuleKey
from ..models.unet_sizes import UnetSizes
from ..settings import UnlearnSettings
from ..text.tokenizer import CHUNK
from ..training.adversary import SEARCHES, TEMPLATES
from ..training.terms import ASCENT_PROMPTS, BATCH_PICTURES, MICRO_BATCH_TOKENS
from ..words.prompt_templates import GUARD_PROMPTS
from .prompt_plan import prompts_each

FLOAT = 4
"""Bytes of a number outside of UNet and VAE."""
GAPS = 1.1
"""An allocator's gaps between tensors."""
TEXT_TRAINED = 17
"""Numbers that a text layer with a LoRA keeps at each position, for each of its width: the inputs
and outputs of two norms, q, k, v, the attended, and the MLP's four times wider middle twice."""
TEXT_FROZEN = 10
"""The same of a frozen layer, which does not keep what enters a projection."""
PROMPT_POSITIONS = 24
"""Of a prompt on average: most are cut short, see training/examples.py."""
ADVERSARY_POSITIONS = 24
ENCODED_TOGETHER = 24
"""Prompts of a concept, its neighbours and the guard that are encoded in float32 at once."""
MEASURED_TOGETHER = 2
"""A picture and its empty prompt; more where there is room, see `rows_that_fit`."""
VAE_NUMBERS = 1000
"""Held by the VAE at its finest level, for each pixel: 256 channels, four times."""
COPYING, LEARNING, DRAWING, FORGETTING, MEASURING = (
    "the copy of the text encoder",
    "learning vectors",
    "drawing",
    "training the LoRA",
    "measuring",
)


@dataclass(frozen=True)
class Workload:
    """What a run does, as far as its memory goes."""

    settings: UnlearnSettings
    pictures: int = 0
    """Of all concepts together."""
    concepts: int = 1
    previews: bool = False
    """Whether the user sees what is drawn meanwhile."""
    finds_name: bool = False
    """Whether the concept's name is first found in its pictures."""
    forgets: bool = True
    """Whether more is done than learning vectors."""
    measures: bool = False
    """Whether the result is drawn or measured afterwards."""


@dataclass(frozen=True)
class TextSizes:
    """One text tower's sizes, up to the last layer that moves the picture."""

    vocabulary: int
    width: int
    inner: int
    """Width of an MLP's middle."""
    layers: int
    half: bool
    """Whether its projections and its word vectors are held in two bytes."""
    pooling_layers: int = 0
    """How many of them move the pooled vector alone."""
    part: str = TEXT
    """See TextTower."""

    @property
    def chosen_from(self) -> tuple[int, int, str]:
        """What `chosen_modules` needs to know."""
        return self.layers - 1 - self.pooling_layers, self.pooling_layers, self.part

    @property
    def projections(self) -> int:
        """Weights of one layer's projections."""
        return 4 * self.width**2 + 2 * self.width * self.inner

    @property
    def copy_bytes(self) -> int:
        """Of the private copy."""
        held = self.vocabulary * self.width + self.layers * self.projections
        return held * (2 if self.half else FLOAT) + CHUNK * self.width * FLOAT


@dataclass(frozen=True)
class UnetUse:
    """How a run uses the UNet."""

    sizes: UnetSizes
    native_size: int
    """Edge of a picture in pixels."""
    number_bytes: int
    """Of the dtype that UNet and VAE compute in."""
    rows: int
    """Pictures that go through it together when a gradient is wanted."""
    drawn: int
    """The same when none is; each picture drawn counts twice, for the empty prompt."""
    checkpointing: bool
    pictures: bool = True
    """Whether the VAE makes pictures of latents, or latents of pictures."""

    @property
    def gradient_bytes(self) -> int:
        """Held by one prediction with its way back."""
        edge = self.native_size // 8
        numbers = self.sizes.kept(edge, edge, self.checkpointing) + self.sizes.working(edge, edge)
        numbers = self.rows * numbers + self.sizes.converted(self.checkpointing)
        return numbers * self.number_bytes

    @property
    def drawing_bytes(self) -> int:
        """Held by one prediction without, or by the VAE."""
        edge = self.native_size // 8
        vae = VAE_NUMBERS * self.native_size**2 if self.pictures else 0
        return max(self.drawn * self.sizes.drawing(edge, edge), vae) * self.number_bytes


def learns(settings: UnlearnSettings, pictures: int) -> bool:
    """Whether a run with these settings learns vectors from its pictures."""
    return pictures > 0 and settings.learns_vectors


def estimate(texts: Sequence[TextSizes], unet: UnetUse | None, work: Workload) -> dict[str, int]:
    """Stage -> the bytes that it holds at most; `texts` are all towers.

    `unet` None: the UNet is not used, or its sizes are not known.
    """
    settings = work.settings
    copies = sum(text.copy_bytes for text in texts)
    stages = {COPYING: copies}
    if unet is not None:
        stages[DRAWING] = copies + unet.drawing_bytes
    if learns(settings, work.pictures):
        stages[LEARNING] = copies + sum(_learning(text, settings) for text in texts)
        if unet is not None:
            rows = min(unet.rows, settings.inversion_batch)
            stages[LEARNING] += dataclasses.replace(unet, rows=rows).gradient_bytes
    if work.forgets:
        trained = [_forgetting(text, settings, work.concepts) for text in texts]
        # What needs the UNet trains all towers together, all else one after the other.
        held = sum(trained) if settings.needs_pictures else max(trained)
        if settings.needs_pictures and unet is not None:
            rows = min(unet.rows, BATCH_PICTURES)
            held += dataclasses.replace(unet, rows=rows).gradient_bytes
        stages[FORGETTING] = copies + held
    if work.measures:
        stages[MEASURING] = copies + _measuring(texts, unet, settings)
    return {stage: int(GAPS * held) for stage, held in stages.items()}


def _learning(text: TextSizes, settings: UnlearnSettings) -> int:
    """The word vectors' way back through every layer."""
    positions = settings.inversion_batch * CHUNK
    return text.layers * (
        positions * TEXT_FROZEN * text.width * FLOAT + _converted(text, text.projections)
    )


def _forgetting(text: TextSizes, settings: UnlearnSettings, concepts: int) -> int:
    modules = chosen_modules(settings, *text.chosen_from)
    tail = text.layers - min(key.layer for key in modules)
    held = _converted(text, tail * text.projections)  # beside the half ones, as long as it trains
    held += 4 * FLOAT * settings.rank * sum(sum(_shape(text, key)) for key in modules)
    forget, keep = prompts_each(settings, concepts)
    a_prompt = PROMPT_POSITIONS * text.width * FLOAT
    held += (3 * forget * (concepts if settings.steps else 1) + 2 * keep * concepts) * a_prompt
    held += 2 * len(GUARD_PROMPTS) * CHUNK * text.width * FLOAT
    per_position = tail * TEXT_TRAINED * text.width * FLOAT
    positions = min((settings.batch_size + len(GUARD_PROMPTS)) * CHUNK, MICRO_BATCH_TOKENS)
    step = positions * per_position
    # While the roles' variances are taken: all targets joined, and those of one role.
    step = max(step, 2 * keep * concepts * a_prompt)
    if settings.needs_pictures:
        held += concepts * ASCENT_PROMPTS * CHUNK * 2 * text.width * FLOAT
        step += BATCH_PICTURES * CHUNK * per_position
    if settings.closed_form:
        equations = text.inner * (text.inner + text.width) * FLOAT
        step = max(step, 2 * equations)  # as much again passes through
    if settings.adversary != "none":
        positions = SEARCHES * len(TEMPLATES) * ADVERSARY_POSITIONS
        search = text.layers * positions * TEXT_TRAINED * text.width * FLOAT
        search += _converted(text, (text.layers - tail) * text.projections)
        step = max(step, search)
    return held + step


def _measuring(texts: Sequence[TextSizes], unet: UnetUse | None, settings: UnlearnSettings) -> int:
    """What the LoRA changes in float32, and a picture: more are drawn together if they fit."""
    changed = sum(
        _converted(text, math.prod(_shape(text, key)))
        for text in texts
        for key in chosen_modules(settings, *text.chosen_from)
    )
    widest = max(4 * text.width + 2 * text.inner for text in texts)
    encoding = ENCODED_TOGETHER * CHUNK * widest * FLOAT
    one = dataclasses.replace(unet, drawn=MEASURED_TOGETHER).drawing_bytes if unet else 0
    return changed + max(encoding, one)


def _converted(text: TextSizes, weights: int) -> int:
    """Half weights made float32, which a graph or the LoRA's layers hold."""
    return weights * FLOAT if text.half else 0


def _shape(text: TextSizes, key: ModuleKey) -> tuple[int, int]:
    return (text.width, text.inner if key.module in MLP else text.width)
