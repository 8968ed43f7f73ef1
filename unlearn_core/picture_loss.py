"""The terms of the loss that go through the UNet on the noised pictures of the concept."""

from __future__ import annotations

import torch
from torch import Tensor

from .lent_model import LentModel
from .lesson_plan import LessonPlan
from .lora import EncoderLora
from .noise import add_noise, draw_timesteps, training_target
from .settings import UnlearnSettings
from .text_encoder import TextEncoder

BATCH = 4
PROMPTS = 32


class PictureLoss:
    """Called once a step; draws pictures, noise and prompts, and returns the weighted loss.

    objective "ascent": minus the denoising loss of the pictures under the concept's prompts, the
    forget term of arXiv 2505.12395 (textual inversion's loss with its sign reversed).
    objective "stand-in": the squared distance between the UNet's prediction under the concept's
    prompts and the unchanged model's under the stand-in's, as in Concept Ablation (Kumari et al.
    2023, arXiv 2303.13516, equation 5).
    """

    def __init__(
        self,
        model: LentModel,
        encoder: TextEncoder,
        lora: EncoderLora,
        latents: Tensor,
        plan: LessonPlan,
        learned: Tensor | None,
        settings: UnlearnSettings,
        generator: torch.Generator,
    ) -> None:
        self.model, self.encoder, self.latents = model, encoder, latents
        self.learned, self.settings, self.generator = learned, settings, generator
        self.prompts = plan.forget_prompts(PROMPTS)
        with torch.no_grad(), lora.disabled():
            self.stand_in_text = encoder.encode(self.prompts.stand_in_ids)

    def __call__(self, step: int) -> Tensor:
        """The weighted loss of one batch, a float32 scalar; any number of steps."""
        rows = torch.randint(len(self.prompts), (BATCH,), generator=self.generator)
        chosen = torch.randint(len(self.latents), (BATCH,), generator=self.generator)
        clean = self.latents[chosen.to(self.latents.device)]
        noise = torch.randn(clean.shape, generator=self.generator).to(clean)
        t = draw_timesteps(BATCH, self.generator).to(clean.device)
        model = self.model
        noisy = add_noise(clean, noise, t, model.alphas_cumprod)
        text = self.encoder.encode(self.prompts.token_ids[rows], self.learned)
        predicted = model.predict(noisy, t, text)
        if self.settings.objective == "ascent":
            target = training_target(clean, noise, t, model.alphas_cumprod, model.prediction)
            return -self.settings.forget_weight * (predicted - target).pow(2).mean()
        with torch.no_grad():
            target = model.predict(noisy, t, self.stand_in_text[rows.to(text.device)])
        return self.settings.image_weight * (predicted - target).pow(2).mean()
