"""The loop: the UNet's LoRA learns against adversaries that learn at the same time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from ..lora.weights import LoraPair
from ..models.lent_model import LentModel
from ..progress import RunMonitor, StepReports, stop_if_asked
from ..text.conditioning import Conditioning
from .adversaries import Adversary
from .examples import ForgetSet, RetainSet
from .hooks import hooked, module_names
from .settings import DeepSettings

WARM_UP_STEPS = 10
LAST_RATE = 0.05
"""Of the peak rate, at the last step."""
MOMENTS = 0.9, 0.99
"""Adam's: what is to be learned changes with the adversaries."""


def is_trained(name: str) -> bool:
    """Whether a UNet layer gets a LoRA: inside the blocks, but not in cross-attention.

    A map of keys and values leaves what the other layers know; see bench/notes.
    """
    inside = name.startswith(("down_blocks.", "mid_block.", "up_blocks."))
    return inside and "attn2" not in name and "time_emb_proj" not in name


def new_pairs(unet: nn.Module, rank: int, generator: torch.Generator) -> dict[str, LoraPair]:
    """A LoRA that changes nothing yet, float32, wanting a gradient; alpha is the rank."""
    pairs = {}
    for short, name in module_names(unet).items():
        if is_trained(name):
            layer: Any = unet.get_submodule(name)
            out, *inner = layer.weight.shape
            device = layer.weight.device
            down = torch.randn(rank, *inner, generator=generator) / math.prod(inner) ** 0.5
            up = torch.zeros(out, rank, *(1 for _ in inner[1:]))
            pairs[short] = LoraPair(
                down.to(device).requires_grad_(True), up.to(device).requires_grad_(True), rank
            )
    return pairs


@dataclass
class DeepTraining:
    """One run of the loop; `run` returns the loss of every step."""

    model: LentModel
    unet: nn.Module
    pairs: dict[str, LoraPair]
    forget: ForgetSet
    retain: RetainSet
    adversaries: Sequence[Adversary]
    settings: DeepSettings
    generator: torch.Generator

    def run(
        self, monitor: RunMonitor, reports: StepReports, preview: Callable[[], Tensor]
    ) -> list[float]:
        """Train; raises Cancelled, or TrainingFailed when the loss is not a number."""
        settings = self.settings
        factors = [factor for pair in self.pairs.values() for factor in (pair.down, pair.up)]
        optimizer = torch.optim.Adam(factors, lr=settings.learning_rate, betas=MOMENTS)
        losses: list[float] = []
        reports.go_on()
        with hooked(self.unet, self.pairs):
            for step in range(settings.steps):
                stop_if_asked(monitor)
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _rate(step, settings.steps)
                optimizer.zero_grad()
                loss = self._add_gradients(factors)
                if not math.isfinite(loss):
                    raise TrainingFailed(
                        f"The UNet's loss is {loss} at step {step + 1}: this model can't be "
                        "trained at the preset's rate."
                    )
                nn.utils.clip_grad_norm_(factors, 1.0)
                optimizer.step()
                losses.append(loss)
                reports.one_more(loss, preview)
        return losses

    def _add_gradients(self, factors: Sequence[Tensor]) -> float:
        """The loss; the adversaries have taken a step then, and the factors have gradients."""
        rows = torch.cat(
            [
                self.forget.spread(self.settings.forget_rows, self.generator)
                for _ in self.adversaries
            ]
        ).to(self.forget.noisy.device)
        vectors = [adversary.vectors for adversary in self.adversaries]
        each = self.settings.forget_rows
        text = Conditioning.cat([one.text().expand(each) for one in self.adversaries])
        forget = self.forget
        output = self.model.predict(forget.noisy[rows], forget.timesteps[rows], text)
        chased = (output - forget.concept[rows]).pow(2).mean()
        gradients = torch.autograd.grad(chased, vectors, retain_graph=True)
        lost = (output - forget.wanted[rows]).pow(2).mean()
        lost.backward(inputs=factors)
        for adversary, gradient in zip(self.adversaries, gradients, strict=True):
            adversary.step(gradient)
        kept = self._kept()
        (self.settings.keep_weight * kept).backward(inputs=factors)
        return float(lost.detach() + self.settings.keep_weight * kept.detach())

    def _kept(self) -> Tensor:
        retain, count = self.retain, self.settings.keep_rows
        rows = torch.randint(len(retain), (count,), generator=self.generator)
        rows = rows.to(retain.noisy.device)
        # The lent model gives a gradient where the text wants one.
        text = retain.texts[retain.prompts[rows]].map(lambda part: part.requires_grad_(True))
        output = self.model.predict(retain.noisy[rows], retain.timesteps[rows], text)
        return (output - retain.wanted[rows]).pow(2).mean()


def _rate(step: int, steps: int) -> float:
    """Of the peak rate: a warm-up, then a half cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)
