"""The alpha of a LoRA whose file holds none: from peft's config, inside the file or beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadFile
from ..files.input_files import is_file, read_json
from .keys import ModuleKey

_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the configs of all parts, each value under "PART.name"."""
_PART = "text_encoder."
_CONFIG_FILE = "adapter_config.json"
_PEFT_PREFIX = "base_model.model."
"""Before every name in a file of peft's save_pretrained, which lies beside its config."""


@dataclass(frozen=True)
class AdapterConfig:
    """What peft's LoraConfig says of ranks and alphas."""

    source: str
    """Where it was found, for messages."""
    rank: int
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool

    def alpha_of(self, key: ModuleKey, rank: int) -> float:
        """The alpha that gives the trained strength as alpha / rank.

        peft multiplies by alpha / rank, or by alpha / sqrt(rank) with use_rslora. Raises BadFile
        if the matrices have another rank than it says.
        """
        said = _by_pattern(self.rank_pattern, key, self.rank)
        if said != rank:
            raise BadFile(
                f"{self.source} says that {key.module} of layer {key.layer} has rank {said:g}, and "
                f"its matrices have {rank}: they don't belong together. Save the LoRA again."
            )
        alpha = _by_pattern(self.alpha_pattern, key, self.alpha)
        return alpha * math.sqrt(rank) if self.use_rslora else alpha


def find_config(
    path: Path, names: Iterable[str], metadata: Mapping[str, str]
) -> AdapterConfig | None:
    """The config that belongs to a LoRA file; None if there is none. Raises BadFile."""
    if _METADATA in metadata:
        source = f"{path} ({_METADATA})"
        try:
            said = json.loads(metadata[_METADATA])
        except (ValueError, RecursionError) as error:
            raise _unclear(source) from error
        if not isinstance(said, dict):
            raise _unclear(source)
        said = {k.removeprefix(_PART): v for k, v in said.items() if k.startswith(_PART)}
        return _config(source, said) if said else None
    beside = path.parent / _CONFIG_FILE
    if all(name.startswith(_PEFT_PREFIX) for name in names) and is_file(beside):
        return _config(str(beside), read_json(beside))
    return None


def _config(source: str, said: Mapping[str, Any]) -> AdapterConfig:
    rank, alpha = said.get("r"), said.get("lora_alpha")
    patterns = [said.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    if not all(
        isinstance(pattern, dict) and all(_is_number(value) for value in pattern.values())
        for pattern in patterns
    ):
        raise _unclear(source)
    if not isinstance(rank, int) or not _is_number(rank):
        raise _unclear(source)
    if not isinstance(alpha, (int, float)) or not _is_number(alpha):
        raise _unclear(source)
    rslora = said.get("use_rslora") or False
    if not isinstance(rslora, bool):
        raise _unclear(source)
    plain = [
        {_plain(source, name): float(value) for name, value in pattern.items()}
        for pattern in patterns
    ]
    return AdapterConfig(source, rank, float(alpha), plain[0], plain[1], rslora)


def _plain(source: str, pattern: str) -> str:
    """A pattern without the signs of regular expressions; only names of modules are understood.

    An expression of somebody else's could run for ever.
    """
    name = pattern.removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"\^?[\w.]+", name):
        raise _unclear(source)
    return name


def _by_pattern(patterns: Mapping[str, float], key: ModuleKey, default: float) -> float:
    """The value of the first pattern that names the module or ends its name, as in peft."""
    path = key.path
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^").removeprefix("text_model.")
        if path == name or (pattern[0] != "^" and path.endswith(f".{name}")):
            return value
    return default


def _is_number(value: Any) -> bool:
    """Whether this is a number that is finite as float32."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 3e38  # also refuses NaN


def _unclear(source: str) -> BadFile:
    return BadFile(
        f"{source} does not say rank and alpha in a way that can be read, so the strength of this "
        "LoRA is not known: save it again."
    )
