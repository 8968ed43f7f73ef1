"""What travels on this pack's own wires."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor

from ..unlearn_core.concept import Concept, Kind, Nameless
from ..unlearn_core.errors import BadConcept, BadSettings
from ..unlearn_core.files.pictures import MOST_PICTURES, reduced
from ..unlearn_core.forgetting.unlearn import UnlearnResult
from ..unlearn_core.reporting.sheets import HIDDEN_KINDS
from ..unlearn_core.training.inversion import LearnedVectors
from .node_api import io

CATEGORY, CATEGORY_ADVANCED, CATEGORY_DEMO = "unlearn", "unlearn/advanced", "unlearn/demo"
_LOSSES_DRAWN = 200
TURBO_HELP = (
    "On for a Turbo checkpoint such as SD-Turbo or SDXL-Turbo: pictures are drawn in 4 steps "
    "without guidance."
)
ConceptWire = io.Custom("UNLEARN_CONCEPT")
LoraWire = io.Custom("UNLEARN_LORA")
SettingsWire = io.Custom("UNLEARN_SETTINGS")


@dataclass(frozen=True, repr=False)
class AskedConcept:
    """On an UNLEARN_CONCEPT wire."""

    concept: Concept | Nameless
    learned: LearnedVectors | None = None
    """From Invert Concept."""

    def __repr__(self) -> str:
        """What Preview as Text and reports of errors show: the words, no tensors."""
        asked = self.concept
        names = asked.names if isinstance(asked, Concept) else asked.synonyms
        lines = [
            f"to forget: {', '.join(names) or 'what the pictures show'} ({asked.kind})",
            f"drawn in its place: {asked.stand_in or 'a near word, chosen later'}",
            f"kept: {', '.join(asked.keep) or 'near words'}",
        ]
        if self.learned:
            lines.append(f"learned from {len(asked.images)} pictures")
        return "\n".join(lines)

    @property
    def named(self) -> Concept:
        """For nodes that need a name; raises BadConcept."""
        if isinstance(self.concept, Nameless):
            raise BadConcept(
                "The concept has no name. Write it in Concept to Forget; only Forget Concept and "
                "Invert Concept can find it, in pictures."
            )
        return self.concept


@dataclass(frozen=True, repr=False)
class UnlearnedLora:
    """On an UNLEARN_LORA wire."""

    result: UnlearnResult
    preview: Tensor | None
    """(3, h, w) float32 in [-1, 1]: the concept's prompt after forgetting."""
    report: str
    """What was done, in words."""

    def __repr__(self) -> str:
        """What Preview as Text and reports of errors show: the report, no tensors."""
        return self.report


def said(text: str, kind: Kind = "object", losses: Sequence[float] = ()) -> dict[str, Any]:
    """A node's `ui`: what web/report.js draws on it; of HIDDEN_KINDS the workflow keeps nothing."""
    every = -(-len(losses) // _LOSSES_DRAWN) or 1
    drawn = [float(f"{loss:.4g}") for loss in losses[::every]]
    return {"text": (text,), "unlearn": ({"losses": drawn, "hidden": kind in HIDDEN_KINDS},)}


def with_pictures(concept: Concept | Nameless, images: Sequence[Tensor]) -> Concept | Nameless:
    """The concept with IMAGE batches (B, height, width, 3 or 4) in [0, 1] as its pictures.

    Raises BadConcept for more than 64.
    """
    pictures = [picture for batch in images for picture in batch]
    if len(pictures) > MOST_PICTURES:
        raise BadConcept(f"IMAGE holds {len(pictures)} pictures; give {MOST_PICTURES} at most.")
    pixels = (picture[..., :3].movedim(-1, 0).float() * 2 - 1 for picture in pictures)
    return concept.replace(images=tuple(map(reduced, pixels)))


def list_of_images(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """For a node with `is_input_list`: `images` stays a list, of all else the one value is taken.

    ComfyUI would run any other node once for each picture of a list. Raises BadSettings where
    another input is a list of several.
    """

    @wraps(execute)
    def run(cls: Any, images: Sequence[Tensor] | None = None, **lists: Any) -> io.NodeOutput:
        for name, values in lists.items():
            if len(values) != 1:
                raise BadSettings(f"{name} is a list of {len(values)}; wire one.")
        return execute(cls, images=images, **{name: value for name, [value] in lists.items()})

    return run


def as_image(pixels: Tensor) -> Tensor:
    """(3, h, w) or (B, 3, h, w) in [-1, 1] as an IMAGE, (B, h, w, 3) in [0, 1]."""
    batch = pixels if pixels.dim() == 4 else pixels[None]
    return (batch.detach().cpu().float().movedim(1, -1) / 2 + 0.5).clamp(0, 1)
