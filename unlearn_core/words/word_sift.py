"""Nouns that may name some pictures, chosen from thousands by their general words.

"animal", "fruit" and "vehicle" are few; the nouns under those that explain the pictures best are
worth comparing one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..concept import Kind, Nameless
from ..models.denoising import NoisedPictures
from ..models.lent_model import LentModel
from ..progress import RunMonitor
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..text.word_tables import nouns
from .prompt_writer import plain_template
from .prompts import Name, fill, make_prompts, whole_prompts

SIFTED = 128
"""Nouns that are left."""
COPIES = 2
"""Noised copies of each picture on which the general words are compared."""


def encode_words(
    encoder: TextEncoder, words: Sequence[str], kind: Kind, monitor: RunMonitor | None = None
) -> Conditioning:
    """The empty prompt, then the plain prompt of each word."""
    template = plain_template(Nameless(kind=kind))
    prompts = make_prompts([fill(template, Name.of(word, kind)) for word in words])
    ids = torch.cat([whole_prompts([""]).token_ids, prompts.token_ids])
    return encoder.condition_all(ids, monitor)


def sift_words(
    model: LentModel,
    encoder: TextEncoder,
    latents: Tensor,
    words: Sequence[str],
    generator: torch.Generator,
    monitor: RunMonitor,
) -> tuple[list[str], int]:
    """The SIFTED nouns whose best general word explains the latents (N, 4, h, w) best.

    A noun that is itself a general word of others counts as one of its own. Returned with how many
    samples went through the UNet. Raises Cancelled.
    """
    above = {word: (word, *nouns()[word].hypernyms) for word in words}
    general = sorted({h for w in words for h in nouns()[w].hypernyms if encoder.knows(h)})
    texts = encode_words(encoder, general, "object", monitor)
    losses = NoisedPictures.draw(model, latents, COPIES, generator).losses(model, texts)
    means: list[float] = losses.mean(1).tolist()
    empty, loss_of = means[0], dict(zip(general, means[1:], strict=True))

    def best(word: str) -> float:
        return float(min((loss_of[h] for h in above[word] if h in loss_of), default=empty))

    return sorted(words, key=best)[:SIFTED], losses.numel()
