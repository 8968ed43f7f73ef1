"""A model under attack: the loss that the attacker lowers, and the pictures that the judge reads.

The learned vectors stand for "<v>" in every prompt. The loss is that of textual inversion (Gal et
al. 2022, arXiv 2208.01618, equation 2): how well the UNet denoises the attack's pictures.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.attacks.curve import AttackCurve, Point, Restart
from bench.cells import DRAW_STEPS, GUIDANCE, Cell, World
from bench.erased import Erased
from bench.metrics import Share
from unlearn_core.errors import TrainingFailed
from unlearn_core.models.denoising import READ_TIMESTEPS, denoising_losses
from unlearn_core.models.lent_model import LentModel
from unlearn_core.models.noise import add_noise, draw_timesteps, training_target
from unlearn_core.models.sampling import draw_pictures, encode_pictures, paired_noise
from unlearn_core.text.tokenizer import VOCABULARY, token_ids

HELD_OUT_NOISE = 77
CELL_SEED = 9_000
"""The judged pictures' noise and styles; the attack's own seed doesn't move them."""
LAST_RATE = 0.1
"""Of the first rate, at the last step."""
RANDOM = "random"
"""As a start: vectors drawn with the mean and deviation of the words that the model knows."""


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

    def __init__(self, model: LentModel, negative: Tensor, empty: Tensor, guidance: float) -> None:
        """`negative` and `empty` are conditionings (1, 77, width)."""
        self._model, self._texts = model, (negative, empty)
        self._share = (guidance - 1) / guidance
        self.device, self.compute_dtype = model.device, model.compute_dtype
        self.prediction, self.alphas_cumprod = model.prediction, model.alphas_cumprod
        self.native_size, self.last_used_layer = model.native_size, model.last_used_layer
        self.text_encoder_weights = model.text_encoder_weights
        self.encode_image, self.decode_latents = model.encode_image, model.decode_latents

    def predict(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """See LentModel."""
        with torch.no_grad():
            negative, empty = (
                self._model.predict(latents, timesteps, one.expand(len(latents), -1, -1))
                for one in self._texts
            )
        return self._model.predict(latents, timesteps, text) - self._share * (negative - empty)


def attacked_model(erased: Erased) -> LentModel:
    """The model whose denoising loss the attacker lowers."""
    if not erased.negative:
        return erased.model
    with torch.no_grad():
        negative, empty = erased.encoder.encode(
            torch.cat([token_ids(erased.negative), token_ids("")])
        ).split(1)
    return NegativeKept(erased.model, negative, empty, GUIDANCE)


@torch.no_grad()
def draw(erased: Erased, ids: Tensor, seed: int, learned: Tensor | None = None) -> Tensor:
    """Pictures (N, 3, h, w) in [-1, 1] of prompts (N, 77); the n-th always has the same noise."""
    unique, place = ids.unique(dim=0, return_inverse=True)
    encoded = torch.cat([erased.encoder.encode(part, learned) for part in unique.split(64)])
    size = erased.model.native_size
    noise = torch.cat([paired_noise(seed, i, size, size) for i in range(len(ids))])
    without = erased.encoder.encode(token_ids(erased.negative))
    text = encoded[place.to(encoded.device)]
    return draw_pictures(erased.model, text, without, noise, DRAW_STEPS, GUIDANCE)


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

    def encode(self, ids: Tensor, vectors: Tensor) -> Tensor:
        """What the loss reads of prompts (N, 77) with the vectors in them, (N, 77, width)."""
        return self.erased.encoder.encode(ids, vectors)

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
        text = encoded.index_select(0, torch.tensor(places, device=encoded.device))
        latents, noised, t = torch.cat(clean), torch.cat(noise), torch.cat(times)
        noisy = add_noise(latents, noised, t, model.alphas_cumprod)
        wanted = training_target(latents, noised, t, model.alphas_cumprod, model.prediction)
        squared = (model.predict(noisy, t, text) - wanted).pow(2)
        return squared.view(len(generators), -1).mean(1)

    @torch.no_grad()
    def held_out_loss(self, vectors: Tensor) -> float:
        """Denoising loss of all pictures on noise that training never draws."""
        prompts = [self.templates.styled[0].format(style=style) for style in self.styles]
        text = self.erased.encoder.encode(self.ids(prompts), vectors)
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


Update = Callable[[Tensor, Tensor, int], None]
"""Changes the vectors in place, given their gradient and the number of steps done."""


@dataclass(frozen=True)
class Pace:
    """How long an attack runs, and where it is looked at."""

    steps: int
    recorded: tuple[int, ...]
    """Steps after which pictures are drawn; the last one is `steps`."""
    batch: int
    pictures: int
    """Drawn plain, and as many styled."""


class AttackSettings(Protocol):
    """What every attack by descent has."""

    @property
    def steps(self) -> int: ...
    @property
    def recorded(self) -> tuple[int, ...]: ...
    @property
    def batch(self) -> int: ...
    @property
    def pictures(self) -> int: ...


@dataclass
class Descent:
    """One restart of an attack."""

    vectors: Tensor
    """(n, width), changed in place."""
    update: Update
    generator: torch.Generator
    start: str
    kind: str


def descend(target: Target, runs: Sequence[Descent], pace: Pace) -> tuple[Restart, ...]:
    """Lower each run's loss by its own steps; all of them side by side.

    Raises TrainingFailed when a loss is not a number.
    """
    vectors = [run.vectors.requires_grad_(True) for run in runs]
    losses: list[list[float]] = [[] for _ in runs]
    points: list[list[Point]] = [[] for _ in runs]
    seconds = 0.0
    for step in range(pace.steps + 1):
        if step in pace.recorded:
            for run, seen in zip(runs, points, strict=True):
                seen.append(target.point(step, run.vectors, pace.pictures))
        if step == pace.steps:
            break
        began = time.monotonic()
        found = target.losses(vectors, pace.batch, [run.generator for run in runs])
        if not bool(found.isfinite().all()):
            raise TrainingFailed(f"The attack's loss is not a number at step {step + 1}.")
        gradients = torch.autograd.grad(found.sum(), vectors)
        with torch.no_grad():
            for run, gradient in zip(runs, gradients, strict=True):
                run.update(run.vectors, gradient, step)
        for own, loss in zip(losses, found.tolist(), strict=True):
            own.append(loss)
        seconds += time.monotonic() - began
    for run in runs:
        run.vectors = run.vectors.detach()
    return tuple(
        Restart(run.start, run.kind, tuple(seen), tuple(own), seconds / len(runs))
        for run, seen, own in zip(runs, points, losses, strict=True)
    )


def attacked(
    name: str, target: Target, runs: Sequence[Descent], settings: AttackSettings, seed: int
) -> AttackCurve:
    """All runs of an attack as its curve. Raises TrainingFailed."""
    began = time.monotonic()
    pace = Pace(settings.steps, settings.recorded, settings.batch, settings.pictures)
    restarts = descend(target, runs, pace)
    values, seconds = dataclasses.asdict(settings), time.monotonic() - began  # type: ignore[call-overload]
    return AttackCurve(name, target.concept, seed, values, restarts, seconds)


def adam(vectors: Tensor, rate: float, steps: int, longest: float = math.inf) -> Update:
    """Adam, its rate falling linearly to LAST_RATE; no vector gets longer than `longest`."""
    optimizer = torch.optim.Adam([vectors], lr=rate)

    def update(vectors: Tensor, gradient: Tensor, step: int) -> None:
        optimizer.param_groups[0]["lr"] = rate * (1 - (1 - LAST_RATE) * step / steps)
        vectors.grad = gradient
        optimizer.step()
        vectors.mul_((longest / vectors.norm(dim=1, keepdim=True)).clamp(max=1))

    return update


def random_vectors(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, width) drawn with the mean and deviation of the known rows of a word table."""
    known = table[table.any(dim=1)]
    noise = torch.randn(count, table.shape[1], generator=generator).to(table)
    return known.mean(0) + known.std(0) * noise


def word_size(table: Tensor) -> float:
    """Root mean square of an element of a word that the model knows."""
    return float(table[table.any(dim=1)].pow(2).mean().sqrt())
