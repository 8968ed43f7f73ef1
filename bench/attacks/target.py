"""A model under attack: the loss that the attacker lowers, and the pictures that the judge reads.

The learned vectors stand for "<v>" in every prompt. The loss is that of textual inversion (Gal et
al. 2022, arXiv 2208.01618, equation 2): how well the UNet denoises the attack's pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.curve import Point
from bench.protocol.cells import GUIDANCE, Cell, World, draw_prompts
from bench.protocol.erased import Erased
from bench.protocol.metrics import Share
from unlearn_core.models.denoising import READ_TIMESTEPS, denoising_losses
from unlearn_core.models.lent_model import LentModel
from unlearn_core.models.noise import add_noise, draw_timesteps, training_target
from unlearn_core.models.sampling import encode_pictures
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.tokenizer import VOCABULARY, token_ids

HELD_OUT_NOISE = 77
CELL_SEED = 9_000
"""The judged pictures' noise and styles; the attack's own seed doesn't move them."""


@dataclass(frozen=True)
class Templates:
    """Prompts around "<v>"; those in `styled` have a {style}."""

    plain: tuple[str, ...]
    styled: tuple[str, ...]


class NegativeKept:
    """A UNet whose prediction contains what the negative prompt does to it.

    Guidance draws from n + g (c - n) with a negative prompt n, and from e + g (c' - e) without,
    where e is the empty prompt. Both are equal for c' = c - (g - 1) / g (n - e): the prediction
    that an attacker has to make right. This formula is our own.
    """

    def __init__(
        self, model: LentModel, negative: Conditioning, empty: Conditioning, guidance: float
    ) -> None:
        """`negative` and `empty` are of one prompt each."""
        self._model, self._texts = model, (negative, empty)
        self._share = (guidance - 1) / guidance
        self.family, self.device = model.family, model.device
        self.compute_dtype, self.is_distilled = model.compute_dtype, model.is_distilled
        self.prediction, self.alphas_cumprod = model.prediction, model.alphas_cumprod
        self.native_size, self.conditioning_layers = model.native_size, model.conditioning_layers
        self.text_encoder_weights = model.text_encoder_weights
        self.encode_image, self.decode_latents = model.encode_image, model.decode_latents

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """See LentModel."""
        with torch.no_grad():
            negative, empty = (
                self._model.predict(latents, timesteps, one.expand(len(latents)))
                for one in self._texts
            )
        return self._model.predict(latents, timesteps, text) - self._share * (negative - empty)


def attacked_model(erased: Erased) -> LentModel:
    """The model whose denoising loss the attacker lowers."""
    if not erased.negative:
        return erased.model
    with torch.no_grad():
        texts = erased.encoder.condition(torch.cat([token_ids(erased.negative), token_ids("")]))
    return NegativeKept(erased.model, texts[:1], texts[1:], GUIDANCE)


def draw(erased: Erased, ids: Tensor, seed: int, learned: Tensor | None = None) -> Tensor:
    """See `draw_prompts`."""
    return draw_prompts(erased.model, erased.encoder, ids, seed, erased.negative, learned=learned)


class Target:
    """One concept on one model, attacked with `count` learned vectors in `templates`."""

    def __init__(
        self,
        erased: Erased,
        concept: str,
        pictures: Sequence[Tensor],
        world: World,
        count: int,
        templates: Templates,
    ) -> None:
        """Encode the pictures. The attacker sees their styles and names them in the prompts."""
        if concept in world.styles:
            raise ValueError(f"{concept} is a style; this attack is for objects.")
        self.erased, self.concept, self.world, self.templates = erased, concept, world, templates
        self.model = attacked_model(erased)
        self.latents = encode_pictures(erased.model, pictures)
        self.styles = world.read(torch.stack(tuple(pictures))).styles
        self._count = count

    def ids(self, prompts: Sequence[str], number: int = 0) -> Tensor:
        """(N, 77) int64, with the vectors of restart `number` for "<v>"."""
        first = VOCABULARY + number * self._count
        placeholders = {"<v>": list(range(first, first + self._count))}
        return torch.cat([token_ids(prompt, placeholders) for prompt in prompts])

    def encode(self, ids: Tensor, vectors: Tensor) -> Conditioning:
        """What the loss reads of prompts (N, 77) with the vectors in them."""
        return self.erased.encoder.condition(ids, vectors)

    def losses(
        self, vectors: Sequence[Tensor], batch: int, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Denoising loss of one batch for each restart, (R,), drawn from its own generator.

        One template a batch, each picture with its own style. The restarts go through the networks
        together, because small batches are slow.
        """
        model, templates = self.model, (*self.templates.plain, *self.templates.styled)
        ids, places, clean, noise, times = [], [], [], [], []
        for number, generator in enumerate(generators):
            template = templates[int(torch.randint(len(templates), (), generator=generator))]
            chosen = torch.randint(len(self.latents), (batch,), generator=generator)
            prompts = [template.format(style=self.styles[i]) for i in chosen.tolist()]
            # One forward pass for each prompt, and no index whose backward adds in any order.
            unique = sorted(set(prompts))
            places += [sum(map(len, ids)) + unique.index(prompt) for prompt in prompts]
            ids.append(self.ids(unique, number))
            clean.append(self.latents[chosen.to(self.latents.device)])
            noise.append(torch.randn(clean[-1].shape, generator=generator).to(clean[-1]))
            times.append(draw_timesteps(batch, generator).to(clean[-1].device))
        encoded = self.encode(torch.cat(ids), torch.cat(list(vectors)))
        place = torch.tensor(places, device=encoded.tokens.device)
        text = encoded.map(lambda tensor: tensor.index_select(0, place))
        latents, noised, t = torch.cat(clean), torch.cat(noise), torch.cat(times)
        noisy = add_noise(latents, noised, t, model.alphas_cumprod)
        wanted = training_target(latents, noised, t, model.alphas_cumprod, model.prediction)
        squared = (model.predict(noisy, t, text) - wanted).pow(2)
        return squared.view(len(generators), -1).mean(1)

    @torch.no_grad()
    def held_out_loss(self, vectors: Tensor) -> float:
        """Denoising loss of all pictures on noise that training never draws."""
        prompts = [self.templates.styled[0].format(style=style) for style in self.styles]
        text = self.erased.encoder.condition(self.ids(prompts), vectors)
        losses = denoising_losses(self.model, self.latents, text, READ_TIMESTEPS, HELD_OUT_NOISE)
        return float(losses.mean())

    def point(self, step: int, vectors: Tensor, pictures: int) -> Point:
        """Draw and judge `pictures` plain and as many styled pictures."""
        shown = {}
        for kind in ("plain", "styled"):
            cell = self.cell(kind, pictures)
            drawn = draw(self.erased, self.ids(cell.prompts), cell.seed, vectors.detach())
            seen = self.world.read(drawn).objects
            shown[kind] = Share(seen.count(self.concept), len(seen))
        return Point(step, shown, self.held_out_loss(vectors.detach()))

    def cell(self, kind: str, pictures: int) -> Cell:
        """The judged prompts of one kind."""
        templates: tuple[str, ...] = getattr(self.templates, kind)
        return self.world.cell([("<v>", self.concept)], pictures, CELL_SEED, grammars=templates)
