"""The node Invert Concept: textual inversion of the concept's pictures."""

from __future__ import annotations

from typing import Any

from ..unlearn_core.concept import Nameless
from ..unlearn_core.files.pictures import to_tensor
from ..unlearn_core.forgetting.unlearn import find_name, learn_vectors
from ..unlearn_core.reporting.lines import words_line
from ..unlearn_core.reporting.sheets import HIDDEN_KINDS, loss_curve
from ..unlearn_core.settings import UnlearnSettings, bounds_of, help_of
from .comfy_model import ComfyModel
from .comfy_run import ComfyMonitor, training_allowed
from .node_api import found_by, io
from .values import (
    CATEGORY_ADVANCED,
    TURBO_HELP,
    AskedConcept,
    ConceptWire,
    SettingsWire,
    as_image,
    list_of_images,
    said,
    with_pictures,
)


class InvertConcept(io.ComfyNode):
    """Learns word vectors that mean what the pictures show."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        defaults = UnlearnSettings()
        low, high = bounds_of("inversion_steps")
        return io.Schema(
            **found_by("textual inversion", "train embedding", "learn concept", "unlearn"),
            node_id="UnlearnInvert",
            display_name="Invert Concept",
            category=CATEGORY_ADVANCED,
            description="Textual inversion: learns word vectors that mean what the pictures show, "
            "so that Forget Concept forgets more than the name. Forget Concept does it by itself "
            "when pictures are wired there.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A Stable Diffusion 1, 2 or XL model; it is only read."
                ),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.Image.Input(
                    "images",
                    tooltip="4 or 5 pictures of the concept, up to 64, of any size from 32 pixels.",
                ),
                ConceptWire.Input("concept", tooltip="From Concept to Forget."),
                io.Int.Input(
                    "steps",
                    default=defaults.inversion_steps,
                    min=max(1, low),
                    max=high,
                    tooltip=help_of("inversion_steps"),
                ),
                io.Int.Input(
                    "seed",
                    default=defaults.seed,
                    min=0,
                    max=bounds_of("seed")[1],
                    control_after_generate=False,
                    tooltip=help_of("seed"),
                ),
                SettingsWire.Input(
                    "settings",
                    optional=True,
                    tooltip="From Unlearning Settings; steps and seed here count all the same.",
                ),
                io.Boolean.Input("turbo", default=False, optional=True, tooltip=TURBO_HELP),
            ],
            outputs=[
                ConceptWire.Output(
                    display_name="concept", tooltip="The concept with its learned vectors."
                ),
                io.Image.Output(display_name="loss_curve", tooltip="The loss of every step."),
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
        )

    @classmethod
    @list_of_images
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        images: Any,
        concept: AskedConcept,
        steps: int,
        seed: int,
        settings: UnlearnSettings | None = None,
        turbo: bool = False,
    ) -> io.NodeOutput:
        """Learn the vectors."""
        chosen = (settings or UnlearnSettings()).replace(inversion_steps=steps, seed=seed)
        monitor = ComfyMonitor(cls.hidden.unique_id)
        with training_allowed(clip, model):
            shown = with_pictures(concept.concept, images)
            monitor.shows_pictures = shown.kind not in HIDDEN_KINDS
            lent = ComfyModel(clip, model, vae, is_distilled=turbo)
            lines: list[str] = []
            if isinstance(shown, Nameless):
                shown, found = find_name(lent, shown, seed, monitor)
                lines += [words_line(found), *(f"note: {note}" for note in found.notes())]
            learned = learn_vectors(lent, shown, chosen, monitor)
        curve = as_image(to_tensor(loss_curve(learned.losses)))
        verdict = "used" if learned.accepted else "too little, so Forget Concept leaves them out"
        lines.append(
            f"In other styles the vectors draw {learned.explained:.0%} of what "
            f"{shown.name!r} does: {verdict}."
        )
        shown_text = said("\n".join(lines), shown.kind, learned.losses)
        return io.NodeOutput(AskedConcept(shown, learned), curve, ui=shown_text)
