"""Few-shot erasing: the text encoder is trained to make a few pictures of the concept *unlikely*.

Fuchi and Takagi 2024, arXiv 2405.07288 (BMVC 2024). Four pictures are encoded and noised at random
timesteps; prompts such as "a photo of a CONCEPT" are encoded; the UNet, frozen, predicts. The
denoising loss is *raised* by Adam on the text encoder's MLPs and its last self-attention. Nothing
holds the rest of the vocabulary, so the few steps are all that limits the damage.

Published (the paper's repository, commit c0e53da): Adam, rate 1e-5, betas 0.9 and 0.98, eps 1e-6,
weight decay 1e-8, batches of 2 from 4 pictures, 4 epochs in its README: 8 steps. Random flips
when the pictures are read. Full weights, not a LoRA.

What differs here. The last self-attention is that of the layer that conditions the picture (22 of
0..22 in SD2; the code names layer 11 of SD 1.x). The loss is that of the UNet's own output, v here,
as the published code has it for a v model. Of the published templates those are taken whose words
the demo model knows. The VAE's mean takes the place of a sample from it. On so narrow an encoder
8 steps of 1e-5 change next to nothing. `FITTED`, 50 steps of 3e-4, was chosen on dog, truck and
sketch: 8 steps of a larger rate forget as much but break more of the rest.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.protocol.erased import Erased, Task
from bench.rivals.subject import checked_name, with_article
from unlearn_core.errors import BadConcept, TrainingFailed
from unlearn_core.models.noise import add_noise, training_target
from unlearn_core.models.sampling import encode_pictures
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids

TEMPLATES = {
    "object": ("a photo of {it}", "the photo of {it}", "a photo of the {bare}"),
    "style": ("a picture in the style of {bare}",),
}


@dataclass(frozen=True)
class FewShotErasing:
    """Adam's settings and how long; the defaults are the published ones."""

    rate: float = 1e-5
    epochs: int = 4
    batch: int = 2
    pictures: int = 4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-8

    def __call__(self, base: Erased, task: Task) -> Erased:
        """Train a copy of the text encoder. Raises BadConcept, TrainingFailed."""
        started = time.monotonic()
        name = checked_name(task, base.encoder)
        if not task.images:
            raise BadConcept("Few-shot erasing learns from pictures; give about four of them.")
        generator = torch.Generator().manual_seed(task.seed)
        latents = self._latents(base, task, generator)
        it = with_article(name)
        prompts = [form.format(it=it, bare=name) for form in TEMPLATES[task.kind]]
        ids = torch.cat([token_ids(prompt) for prompt in prompts])
        encoder = copy.deepcopy(base.encoder)
        weights = trained_weights(encoder)
        losses = self._ascend(base, encoder, weights, latents, ids, generator)
        notes = {
            "steps": str(len(losses)),
            "denoising loss": f"{losses[0]:.3f} -> {losses[-1]:.3f}",
        }
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        seconds = time.monotonic() - started
        return Erased(base.model, encoder, "text encoder", base.negative, seconds, size, notes)

    def _latents(self, base: Erased, task: Task, generator: torch.Generator) -> Tensor:
        """(n, 4, h, w), half of the pictures mirrored."""
        chosen = task.images[: self.pictures]
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        pictures = [
            image.flip(-1) if flip else image
            for image, flip in zip(chosen, mirrored.tolist(), strict=True)
        ]
        return encode_pictures(base.model, pictures)

    def _ascend(
        self,
        base: Erased,
        encoder: TextEncoder,
        weights: list[nn.Parameter],
        latents: Tensor,
        ids: Tensor,
        generator: torch.Generator,
    ) -> list[float]:
        """Raise the denoising loss; its values."""
        model, losses = base.model, []
        for weight in weights:
            weight.requires_grad_(True)
        adam = torch.optim.Adam(
            weights, self.rate, self.betas, self.eps, weight_decay=self.weight_decay
        )
        for _ in range(self.epochs):
            for part in torch.randperm(len(latents), generator=generator).split(self.batch):
                clean = latents[part.to(latents.device)]
                forms = torch.randint(len(ids), (len(part),), generator=generator)
                times = torch.randint(len(model.alphas_cumprod), (len(part),), generator=generator)
                noise = torch.randn(clean.shape, generator=generator).to(clean)
                times = times.to(clean.device)
                noisy = add_noise(clean, noise, times, model.alphas_cumprod)
                wanted = training_target(
                    clean, noise, times, model.alphas_cumprod, model.prediction
                )
                output = model.predict(noisy, times, encoder.condition(ids[forms]))
                loss = (output - wanted).pow(2).mean()
                if not bool(loss.isfinite()):
                    raise TrainingFailed("The loss is no number: lower the rate.")
                adam.zero_grad()
                (-loss).backward()
                adam.step()
                losses.append(float(loss.detach()))
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None
        return losses


def trained_weights(encoder: TextEncoder) -> list[nn.Parameter]:
    """The weights and biases of all MLPs and of the last self-attention."""
    found: list[nn.Parameter] = []
    for tower in encoder.towers:
        found += [weight for layer in tower.layers for weight in layer.mlp.parameters()]
        found += tower.layers[-1].self_attn.parameters()
    return found


PUBLISHED = FewShotErasing()
FITTED = FewShotErasing(rate=3e-4, epochs=25)
SWEEP = (
    FewShotErasing(rate=3e-4, epochs=10),
    FewShotErasing(rate=3e-4, epochs=15),
    FITTED,
    FewShotErasing(rate=3e-4, epochs=40),
)
