"""The model's own word for what some pictures show, for users who give no name.

The words of the tables that the model knows are compared by how well they denoise the pictures.
Where they are many, their general words are compared first, see `word_sift`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Concept, Kind, Nameless
from ..errors import BadConcept
from ..models.denoising import Comparison, NoisedPictures, compare
from ..models.lent_model import LentModel, Stoppable
from ..models.sampling import encode_pictures
from ..progress import RunMonitor
from ..text.text_encoder import TextEncoder
from ..text.word_tables import find_noun, find_style, nouns, same_thing, styles
from .word_sift import encode_words, sift_words

MOST_PICTURES = 8
"""Pictures that are read; more are spread evenly over those given."""
MOST_WORDS = 200
"""Words that are compared as they are; more are sifted first."""
SURE = 3.0
"""Standard errors by which one word must be better than another to be called clearly better."""
LEAST_GAIN = 0.02
"""What a word must explain that is not clearly better than others. The demo model's words explain
3 % and more of what it knows, about 1 % of what it never saw (`python -m bench trial found_words`).
"""
NAME_COPIES = 8
"""Noised copies of each picture on which a given name is compared with no name."""
SYNONYM_SHARE = 0.5
"""A synonym that explains this share of what the best word does is one that the model knows too."""


@dataclass(frozen=True)
class FoundWord:
    """A word, and how well it explains the pictures."""

    word: str
    gain: float
    """(L("") - L(word)) / L(""), L the denoising loss: 0 is no better than no word."""


@dataclass(frozen=True)
class FoundWords:
    """The model's words for some pictures."""

    words: tuple[FoundWord, ...]
    """Best first; the first one is the name."""
    synonyms: tuple[str, ...]
    """Other names of the first one that the model draws the same for."""
    is_clear: bool
    """Whether the first one is clearly better than the next that is another thing."""
    samples: int
    """How many noised pictures went through the UNet to compare the words."""

    @property
    def name(self) -> str:
        """The best word."""
        return self.words[0].word

    def notes(self) -> Iterator[str]:
        """What the user should know of the name."""
        if not self.is_clear:
            runner_up = next(f.word for f in self.words if not same_thing(f.word, self.name))
            yield (
                f"The pictures fit {self.name!r} hardly better than {runner_up!r}; if it is not "
                "what they show, write the name."
            )

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return dataclasses.asdict(self)

    def in_words(self) -> str:
        """On one line: each word that explains something, with its gain."""
        sure = ", clear" if self.is_clear else ", not clear"
        shown = [found for found in self.words if found.gain > 0]
        return ", ".join(
            f"{found.word} ({found.gain:.1%}{sure if found is shown[0] else ''})" for found in shown
        )


def name_concept(
    model: LentModel,
    encoder: TextEncoder,
    nameless: Nameless,
    seed: int,
    monitor: RunMonitor,
) -> tuple[Concept, FoundWords]:
    """The concept under the model's own word for its pictures, with the synonyms found.

    Words that are kept or stand in are not considered. Raises as `find_words`.
    """
    taken = (*nameless.keep, *((nameless.stand_in,) if nameless.stand_in else ()))
    found = find_words(model, encoder, nameless.images, nameless.kind, seed, monitor, without=taken)
    return nameless.named(found.name, found.synonyms), found


def read_name(
    model: LentModel, encoder: TextEncoder, concept: Concept, latents: Tensor, seed: int
) -> float | None:
    """How surely the concept's name explains its pictures; None if the model does not know it.

    In standard errors by which it denoises them better with the name than with none: from SURE on
    the name explains them, below 0 it is doubted. `latents` (N, 4, h, w) are the pictures'. It
    costs two times NAME_COPIES samples a picture.
    """
    if not encoder.knows(concept.name):
        return None
    generator = torch.Generator().manual_seed(seed)
    some = torch.stack(_spread(latents.unbind()))
    noised = NoisedPictures.draw(model, some, NAME_COPIES, generator)
    empty, named = noised.losses(model, encode_words(encoder, [concept.name], concept.kind))
    return _sureness(named, empty)


def doubt_of(concept: Concept) -> str:
    """What to tell the user of a name that its pictures do not fit."""
    return (
        f"To the model the pictures do not look like {concept.name!r}: with this name it reads "
        "them no better than with none. If they show something else, leave the name out, and the "
        "model's own word for them is found."
    )


