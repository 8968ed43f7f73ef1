"""Several LoRAs, each made alone to forget something of the same model, as one.

Their sum is not the best that can be done: each of them moves the others' prompts a little. For
every projection that any of them changes, with the inputs that the unchanged encoder gives,

    min  sum_i sum_x |dW x - dW_i x|^2  +  keep sum_y |dW y|^2  +  ridge |dW|^2

over inputs x of the prompts that LoRA i forgets and inputs y of prompts that none of them forgets.
With Gram matrices G_i and G this is dW = (sum_i dW_i G_i) (sum_i G_i + keep G + ridge I)^-1, the
form of UCE (Gandikota et al. 2024, arXiv 2308.14761, equation 7). The part of all inputs is left
out that the empty and the negative prompts make the projection see, as in the training of each
LoRA, so that these prompts stay. dW is then cut to the rank at which it loses least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .errors import BadConcept, BadFile
from .forgotten import Forgotten, all_from_metadata
from .lent_model import Progress, RunMonitor, SilentMonitor, stop_if_asked
from .lessons import lengths_of
from .lora_file import LoraPair, LoraWeights
from .lora_keys import ModuleKey, module_path
from .prompt_templates import COLORS, FILLERS, GUARD_PROMPTS
from .prompt_writer import PromptWriter, Surroundings
from .prompts import ROLE_PAD, Name, Prompts, whole_prompts
from .stand_in import look_around
from .text_encoder import TextEncoder
from .training import strongest_directions

PROMPTS = 128
"""To forget, and as many to keep, for each concept."""
KEEP_WEIGHT = 2.0
RIDGE = 1e-3
"""Relative to the mean of the Gram matrix' diagonal."""
BATCH = 64


