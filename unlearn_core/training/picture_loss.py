"""The terms of the loss that go through the UNet on the noised pictures of the concept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora.encoder_lora import EncoderLora
from ..models.denoising import prediction_error
from ..models.lent_model import LentModel
from ..models.noise import add_noise, draw_timesteps, training_target
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from ..text.token_trees import encode_groups
from ..words.prompts import ForgetPrompts

BATCH = 4
PROMPTS = 32
BANK = 64
"""Batches whose targets from the unchanged model are kept and come round again. A run of fewer
steps draws each batch once."""


@dataclass(frozen=True)
class Batch:
    """Noised pictures, what they are to be predicted as, and the prompts for it."""

    rows: Tensor
    """(BATCH,) int64: places among the prompts."""
    noisy: Tensor
    """(BATCH, 4, h, w)."""
    timesteps: Tensor
    """(BATCH,) int64."""
    target: Tensor
    """(BATCH, 4, h, w)."""


class PictureLoss:
    """Called once a step; draws pictures, noise and prompts, and returns the weighted loss.

    objective "ascent": minus the denoising loss of the pictures under the concept's prompts, the
    forget term of arXiv 2505.12395 (textual inversion's loss with its sign reversed).
    objective "stand-in": the squared distance between the UNet's prediction under the concept's
    prompts and the unchanged model's under the stand-in's, as in Concept Ablation (Kumari et al.
    2023, arXiv 2303.13516, equation 5). The latter takes the UNet once more, so those batches are
    kept, see BANK.
    """

    def __init__(
        self,
        model: LentModel,
        encoder: TextEncoder,
        lora: EncoderLora,
        latents: Tensor,
        prompts: ForgetPrompts,
        learned: Tensor | None,
        settings: UnlearnSettings,
        generator: torch.Generator,
        unet_rows: int = BATCH,
    ) -> None:
        """`unet_rows` pictures of a batch go through the UNet together."""
        self.model, self.encoder, self.latents = model, encoder, latents
        self.settings, self.generator, self.unet_rows = settings, generator, unet_rows
        self.prompts = prompts
        self.bank: list[Batch] = []
        both = [self.prompts.token_ids, self.prompts.stand_in_ids]
        with lora.disabled():
            encoded = encode_groups(encoder, both, learned)
        (self.states, _), (_, self.stand_in_text) = encoded

    def __call__(self, step: int) -> Tensor:
        """The weighted loss of one batch, a float32 scalar; any number of steps."""
        batch = self._batch(step)
        text = self.encoder.tail(self.states[batch.rows.to(self.states.device)])
        error = prediction_error(
            self.model, batch.noisy, batch.timesteps, text, batch.target, self.unet_rows
        )
        if self.settings.objective == "ascent":
            return -self.settings.forget_weight * error
        return self.settings.image_weight * error

    def _batch(self, step: int) -> Batch:
        if len(self.bank) == BANK:
            return self.bank[step % BANK]
        batch = self._draw()
        if self.settings.objective == "stand-in":
            self.bank.append(batch)
        return batch

    @torch.no_grad()
    def _draw(self) -> Batch:
        rows = torch.randint(len(self.prompts), (BATCH,), generator=self.generator)
        chosen = torch.randint(len(self.latents), (BATCH,), generator=self.generator)
        clean = self.latents[chosen.to(self.latents.device)]
        noise = torch.randn(clean.shape, generator=self.generator).to(clean)
        t = draw_timesteps(BATCH, self.generator).to(clean.device)
        noisy = add_noise(clean, noise, t, self.model.alphas_cumprod)
        if self.settings.objective == "ascent":
            alphas, prediction = self.model.alphas_cumprod, self.model.prediction
            target = training_target(clean, noise, t, alphas, prediction)
        else:
            target = self._target(rows, noisy, t)
        return Batch(rows, noisy, t, target)

    def _target(self, rows: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """What the prediction is moved onto: here the unchanged model's for the stand-in."""
        stand_in = self.stand_in_text[rows.to(self.stand_in_text.device)]
        return self.model.predict(noisy, timesteps, stand_in)
