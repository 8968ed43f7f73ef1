"""The private mode: a LoRA file that tells neither names nor prompts."""

from __future__ import annotations

import hashlib
import json

from unlearn_core.lora.weights import LoraWeights

NEUTRAL_STEM = "unlearned"
_WORDS = ("unlearn_concept", "unlearn_stand_in")
_LISTS = ("unlearn_synonyms", "unlearn_names", "unlearn_kept")
_DIGITS = 16


def hide_words(lora: LoraWeights) -> LoraWeights:
    """The same LoRA with a hash in the place of each word of its metadata.

    The base model's hash goes into it, so that the hashes of two models differ. Whoever guesses a
    word can still check the guess, as with the LoRA itself.
    """
    metadata = dict(lora.metadata)
    salt = metadata.get("unlearn_base_model_hash", "")
    for name in _WORDS:
        if name in metadata:
            metadata[name] = _hash(metadata[name], salt)
    for name in _LISTS:
        if name in metadata:
            metadata[name] = json.dumps([_hash(word, salt) for word in json.loads(metadata[name])])
    return LoraWeights(dict(lora.pairs), {**metadata, "unlearn_private": "True"})


def _hash(word: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}\n{word.casefold()}".encode()).hexdigest()[:_DIGITS]