def check_mergeable(loras: Sequence[LoraWeights]) -> tuple[Forgotten, ...]:
    """What each of them forgets; raises BadFile if one does not say it, or BadConcept if two do."""
    parts: list[Forgotten] = []
    for lora in loras:
        said = all_from_metadata(lora.metadata)
        if len(said) != 1 or "unlearn_private" in lora.metadata:
            name = lora.metadata.get("ss_output_name", "a LoRA")
            raise BadFile(
                f"{name} does not say which one concept it forgets, or says it hidden: merge files "
                "that `forget` has written, not private or merged ones."
            )
        parts += said
    names = [part.concept.name.casefold() for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise BadConcept(f"{name!r} is forgotten by two of these files: leave one out.")
    return tuple(parts)


@torch.no_grad()
def fit_loras(
    encoder: TextEncoder,
    loras: Sequence[LoraWeights],
    rank: int | None = None,
    seed: int = 0,
    monitor: RunMonitor | None = None,
) -> LoraWeights:
    """One LoRA that does to each one's prompts what that one does, and nothing to others.

    `encoder` is the unchanged one; `rank` None means all ranks together. Without metadata. Raises
    as `check_mergeable` does, and Cancelled.
    """
    monitor = monitor or SilentMonitor()
    parts = check_mergeable(loras)
    keys = sorted({key for lora in loras for key in lora.pairs})
    prompts = write_prompts(encoder, parts, torch.Generator().manual_seed(seed))
    free: dict[ModuleKey, Tensor] = {}
    guard = whole_prompts(GUARD_PROMPTS).token_ids
    _look(encoder, keys, guard, lambda source, inputs: free.update({source: _free_of(inputs)}))
    gram = _Grams(encoder, keys)
    cross: dict[ModuleKey, Tensor] = {}
    sets = len(prompts.forget) + len(prompts.keep)
    for number, (lora, own) in enumerate(zip(loras, prompts.forget, strict=True), start=1):
        stop_if_asked(monitor)
        seen = _Grams(encoder, keys)
        seen.add(own, 1.0)
        seen.project(free)
        for key, pair in lora.pairs.items():
            moved = pair.delta().to(encoder.device) @ seen[key]
            cross[key] = cross[key] + moved if key in cross else moved
        gram.add_all(seen)
        monitor.report(Progress("looking at prompts", number, sets))
    for number, kept in enumerate(prompts.keep, start=1 + len(loras)):
        stop_if_asked(monitor)
        gram.add(kept, KEEP_WEIGHT)
        monitor.report(Progress("looking at prompts", number, sets))
    gram.project(free)
    together = sum(max(pair.rank for pair in lora.pairs.values()) for lora in loras)
    return LoraWeights({key: _solve(gram[key], cross[key], rank or together) for key in keys})


@dataclass(frozen=True)
class MergePrompts:
    """What a merge looks at."""

    forget: tuple[Prompts, ...]
    """For each LoRA, prompts with its own concept."""
    keep: tuple[Prompts, ...]
    """For each LoRA, prompts with near and other words that no LoRA forgets, if there are any."""


def write_prompts(
    encoder: TextEncoder, parts: Sequence[Forgotten], generator: torch.Generator
) -> MergePrompts:
    """PROMPTS to forget and as many to keep for each part; no other part's words around them."""
    around = [look_around(encoder, part.concept) for part in parts]
    gone = {name.casefold() for part in parts for name in part.names}

    def known_to_all(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        to_all = set(lists[0]).intersection(*lists[1:])
        return tuple(w for w in lists[0] if w in to_all and w.casefold() not in gone)

    nouns = known_to_all([one.known_nouns for one in around])
    styles = known_to_all([one.known_styles for one in around])
    colors = tuple(color for color in COLORS if color not in gone)
    fillers = tuple(filler for filler in FILLERS if encoder.knows(filler))
    forget, keep = [], []
    for part in parts:
        kind = part.concept.kind
        writer = PromptWriter(kind, Surroundings(nouns, styles, colors, fillers), generator)
        forget.append(writer.keep([Name.of(name, kind) for name in part.names], PROMPTS))
        near = [w for w in (*part.kept, part.stand_in) if w.casefold() not in gone]
        far = [w for w in (styles if kind == "style" else nouns) if w not in near]
        order = torch.randperm(len(far), generator=generator).tolist()
        words = [*near, *(far[i] for i in order)][: max(1, 2 * len(near))]
        if words:
            keep.append(writer.keep([Name.of(word, kind) for word in words], PROMPTS))
    return MergePrompts(tuple(forget), tuple(keep))


class _Grams:
    """Sums of w x x^T over the inputs x of projections, for each of `keys`."""

    def __init__(self, encoder: TextEncoder, keys: Sequence[ModuleKey]) -> None:
        self.encoder = encoder
        self.sums: dict[ModuleKey, Tensor] = {}
        for source in {_source(key) for key in keys}:
            width = _projection(encoder, source).in_features
            self.sums[source] = torch.zeros(width, width, device=encoder.device)

    def __getitem__(self, key: ModuleKey) -> Tensor:
        """(in, in) float32."""
        return self.sums[_source(key)]

    def add(self, prompts: Prompts, weight: float) -> None:
        """Add all prompts; in each of them every role weighs `weight`."""
        lengths = lengths_of(prompts.ends)
        for length in sorted(set(lengths.tolist())):
            for rows in (lengths == length).nonzero().flatten().split(BATCH):
                shares = weight * _shares(prompts.roles[rows, :length]).flatten()[:, None]
                ids = prompts.token_ids[rows, :length]
                _look(self.encoder, list(self.sums), ids, partial(self._add, shares))

    def add_all(self, other: _Grams) -> None:
        """Add what another one holds."""
        for source, gram in other.sums.items():
            self.sums[source] += gram

    def _add(self, shares: Tensor, source: ModuleKey, inputs: Tensor) -> None:
        self.sums[source].addmm_((inputs * shares.to(inputs)).T, inputs)

    def project(self, free: Mapping[ModuleKey, Tensor]) -> None:
        """Leave out of all inputs what a projector (in, in) takes away."""
        for source, projector in free.items():
            self.sums[source] = projector @ self.sums[source] @ projector


def _look(
    encoder: TextEncoder,
    keys: Sequence[ModuleKey],
    token_ids: Tensor,
    see: Callable[[ModuleKey, Tensor], None],
) -> None:
    """Encode prompts; `see` gets each source of `keys` with its inputs (positions, in)."""
    hooks = [
        _projection(encoder, source).register_forward_pre_hook(
            lambda _, inputs, source=source: see(source, inputs[0].flatten(0, -2))
        )
        for source in sorted({_source(key) for key in keys})
    ]
    try:
        encoder.encode(token_ids)
    finally:
        for hook in hooks:
            hook.remove()


def _free_of(inputs: Tensor) -> Tensor:
    """The projector (in, in) away from what these inputs (n, in) hold."""
    basis = strongest_directions(inputs)
    return torch.eye(inputs.shape[1], device=inputs.device) - basis @ basis.T


def _source(key: ModuleKey) -> ModuleKey:
    """q, k and v read the same."""
    is_same = key.module in ("k_proj", "v_proj")
    return ModuleKey(key.layer, "q_proj") if is_same else key


def _projection(encoder: TextEncoder, key: ModuleKey) -> nn.Linear:
    place = module_path(key).removeprefix(f"encoder.layers.{key.layer}.")
    projection = encoder.layers[key.layer].get_submodule(place)
    assert isinstance(projection, nn.Linear)
    return projection


def _shares(roles: Tensor) -> Tensor:
    """(n, T): one over how many positions of its prompt have the same role."""
    counts = torch.stack([(roles == role).sum(1) for role in range(ROLE_PAD + 1)], 1)
    shares: Tensor = 1 / counts.gather(1, roles).float()
    return shares


def _solve(gram: Tensor, cross: Tensor, rank: int) -> LoraPair:
    """The least-squares change for one projection, cut to a rank.

    The best cut on these inputs keeps the strongest left singular vectors of dW G^(1/2), which
    are eigenvectors of dW G dW^T.
    """
    gram, cross = gram.cpu().double(), cross.cpu().double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    change = torch.cholesky_solve(cross.T, torch.linalg.cholesky(gram)).T
    rank = min(rank, *change.shape)
    felt = cross @ change.T
    _, vectors = torch.linalg.eigh((felt + felt.T) / 2)
    up = vectors.flip(1)[:, :rank]
    down = up.T @ change
    size = down.norm(dim=1).clamp(min=1e-30).sqrt()  # halves reach less far than floats: share it
    return LoraPair((down / size[:, None]).float(), (up * size).float(), float(rank))
