"""The CLIP tokenizer: prompts to chunks of 77 token ids, as the hosts cut them for SD2 (pad 0)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BadConcept, BadFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS = 49406
EOS = 49407
PAD = 0
CHUNK = 77
"""Positions in one chunk: BOS, up to 75 word pieces, EOS, padding."""
VOCABULARY = 49408
"""Rows of CLIP's own embedding table; ids from here on are rows of an extra table."""

PIECES = CHUNK - 2
"""The most word pieces that one chunk holds."""

ADDED_TOKENS = (
    f"Tokens beyond {VOCABULARY} were added by textual inversion. Use the model that they were "
    "added to, or cut them off: text_encoder.resize_token_embeddings"
    f"({VOCABULARY}), then save the model again"
)
_VOCABULARY_FOLDER = Path(__file__).parent / "clip_vocabulary"
_LONG_WORD = 8
"""A word of this many pieces is cut at a chunk's end; a shorter one moves to the next chunk."""
_CLIP_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_NO_PLACEHOLDERS: Mapping[str, Sequence[int]] = MappingProxyType({})


def tokenize(text: str) -> list[int]:
    """The word pieces of a text, each in 0..49407, without BOS, EOS and padding.

    Weights and brackets are ordinary characters here; see `strip_weights`. "!" is piece 256 as in
    ComfyUI and the WebUI; only diffusers takes it for padding (0) in SD2. Raises BadFile if the
    vocabulary that ships with this pack is missing.
    """
    # A lone half of a surrogate pair (from a broken JSON file, say) can't be UTF-8.
    clean = text.encode("utf-8", "replace").decode("utf-8")
    ids: list[int] = _tokenizer().encode(clean, add_special_tokens=False).ids
    return ids


def pieces_of(word: str) -> list[int]:
    """The word pieces of one word or name, as `tokenize` gives them."""
    return tokenize(word)


def token_ids(text: str, placeholders: Mapping[str, Sequence[int]] = _NO_PLACEHOLDERS) -> Tensor:
    """A prompt as (chunks, 77) int64, each row BOS, up to 75 pieces, EOS, then 0.

    A text of more than 75 pieces takes several chunks, cut as ComfyUI cuts them: a word (what
    stands between spaces) of fewer than 8 pieces is never divided. `placeholders` maps a word to
    the ids that stand for it, usually rows of an extra table (49408 and above); it is matched in
    its own case and only as a whole word: "<v>" in "a <v>, oil" but not in "a<v>b".

    Raises BadConcept for an empty placeholder.
    """
    rows = []
    for pieces in _fill_chunks(_words(text, placeholders)):
        padding = [PAD] * (PIECES - len(pieces))
        rows.append([BOS, *pieces, EOS, *padding])
    return torch.tensor(rows, dtype=torch.int64)


_WEIGHT_MARK = re.compile(r"\\[()\[\]]|[(\[]|:\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*\)|[)\]]")


def strip_weights(text: str) -> str:
    r"""A prompt without the hosts' emphasis: "(dog:1.4)", "((dog))" and "[dog]" become "dog".

    Escaped brackets become plain ones: "\(dog\)" is "(dog)". As in the hosts, a closing bracket
    that was never opened is text, and an opening one that is never closed vanishes.
    """
    kept: list[str] = []
    opened = {"(": 0, "[": 0}
    end = 0
    for mark in _WEIGHT_MARK.finditer(text):
        kept.append(text[end : mark.start()])
        end = mark.end()
        found = mark.group()
        if found.startswith("\\"):
            kept.append(found[1:])
        elif found in opened:
            opened[found] += 1
        else:
            opening = "[" if found == "]" else "("
            if opened[opening]:
                opened[opening] -= 1
            else:
                kept.append(found)
    kept.append(text[end:])
    return "".join(kept)


def _words(text: str, placeholders: Mapping[str, Sequence[int]]) -> Iterator[list[int]]:
    """The pieces of each word of a text, one list a word, one for each placeholder."""
    for index, part in enumerate(_split_at_placeholders(text, placeholders)):
        if index % 2:
            yield [int(number) for number in placeholders[part]]
        else:
            for word in part.replace("\n", " ").split(" "):
                yield tokenize(word)


def _split_at_placeholders(text: str, placeholders: Mapping[str, Sequence[int]]) -> list[str]:
    """Text, placeholder, text, placeholder, ..., text."""
    if not placeholders:
        return [text]
    if not all(name.strip() for name in placeholders):
        raise BadConcept("A placeholder is empty: name a word for it, for example <v>.")
    longest_first = sorted(placeholders, key=len, reverse=True)
    names = "|".join(re.escape(name) for name in longest_first)
    return re.split(rf"(?<!\w)({names})(?!\w)", text)


def _fill_chunks(words: Iterable[list[int]]) -> list[list[int]]:
    chunks: list[list[int]] = [[]]
    for word in words:
        left = word
        if len(left) > PIECES - len(chunks[-1]) and len(left) < _LONG_WORD:
            chunks.append([])
        while left:
            room = PIECES - len(chunks[-1])
            if not room:
                chunks.append([])
                continue
            chunks[-1] += left[:room]
            left = left[room:]
    return chunks


@cache
def _tokenizer() -> Tokenizer:
    # Imported late: a host loads this pack without paying for it.
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    vocabulary, merges = _read_vocabulary(_VOCABULARY_FOLDER)
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token="<|endoftext|>",
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False) for name in ("<|startoftext|>", "<|endoftext|>")]
    )
    return tokenizer


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    try:
        vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise BadFile(
            f"The CLIP vocabulary in {folder} can't be read ({error}): install this pack again."
        ) from error
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    pairs = [(merge[0], merge[1]) for merge in merges if len(merge) == 2]
    if len(vocabulary) != VOCABULARY or len(pairs) != len(merges):
        raise BadFile(
            f"The CLIP vocabulary in {folder} is damaged: it has {len(vocabulary)} pieces, not "
            f"{VOCABULARY}. Install this pack again."
        )
    return vocabulary, pairs
