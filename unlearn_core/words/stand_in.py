"""Choosing what takes the concept's place and which near words are kept first.

Candidates are words that the model knows, ranked by the mean-removed cosine of their states at
EOS to the concept's. A near word keeps the neighbours still; a synonym or a more general word
would go on drawing the concept, so those are dropped, and a candidate is taken only if the model
draws something of its own for it, and not the concept.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from ..concept import Concept
from ..errors import BadConcept
from ..models.denoising import READ_TIMESTEPS, denoising_losses
from ..models.lent_model import LentModel
from ..models.sampling import denoise, paired_noise
from ..progress import RunMonitor, stop_if_asked
from ..settings import UnlearnSettings
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..text.word_tables import find_noun, noun_of_head
from .neighbours import Neighbourhood, are_siblings, by_nearness
from .prompt_writer import plain_template
from .prompts import Name, fill, make_prompts, whole_prompts
from .stand_in_candidates import candidates

logger = logging.getLogger(__name__)

TRIED = 6
"""Candidates that are drawn before the one that draws the concept least is taken."""
SHOWN = 0.3
"""How near the loss of a word's picture as the concept must be to its loss as the word, where that
as nothing is at 1, for the picture to show the concept. On the demo models synonyms lie below 0.1,
other things above 0.5 (a tomato as an apple)."""
OWN = 0.4
"""What a word must explain of its own pictures, as a share of what the concept explains of its. On
the demo models things that were taught have 0.6 and more, words that only occur in descriptions
mostly 0.35 and less ("fruit salad" for an apple)."""
OWN_OF_STRANGERS = 0.85
"""The same where no word of the concept's group is known. There taught things have 1.0 and more of
what a dog has; "meadow", "farm" and "paper", which occur in descriptions, mostly 0.65 to 0.82."""
SECONDS_ON_CPU = 1_000_000
"""Numbers that a UNet holds for one picture, see UnetSizes.drawing, up to which a CPU draws in
seconds: the demo models hold 90,000, Stable Diffusion 1 31 million."""
DRAW_STEPS = 10
DRAW_GUIDANCE = 5.0


@dataclass(frozen=True)
class StandIn:
    """What takes the concept's place, and why: the literature's anchor concept."""

    word: str
    chosen_by: str
    """"you", or "nearness" of its states."""
    cosine: float
    """Nearness to the concept at EOS, mean removed, -1 to 1."""
    drawn: int = 0
    """Pictures drawn for it to see whether they show the concept; 0: not tested."""
    drawn_as_concept: int = 0
    """How many of them did, read by the denoising loss: the floor of what can be forgotten."""


@dataclass(frozen=True)
class Drawings:
    """What the UNet reads in the pictures that it drew for a word."""

    as_concept: int
    """Pictures that show the concept."""
    explained: float
    """Share of the denoising loss that the word takes away: 0 where it says nothing to the UNet."""


def pictures_to_draw(settings: UnlearnSettings, model: LentModel) -> int:
    """How many test a stand-in; where settings can do without the UNet, none that take minutes."""
    return settings.stand_in_pictures if settings.needs_unet or draws_in_seconds(model) else 0


def draws_in_seconds(model: LentModel) -> bool:
    """Whether a few pictures take seconds rather than minutes: on CUDA, or of a small model."""
    if model.unet_sizes is None:
        return False
    edge = model.native_size // 8
    is_small = model.unet_sizes.drawing(edge, edge) <= SECONDS_ON_CPU
    return is_small or model.device.type == "cuda"


def choose_stand_in(
    encoder: TextEncoder,
    concept: Concept,
    around: Neighbourhood,
    model: LentModel | None,
    pictures: int,
    seed: int,
    monitor: RunMonitor,
) -> StandIn:
    """The user's stand-in, or the best candidate; with a model it is drawn `pictures` times.

    Raises BadConcept for a stand-in that the model has no vectors for, and when no candidate is
    left.
    """
    if concept.stand_in is not None:
        if not encoder.knows(concept.stand_in):
            raise BadConcept(
                f"The model has no word vector for the stand-in {concept.stand_in!r}. Choose a "
                f"word that it draws, such as {', '.join(around.nearest(3)) or 'a common noun'}."
            )
        cosine = dict(by_nearness(encoder, concept, [concept.stand_in]))[concept.stand_in]
        if model is None or pictures == 0:
            return StandIn(concept.stand_in, "you", cosine)
        drawn = read_drawings(encoder, concept, concept.stand_in, model, pictures, seed)
        return StandIn(concept.stand_in, "you", cosine, pictures, drawn.as_concept)
    possible = candidates(concept, around)
    if not possible:
        raise BadConcept(
            f"No word was found to take the place of {concept.name!r}; name a stand-in yourself."
        )
    tries = possible[:TRIED]
    if model is None or pictures == 0:
        return StandIn(tries[0][0], "nearness", tries[0][1])
    own = read_drawings(encoder, concept, concept.name, model, pictures, seed).explained
    noun, words = noun_of_head(concept.name), [find_noun(word) for word, _ in tries]
    strangers = concept.kind != "style" and not any(are_siblings(noun, word) for word in words)
    least = own * (OWN_OF_STRANGERS if strangers else OWN)
    tried: list[tuple[bool, bool, int, float, int, StandIn]] = []
    for word, cosine in tries:
        stop_if_asked(monitor)
        drawn = read_drawings(encoder, concept, word, model, pictures, seed)
        choice = StandIn(word, "nearness", cosine, pictures, drawn.as_concept)
        is_vague = drawn.explained < least
        if not is_vague and drawn.as_concept == 0:
            return choice
        logger.info(
            "%s draws the concept %d of %d times and explains %.2f of its pictures, the concept "
            "%.2f", word, drawn.as_concept, pictures, drawn.explained, own,
        )  # fmt: skip
        is_concept = 2 * drawn.as_concept >= pictures
        worse = (is_concept, is_vague, drawn.as_concept, -drawn.explained)
        tried.append((*worse, len(tried), choice))
    return min(tried)[-1]


@torch.no_grad()
def read_drawings(
    encoder: TextEncoder, concept: Concept, word: str, model: LentModel, pictures: int, seed: int
) -> Drawings:
    """Draw `pictures` for `word`, and compare how they denoise as the word, the concept, nothing.

    A diffusion classifier (Li et al. 2023, arXiv 2303.16203, equation 5). The word has an advantage
    in its own pictures, so the concept need not win: see SHOWN.
    """
    size = model.native_size
    empty, as_word, as_concept = _conditionings(encoder, concept, word)
    noise = torch.cat([paired_noise(seed, i, size, size) for i in range(pictures)])
    latents = denoise(model, as_word.expand(pictures), empty, noise, DRAW_STEPS, DRAW_GUIDANCE)
    word_loss, concept_loss, empty_loss = (
        denoising_losses(model, latents, text.expand(pictures), READ_TIMESTEPS, seed)
        for text in (as_word, as_concept, empty)
    )
    gain = empty_loss - word_loss
    shown = concept_loss < word_loss + SHOWN * gain.clamp(min=0)
    return Drawings(int(shown.sum()), float((gain / empty_loss).mean()))


def _conditionings(encoder: TextEncoder, concept: Concept, word: str) -> list[Conditioning]:
    template = plain_template(concept)
    rows = [fill(template, Name.of(text, concept.kind)) for text in (word, concept.name)]
    ids = torch.cat([whole_prompts([""]).token_ids, make_prompts(rows).token_ids])
    encoded = encoder.condition(ids)
    return [encoded[row : row + 1] for row in range(len(encoded))]
