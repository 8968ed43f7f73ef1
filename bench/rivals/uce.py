"""UCE: cross-attention's keys and values rewritten by least squares, in closed form.

Unified Concept Editing (Gandikota et al. 2024, arXiv 2308.14761). Each to_k and to_v W of the UNet
becomes the matrix that sends the text states c of the concept to what the old W made of the
guide's states g, that leaves the states p of preserved prompts where they were, and that stays
near the old W (their equation 7):

    W' = (e sum W g c^T + r sum W p p^T + l W) (e sum c c^T + r sum p p^T + l I)^-1

with the erase scale e, the preserve scale r and l = lambda. The paper's repository has had two
versions, and both are here:

  `PUBLISHED`, the one of the paper's time (commit 35e91e2). c are the states from the concept's
  last token to the end of the chunk, EOS and padding with it, and g the guide's from its last
  token on. An empty guide is " ", whose last token is BOS. All 77 states of each preserved prompt
  are kept, and "" is always preserved. l = 0.5, e = 1, r = max(0.1, 1 / number of preserved).
  `NEWEST`, since April 2025 (commit 28c81ed): the state of the last token alone, concept, guide
  and preserved alike; "" is preserved only if named. l = 0.5, e = 1, r = 1.

The guide is published as " " for objects and "art" for styles in the newest, " " in the other.

What differs here. "art" is no word of the demo model, so " " is the guide of styles too. The sums
are inverted in float64. `FITTED` has e = 10, chosen on dog, truck and sketch with all other words
preserved: it forgets a little more of the objects. With l = 0.5 beside states of squared length
380, e matters only against the preserved states. The super-category as a guide forgot less of dog
and as much of truck, and is not used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.protocol.erased import Erased, Task
from bench.rivals.subject import checked_name, super_category
from bench.rivals.unet_copy import UnetCopy
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids, tokenize

EXPANSIONS = {
    "object": ("image of {}", "photo of {}", "picture of {}"),
    "style": ("style of {}", "picture in the style of {}"),
}
"""Of the published expansions those whose words the demo model knows."""


@dataclass(frozen=True)
class Uce:
    """Scales and states; the defaults are those of the paper's time, see the module."""

    erase_scale: float = 1.0
    preserve_scale: float | None = None
    """None: max(0.1, 1 / number of preserved prompts)."""
    lamb: float = 0.5
    states: Literal["to the end", "last token"] = "to the end"
    guide: Literal["empty", "super-category"] = "empty"
    expand: bool = False
    """Edit "photo of CONCEPT" and the like too; off in both versions unless asked for."""

    @torch.no_grad()
    def __call__(self, base: Erased, task: Task) -> Erased:
        """Rewrite a copy of the UNet. Raises BadConcept, WrongModel."""
        started = time.monotonic()
        name = checked_name(task, base.encoder)
        guide = super_category(task, base.encoder) if self.guide == "super-category" else ""
        copied = UnetCopy(base)
        pairs = [self._pair(base.encoder, name, guide)]
        if self.expand:
            forms = EXPANSIONS[task.kind]
            pairs += [self._pair(base.encoder, f.format(name), f.format(guide)) for f in forms]
        concept, wanted = (torch.cat(part) for part in zip(*pairs, strict=True))
        kept = self._preserved(base.encoder, task)
        scale = self._preserve_scale(task)
        old_side = kept.T @ kept * scale + self.lamb * torch.eye(len(kept.T)).to(kept)
        left = self.erase_scale * wanted.T @ concept + old_side
        right = self.erase_scale * concept.T @ concept + old_side
        projections = copied.projections()
        for module in projections.values():
            # W' right = W left; right is symmetric.
            edit = torch.linalg.solve(right, left.T).T
            module.weight.copy_((module.weight.double() @ edit).float())
        changed = [module.weight for module in projections.values()]
        notes = {"guide": guide or '" "', "preserved": str(len(task.keep))}
        return copied.erased(base, changed, time.monotonic() - started, notes)

    def _preserve_scale(self, task: Task) -> float:
        if self.preserve_scale is not None:
            return self.preserve_scale
        return max(0.1, 1 / (len(task.keep) + 1))

    def _pair(self, encoder: TextEncoder, concept: str, guide: str) -> tuple[Tensor, Tensor]:
        """States of the concept and of the guide, (n, width) float64 each."""
        ends = len(tokenize(concept)), len(tokenize(guide))  # of the last token; BOS stands at 0
        states = [
            encoder.condition(token_ids(text)).tokens[0].double() for text in (concept, guide)
        ]
        if self.states == "last token":
            return states[0][ends[0]][None], states[1][ends[1]][None]
        count = len(states[0]) - max(ends)
        return states[0][ends[0] :][:count], states[1][ends[1] :][:count]

    def _preserved(self, encoder: TextEncoder, task: Task) -> Tensor:
        """States that stay, (n, width) float64; n may be 0."""
        if self.states == "last token":
            ends = [(w, len(tokenize(w))) for w in task.keep]
            rows = [encoder.condition(token_ids(w)).tokens[0, end][None] for w, end in ends]
        else:
            rows = [encoder.condition(token_ids(text)).tokens[0] for text in ("", *task.keep)]
        if not rows:
            return torch.zeros(0, encoder.width, dtype=torch.float64, device=encoder.device)
        return torch.cat(rows).double()


PUBLISHED = Uce()
NEWEST = Uce(preserve_scale=1.0, states="last token")
FITTED = Uce(erase_scale=10.0)
SWEEP = (
    Uce(erase_scale=0.1),
    Uce(erase_scale=1.0),
    Uce(erase_scale=10.0),
    Uce(erase_scale=100.0),
)
