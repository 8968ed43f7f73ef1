"""Textual inversion: the word vectors that mean what a few pictures show.

Gal et al. 2022, arXiv 2208.01618, equation 2: the vectors that minimise the denoising loss of the
pictures, everything else frozen. They start at the concept's own word and are another name of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import TrainingFailed
from ..models.denoising import READ_TIMESTEPS, denoising_losses, draw_batch, prediction_error
from ..models.lent_model import LentModel
from ..models.sampling import denoise, encode_pictures, paired_noise
from ..progress import LEARNING, RunMonitor, StepReports, stop_if_asked
from ..settings import UnlearnSettings
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..text.tokenizer import VOCABULARY, tokenize
from ..words.prompt_templates import BARE_STYLE, PLAIN_OBJECT
from ..words.prompts import Name, fill, make_prompts
from .preview import preview_picture

STYLED = ("{it}, {style} style", "a photo of {it}, {style} style")
"""Captions that name a picture's style."""
TEST_PICTURES = 12
TEST_STEPS = 10
TEST_GUIDANCE = 5.0
ACCEPTED_SHARE = 0.5
"""A vector is accepted if, on pictures that the concept's word draws in other styles, it explains
at least this share of what the word explains beyond the empty prompt."""


@dataclass(frozen=True)
class LearnedVectors:
    """Word vectors learned from pictures."""

    vectors: Tensor
    """(n, width) float32 on the CPU; those of several towers, `widths` wide, side by side."""
    losses: tuple[float, ...]
    """The denoising loss of every step."""
    explained: float
    """Share of the word's own meaning that they carry in other styles; 1 is as good as the word."""
    widths: tuple[int, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether they draw the concept beyond the pictures' own style."""
        return self.explained >= ACCEPTED_SHARE

    def name(self, concept: Concept) -> Name:
        """The vectors as one more name of the concept, ids from 49408 on."""
        ids = tuple(range(VOCABULARY, VOCABULARY + len(self.vectors)))
        return Name(
            "<learned>", ids, takes_article=Name.of(concept.name, concept.kind).takes_article
        )


def invert(
    model: LentModel,
    encoder: TextEncoder,
    concept: Concept,
    settings: UnlearnSettings,
    styles: Sequence[str],
    monitor: RunMonitor,
    latents: Tensor | None = None,
    unet_rows: int | None = None,
) -> LearnedVectors:
    """Learn a word vector from the concept's pictures.

    Each picture is captioned with that of `styles` which denoises it best, so that the vectors
    need not carry the style. `latents` are the pictures', if they are known already; `unet_rows`
    pictures go through the UNet together, None: a whole batch. Raises Cancelled, and TrainingFailed
    when the loss is not a number.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    if latents is None:
        latents = encode_pictures(model, concept.images)
    own_styles = _best_styles(model, encoder, concept, latents, styles, settings.seed)
    start = starting_vectors(encoder, concept.name, 1)
    parts = [part.clone().to(encoder.device) for part in encoder.split(start)]
    optimizer = _adam(parts, settings.inversion_learning_rate)
    name = LearnedVectors(start, (), 0.0).name(concept)
    captions = Captions.of(concept, name, styles, own_styles)
    reports = StepReports(monitor, LEARNING, settings.inversion_steps)
    losses: list[float] = []
    batch = settings.inversion_batch
    for step in range(settings.inversion_steps):
        stop_if_asked(monitor)
        chosen, noised = draw_batch(model, latents, batch, generator)
        text = captions.encode(encoder, chosen, torch.cat(parts, -1), generator)
        loss = prediction_error(
            model, noised.noisy, noised.timesteps, text, noised.targets, unet_rows or batch
        )
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingFailed(
                f"The inversion loss is {losses[-1]} at step {step + 1}; lower the inversion "
                "learning rate."
            )
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - 0.9 * step / settings.inversion_steps)
        optimizer.step()
        reports.one_more(
            losses[-1],
            lambda: preview_picture(
                model, encoder, captions.token_ids[0], settings.seed, torch.cat(parts, -1).detach()
            ),
        )
    learned = torch.cat(parts, -1).detach()
    explained = _explained(model, encoder, concept, learned, name, styles, settings.seed)
    return LearnedVectors(learned.cpu(), tuple(losses), explained, encoder.widths)


def _adam(parts: Sequence[Tensor], rate: float) -> torch.optim.Adam:
    """Over each tower's vectors, which get a gradient; `rate` is relative to their size."""
    groups: list[dict[str, Any]] = []
    for part in parts:
        own = rate * float(part.pow(2).mean().sqrt())
        groups.append({"params": [part.requires_grad_(True)], "lr": own, "initial_lr": own})
    return torch.optim.Adam(groups)


@dataclass(frozen=True)
class Captions:
    """Prompts with the vectors in them: a picture takes those of its own style or of none."""

    token_ids: Tensor
    """(N, 77) int64."""
    styles: tuple[str | None, ...]
    """What each prompt names."""
    own_styles: Sequence[str | None]
    """Each picture's."""

    @classmethod
    def of(
        cls, concept: Concept, name: Name, styles: Sequence[str], own_styles: Sequence[str | None]
    ) -> Captions:
        """Prompts in each of `styles`, and in none; a style is captioned without others."""
        if concept.kind == "style":
            styles = ()
        templates: list[tuple[str, str | None]] = [(text, None) for text in _plain(concept)]
        templates += [
            (text.replace("{style}", style), style) for style in styles for text in STYLED
        ]
        ids = make_prompts([fill(template, name) for template, _ in templates]).token_ids
        return cls(ids, tuple(style for _, style in templates), own_styles)

    def encode(
        self, encoder: TextEncoder, pictures: Tensor, vectors: Tensor, generator: torch.Generator
    ) -> Conditioning:
        """A caption drawn for each of the pictures (B,)."""
        usable = [
            [i for i, style in enumerate(self.styles) if style in (None, self.own_styles[int(k)])]
            for k in pictures
        ]
        drawn = [u[int(torch.randint(len(u), (), generator=generator))] for u in usable]
        unique = sorted(set(drawn))
        encoded = encoder.condition(self.token_ids[unique], vectors)
        place = torch.tensor([unique.index(i) for i in drawn], device=encoded.tokens.device)
        return encoded.map(lambda tensor: tensor.index_select(0, place))


def _plain(concept: Concept) -> tuple[str, ...]:
    return BARE_STYLE if concept.kind == "style" else PLAIN_OBJECT


def starting_vectors(encoder: TextEncoder, name: str, count: int) -> Tensor:
    """(count, width): the vectors of the name's tokens, the last one repeated.

    Where the model knows none of them, the most typical known word's vector.
    """
    ids = tokenize(name)[:count]
    ids += [ids[-1]] * (count - len(ids))
    vectors = encoder.word_vectors(ids)
    if not bool(vectors.any()):
        table = encoder.towers[0].words.weight.detach()
        known = table.any(dim=1).nonzero().flatten()
        rows = table[known]
        typical = (rows - rows.mean(0)).norm(dim=1).argmin()
        vectors[:] = encoder.word_vectors([int(known[typical])])
    return vectors


@torch.no_grad()
def _best_styles(
    model: LentModel,
    encoder: TextEncoder,
    concept: Concept,
    latents: Tensor,
    styles: Sequence[str],
    seed: int,
) -> list[str | None]:
    """For each picture the style word that denoises it best; none when a style is forgotten."""
    if concept.kind == "style" or not styles:
        return [None] * len(latents)
    name = Name.of(concept.name, concept.kind)
    templates = [STYLED[0].replace("{style}", style) for style in styles]
    ids = make_prompts([fill(template, name) for template in templates]).token_ids
    encoded = encoder.condition(ids)
    losses = torch.stack(
        [
            denoising_losses(model, latents, text.expand(len(latents)), READ_TIMESTEPS, seed)
            for text in (encoded[row : row + 1] for row in range(len(encoded)))
        ]
    )
    return [styles[i] for i in losses.argmin(0).tolist()]


@torch.no_grad()
def _explained(
    model: LentModel,
    encoder: TextEncoder,
    concept: Concept,
    vectors: Tensor,
    name: Name,
    styles: Sequence[str],
    seed: int,
) -> float:
    """(L("") - L(vectors)) / (L("") - L(word)) on pictures that the word draws in each style."""
    word = Name.of(concept.name, concept.kind)
    templates = _plain(concept)
    if concept.kind != "style" and styles:
        templates = tuple(STYLED[0].replace("{style}", style) for style in styles)
    chosen = [templates[i % len(templates)] for i in range(TEST_PICTURES)]

    def ids(named: Name) -> Tensor:
        return make_prompts([fill(template, named) for template in chosen]).token_ids

    with_word, with_vectors = encoder.condition(ids(word)), encoder.condition(ids(name), vectors)
    # The empty name leaves the style in the prompt, so that only the concept is compared.
    without = encoder.condition(ids(Name("", (), False)))
    size = model.native_size
    noise = torch.cat([paired_noise(seed, i, size, size) for i in range(TEST_PICTURES)])
    latents = denoise(model, with_word, without[:1], noise, TEST_STEPS, TEST_GUIDANCE)
    word_loss, vector_loss, empty_loss = (
        float(denoising_losses(model, latents, text, READ_TIMESTEPS, seed).mean())
        for text in (with_word, with_vectors, without)
    )
    gain = empty_loss - word_loss
    return (empty_loss - vector_loss) / gain if gain > 0 else 0.0
