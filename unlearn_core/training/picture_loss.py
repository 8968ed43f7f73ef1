"""The term of the loss that goes through the UNet on the noised pictures of the concept."""

from __future__ import annotations

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


class PictureLoss:
    """Called once a step; draws pictures, noise and prompts, and returns the weighted loss.

    Minus the denoising loss of the pictures under the concept's prompts: the forget term of arXiv
    2505.12395 (textual inversion's loss with its sign reversed).
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
        with lora.disabled():  # with the stand-in's, whose company decides how it rounds
            both = [prompts.token_ids, prompts.stand_in_ids]
            (self.states, _), _ = encode_groups(encoder, both, learned)

    def __call__(self, step: int) -> Tensor:
        """The weighted loss of one batch, a float32 scalar; any number of steps."""
        model, generator = self.model, self.generator
        rows = torch.randint(len(self.prompts), (BATCH,), generator=generator)
        chosen = torch.randint(len(self.latents), (BATCH,), generator=generator)
        clean = self.latents[chosen.to(self.latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = draw_timesteps(BATCH, generator).to(clean.device)
        noisy = add_noise(clean, noise, t, model.alphas_cumprod)
        target = training_target(clean, noise, t, model.alphas_cumprod, model.prediction)
        text = self.encoder.tail(self.states[rows.to(self.states.device)])
        error = prediction_error(model, noisy, t, text, target, self.unet_rows)
        return -self.settings.forget_weight * error
