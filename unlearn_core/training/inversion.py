"""Textual inversion: the word vectors that mean what a few pictures show.

Gal et al. 2022, arXiv 2208.01618, equation 2: the vectors that minimise the denoising loss of the
pictures, everything else frozen. They start at the concept's own word and are another name of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import TrainingFailed
from ..models.denoising import denoising_losses, prediction_error
from ..models.lent_model import LentModel
from ..models.noise import add_noise, draw_timesteps, training_target
from ..models.sampling import denoise, encode_pictures, paired_noise
from ..progress import Progress, RunMonitor, preview_is_due, stop_if_asked
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from ..text.tokenizer import VOCABULARY, tokenize
from ..words.prompts import Name, fill, make_prompts
from .preview import preview_picture

OBJECT_TEMPLATES = ("a photo of {it}", "a picture of {it}", "an image of {it}", "{it}")
STYLE_TEMPLATES = ("a photo in {it} style", "a picture, {it} style", "{it} style", "{it}")
STYLED = ("{it}, {style} style", "a photo of {it}, {style} style")
TEST_PICTURES = 12
TEST_STEPS = 10
TEST_GUIDANCE = 5.0
TEST_TIMESTEPS = (200, 350, 500, 650, 800)
ACCEPTED_SHARE = 0.5
"""A vector is accepted if, on pictures that the concept's word draws in other styles, it explains
at least this share of what the word explains beyond the empty prompt."""


@dataclass(frozen=True)
class LearnedVectors:
    """Word vectors learned from pictures."""

    vectors: Tensor
    """(n, width) float32 on the CPU."""
    losses: tuple[float, ...]
    """The denoising loss of every step."""
    explained: float
    """Share of the word's own meaning that they carry in other styles; 1 is as good as the word."""

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
    captions = _best_styles(model, encoder, concept, latents, styles, settings.seed)
    start = starting_vector(encoder, concept.name)
    vectors = start.clone().to(encoder.device).requires_grad_(True)
    rate = settings.inversion_learning_rate * float(start.pow(2).mean().sqrt())
    optimizer = torch.optim.Adam([vectors], lr=rate)
    name = LearnedVectors(start, (), 0.0).name(concept)
    rows, row_style = _prompt_rows(concept, name, styles)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(settings.inversion_steps):
        stop_if_asked(monitor)
        batch = settings.inversion_batch
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[chosen.to(latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = draw_timesteps(batch, generator).to(clean.device)
        usable = [
            [i for i, style in enumerate(row_style) if style in (None, captions[int(k)])]
            for k in chosen
        ]
        pick = [u[int(torch.randint(len(u), (), generator=generator))] for u in usable]
        unique = sorted(set(pick))
        encoded = encoder.encode(rows[unique], vectors)
        place = torch.tensor([unique.index(i) for i in pick], device=encoded.device)
        text = encoded.index_select(0, place)
        noisy = add_noise(clean, noise, t, model.alphas_cumprod)
        target = training_target(clean, noise, t, model.alphas_cumprod, model.prediction)
        loss = prediction_error(model, noisy, t, text, target, unet_rows or batch)
        if not bool(loss.isfinite()):
            raise TrainingFailed(
                f"The inversion loss is {float(loss.detach())} at step {step + 1}; lower the "
                "inversion learning rate."
            )
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - 0.9 * step / settings.inversion_steps)
        optimizer.step()
        losses.append(float(loss.detach()))
        per_step = (time.monotonic() - started) / (step + 1)
        show = preview_is_due(monitor, step + 1, settings.inversion_steps)
        monitor.report(
            Progress(
                "learning the concept",
                step + 1,
                settings.inversion_steps,
                losses[-1],
                per_step * (settings.inversion_steps - step - 1),
                preview_picture(model, encoder, rows[0], settings.seed, vectors) if show else None,
            )
        )
    learned = vectors.detach()
    explained = _explained(model, encoder, concept, learned, name, styles, settings.seed)
    return LearnedVectors(learned.cpu(), tuple(losses), explained)


def starting_vector(encoder: TextEncoder, name: str) -> Tensor:
    """(1, width): the vector of the name's first token.

    Where the model does not know it, the most typical known word's vector.
    """
    vectors = encoder.words.vectors(tokenize(name)[:1])
    if not bool(vectors.any()):
        table = encoder.words.weight.detach()
        known = table[table.any(dim=1)]
        typical = (known - known.mean(0)).norm(dim=1).argmin()
        vectors[:] = known[typical]
    return vectors


def _prompt_rows(
    concept: Concept, name: Name, styles: Sequence[str]
) -> tuple[Tensor, list[str | None]]:
    """Prompts with the vectors in them, (N, 77), and the style that each names."""
    is_style = concept.kind == "style"
    templates: list[tuple[str, str | None]] = [
        (template, None) for template in (STYLE_TEMPLATES if is_style else OBJECT_TEMPLATES)
    ]
    if not is_style:
        templates += [(t.replace("{style}", style), style) for style in styles for t in STYLED]
    ids = make_prompts([fill(template, name) for template, _ in templates]).token_ids
    return ids, [style for _, style in templates]


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
    ids = make_prompts([fill(f"{{it}}, {style} style", name) for style in styles]).token_ids
    losses = torch.stack(
        [
            denoising_losses(
                model, latents, text.expand(len(latents), -1, -1), TEST_TIMESTEPS, seed
            )
            for text in encoder.encode(ids).split(1)
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
    if concept.kind == "style":
        templates = list(STYLE_TEMPLATES)
    else:
        templates = [f"{{it}}, {style} style" for style in styles] or list(OBJECT_TEMPLATES)
    chosen = [templates[i % len(templates)] for i in range(TEST_PICTURES)]
    with_word = encoder.encode(make_prompts([fill(t, word) for t in chosen]).token_ids)
    with_vectors = encoder.encode(make_prompts([fill(t, name) for t in chosen]).token_ids, vectors)
    # The empty name leaves the style in the prompt, so that only the concept is compared.
    without = encoder.encode(make_prompts([fill(t, Name("", (), False)) for t in chosen]).token_ids)
    size = model.native_size
    noise = torch.cat([paired_noise(seed, i, size, size) for i in range(TEST_PICTURES)])
    latents = denoise(model, with_word, without[:1], noise, TEST_STEPS, TEST_GUIDANCE)
    word_loss, vector_loss, empty_loss = (
        float(denoising_losses(model, latents, text, TEST_TIMESTEPS, seed).mean())
        for text in (with_word, with_vectors, without)
    )
    gain = empty_loss - word_loss
    return (empty_loss - vector_loss) / gain if gain > 0 else 0.0
