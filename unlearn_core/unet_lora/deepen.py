"""The preset deep: to a LoRA of the text encoder comes one of the UNet, on one object."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Kind
from ..errors import BadConcept, NotEnoughMemory, WrongModel
from ..forgetting.building import write_prompts
from ..forgetting.memory_estimate import GAPS, UnetUse
from ..forgetting.memory_plan import CHECKPOINT_FROM, gigabytes, rows_that_fit
from ..forgetting.prompt_plan import PromptPlan, plan_prompts
from ..forgetting.unlearn import UnlearnResult
from ..lora.weights import LoraPair, LoraWeights, apply_lora, round_to_half
from ..models.adapter import ModelAdapter
from ..models.lent_model import Stoppable, build_encoder
from ..progress import DRAWING, Progress, RunMonitor, StepReports
from ..settings import preset
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..text.tokenizer import VOCABULARY, token_ids
from ..training.preview import draw_concept
from ..words.neighbours import look_around
from .adversaries import Adversary, Field, FreeState
from .examples import RANDOM_WORDS, TOGETHER, Painter, forget_set, retain_set
from .settings import TEXT_PRESET, DeepSettings
from .training import DeepTraining, new_pairs

UNET_SETTINGS = "unlearn_unet_settings"
"""The note of a LoRA file that holds DeepSettings."""
FORGETTING_IN_THE_UNET = "forgetting in the UNet"
FORGET_PROMPTS, FORGET_EXAMPLES = 96, 512
STARTS, STYLES = 8, 5
"""Kept words that adversaries begin with, and styles that they stand beside."""


def check_deep(model: ModelAdapter, kind: Kind) -> None:
    """Raise BadConcept or WrongModel for what the preset deep is not made for."""
    if kind == "style":
        raise BadConcept("The preset deep forgets objects: choose the preset robust for styles.")
    if len(model.family.towers) > 1:
        raise WrongModel(
            f"The preset deep is for models with one text encoder, and {model.family.name} has "
            "two: choose the preset robust."
        )
    if model.compute_dtype == torch.float16:
        raise WrongModel(
            "The preset deep trains the UNet, and in float16 its gradients leave the range. This "
            "device computes in nothing better: run it on the CPU, or choose the preset robust."
        )


def deepen(
    model: ModelAdapter, result: UnlearnResult, settings: DeepSettings, monitor: RunMonitor
) -> UnlearnResult:
    """The result of a run with a LoRA of the UNet beside that of the text encoder.

    The UNet is read only: its LoRA hangs on it by hooks while it is trained, and none is left.
    Raises BadConcept, WrongModel, NotEnoughMemory, TrainingFailed or Cancelled.
    """
    check_deep(model, result.concept.kind)
    started, own = time.monotonic(), model.checkpointing
    model.checkpointing = _needs_checkpointing(model, settings)
    try:
        pairs, losses = _Deepening(model, result, settings, monitor).train()
    finally:
        model.checkpointing = own
    lora = dataclasses.replace(
        round_to_half(LoraWeights({}, unet=pairs)),
        pairs=result.lora.pairs, family=result.lora.family,
        metadata={**result.lora.metadata, UNET_SETTINGS: json.dumps(dataclasses.asdict(settings))},
    )  # fmt: skip
    seconds = {**result.seconds, FORGETTING_IN_THE_UNET: time.monotonic() - started}
    note = f"The file changes {len(pairs)} layers of the UNet too, at rank {settings.rank}."
    return dataclasses.replace(
        result,
        lora=lora,
        losses=(*result.losses, *losses),
        notes=(*result.notes, note),
        seconds=seconds,
    )


def _needs_checkpointing(model: ModelAdapter, settings: DeepSettings) -> bool:
    """Whether blocks have to run again on the way back; raises NotEnoughMemory.

    Where free memory is not known, from the size on that the other presets take.
    """
    free, sizes = model.free_memory(), model.unet_sizes
    if free is None or sizes is None:
        return model.native_size // model.family.vae_factor >= CHECKPOINT_FROM
    rows = max(settings.keep_rows, settings.forget_rows * settings.adversaries)
    # The factors, their gradients and Adam's two moments, in float32.
    pairs = new_pairs(model.unet, settings.rank, torch.Generator())
    factors = 4 * 4 * sum(pair.down.numel() + pair.up.numel() for pair in pairs.values())
    needed = 0
    for again in (False, True):
        use = UnetUse(sizes, model.native_size, model.compute_dtype.itemsize, rows, TOGETHER, again)
        needed = int(GAPS * (max(use.gradient_bytes, use.drawing_bytes) + factors))
        if needed <= free:
            return again
    raise NotEnoughMemory(
        f"The preset deep needs about {gigabytes(needed)} beside the model, and {gigabytes(free)} "
        "are free: choose the preset robust, which leaves the UNet alone."
    )


@dataclass
class _Deepening:
    """What one run draws and trains."""

    model: ModelAdapter
    result: UnlearnResult
    settings: DeepSettings
    monitor: RunMonitor

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        drawn = rows_that_fit(self.model, 2 * TOGETHER)
        self.lent = Stoppable(self.model, self.monitor, drawn)
        self.before = build_encoder(self.model)
        weights = self.model.text_encoder_weights()
        self.after = build_encoder(self.model, apply_lora(weights, self.result.lora))

    def train(self) -> tuple[dict[str, LoraPair], list[float]]:
        """The UNet's LoRA, and the loss of every step."""
        self.monitor.report(Progress(DRAWING))
        part, settings = self.result.part, self.settings
        around = look_around(self.before, part.concept)
        text_settings = preset(
            TEXT_PRESET, forget_prompts=FORGET_PROMPTS, keep_prompts=settings.kept_pictures
        )
        plan = plan_prompts(
            self.before, part.concept, (), text_settings, around, part.stand_in, None,
            self.generator,
        )  # fmt: skip
        training = self._build(plan, around.known_styles[:STYLES])
        reports = StepReports(self.monitor, FORGETTING_IN_THE_UNET, settings.steps)
        losses = training.run(
            self.monitor,
            reports,
            lambda: draw_concept(self.lent, self.after, part.concept, settings.seed),
        )
        done = {
            name: LoraPair(pair.down.detach().cpu(), pair.up.detach().cpu(), pair.alpha)
            for name, pair in training.pairs.items()
        }
        return done, losses

    def _build(self, plan: PromptPlan, styles: tuple[str, ...]) -> DeepTraining:
        settings, generator = self.settings, self.generator
        text_settings = preset(
            TEXT_PRESET, forget_prompts=FORGET_PROMPTS, keep_prompts=settings.kept_pictures
        )
        written = write_prompts([plan], text_settings)
        starts = (plan.stand_in.text, plan.concept.name, "object", *plan.kept[:STARTS])
        known = [word for word in starts if self.before.knows(word)]
        field = Field(self.after, known, styles, settings.age, generator)
        with torch.no_grad():
            painter = Painter(self.lent, self.before.condition(token_ids("")), generator)
            forget, kept = written.forget[0], written.retain[0]
            concept, stand_in, keep = (
                _conditions(self.before, ids)
                for ids in (forget.token_ids, forget.stand_in_ids, kept.token_ids)
            )
            count = settings.pictures
            own, others = painter.draw(concept, count), painter.draw(stand_in, count)
            retain = retain_set(
                painter,
                painter.draw(keep, settings.kept_pictures),
                (own, others),
                keep,
                _conditions(self.after, kept.token_ids),
                self._random_prompts(field),
                self.after.condition(token_ids("")),
            )
            gone = forget_set(painter, own, concept, stand_in, settings.push, FORGET_EXAMPLES)
        adversaries = [
            *(Adversary(field, 1) for _ in range(settings.words)),
            *(Adversary(field, 4) for _ in range(settings.fours)),
            *(FreeState(field) for _ in range(settings.states)),
        ]
        pairs = new_pairs(self.model.unet, settings.rank, generator)
        return DeepTraining(
            self.lent, self.model.unet, pairs, gone, retain, adversaries, settings, generator
        )

    def _random_prompts(self, field: Field) -> Conditioning:
        """Prompts with one random word each."""
        ids = torch.cat(
            [
                token_ids(field.templates[field.draw(len(field.templates))], {"<v>": [word]})
                for word in range(VOCABULARY, VOCABULARY + RANDOM_WORDS)
            ]
        )
        return _conditions(self.after, ids, field.random_words(RANDOM_WORDS))


def _conditions(encoder: TextEncoder, ids: Tensor, vectors: Tensor | None = None) -> Conditioning:
    return Conditioning.cat([encoder.condition(part, vectors) for part in ids.split(64)])