def find_words(
    model: LentModel,
    encoder: TextEncoder,
    images: Sequence[Tensor],
    kind: Kind,
    seed: int,
    monitor: RunMonitor,
    without: Sequence[str] = (),
) -> FoundWords:
    """The nouns (for the kind style: styles) that explain the pictures best.

    images are (3, h, w) float32 in [-1, 1]; `without` are words that name something else. Raises
    BadConcept when there are no pictures, when the kind is person (no table names people), and when
    no word explains the pictures; TrainingFailed; Cancelled.
    """
    _check(images, kind)
    model = Stoppable(model, monitor)
    generator = torch.Generator().manual_seed(seed)
    shown = _spread(images)
    latents = encode_pictures(model, shown)
    table = styles() if kind == "style" else nouns()
    words = [
        word
        for word in table
        if encoder.knows(word) and not any(same_thing(word, other) for other in without)
    ]
    samples = 0
    if len(words) > MOST_WORDS and kind != "style":
        words, samples = sift_words(model, encoder, latents, words, generator, monitor)
    if not words:
        raise BadConcept("The model knows none of the words that could name the pictures: give it.")
    texts = encode_words(encoder, words, kind, monitor)
    compared = compare(model, latents, texts[1:], texts[:1], generator, monitor)
    ranked = [words[i] for i in compared.order]
    return _judge(model, encoder, kind, ranked, compared, samples, monitor)


def _check(images: Sequence[Tensor], kind: Kind) -> None:
    if not images:
        raise BadConcept(
            "The concept has no name and no pictures: write what prompts call it, such as dog, or "
            "give 4 or 5 pictures, in which the model's own word is found."
        )
    if kind == "person":
        raise BadConcept(
            "A person's name can't be found in pictures, since no list of words holds people's "
            "names: write what prompts call this person."
        )


def _spread(images: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """At most MOST_PICTURES, from all over the list."""
    count = min(len(images), MOST_PICTURES)
    return tuple(images[i * len(images) // count] for i in range(count))


def _judge(
    model: LentModel,
    encoder: TextEncoder,
    kind: Kind,
    ranked: Sequence[str],
    compared: Comparison,
    sifting: int,
    monitor: RunMonitor,
) -> FoundWords:
    """What was found, or BadConcept when even the best word does not explain the pictures."""
    best, empty = compared.losses[0], compared.empty
    gains = [float(1 - losses.mean() / empty.mean()) for losses in compared.losses]
    name = ranked[0]
    others = [i for i, word in enumerate(ranked) if not same_thing(word, name)]
    is_clear = all(_sureness(best, compared.losses[i]) >= SURE for i in others)
    explains = _sureness(best, empty) >= SURE and (is_clear or gains[0] >= LEAST_GAIN)
    if not explains:
        raise BadConcept(
            f"No word that the model knows explains the pictures: with the best one, {name!r}, it "
            f"reads them {max(gains[0], 0):.1%} better than with none. Write what prompts call the "
            "concept."
        )
    again = _synonyms(encoder, name, kind)
    synonyms: list[str] = []
    samples = sifting + compared.samples
    if again:
        texts = encode_words(encoder, again, kind, monitor)[1:]
        losses = torch.cat([n.losses(model, texts) for n in compared.noised], dim=1)
        samples += losses.numel()
        enough = empty.mean() - SYNONYM_SHARE * (empty.mean() - best.mean())
        synonyms = [word for word, own in zip(again, losses, strict=True) if own.mean() <= enough]
    return FoundWords(
        tuple(FoundWord(word, gain) for word, gain in zip(ranked, gains, strict=True)),
        tuple(synonyms),
        is_clear,
        samples,
    )


def _sureness(better: Tensor, worse: Tensor) -> float:
    """By how many standard errors `better` has lower losses than `worse`, both (P,), paired."""
    gap = (worse - better).double()
    return float(gap.mean() / (gap.std() / len(gap) ** 0.5).clamp_min(1e-12))


def _synonyms(encoder: TextEncoder, name: str, kind: Kind) -> list[str]:
    """Other names of the same thing that the model knows; none that holds the name itself."""
    entry = find_style(name) if kind == "style" else find_noun(name)
    words = entry.synonyms if entry else ()
    own = name.split()
    return [word for word in words if encoder.knows(word) and not set(own) <= set(word.split())]
