"""The node Forget Concept: the unlearning itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ..unlearn_core.concept import Nameless
from ..unlearn_core.errors import BadConcept
from ..unlearn_core.forgetting.unlearn import UnlearnResult, unlearn
from ..unlearn_core.measuring.drawing import draw_after
from ..unlearn_core.progress import DRAWING, Progress, time_in_words
from ..unlearn_core.reporting.lines import run_lines
from ..unlearn_core.reporting.sheets import HIDDEN_KINDS
from ..unlearn_core.settings import (
    DEFAULT_PRESET,
    PRESET_HELP,
    PRESETS,
    UnlearnSettings,
    bounds_of,
    help_of,
)
from .comfy_clip import clip_skip, conditioning_layers, has_loras, with_lora
from .comfy_graph import notes_on_clip_skip
from .comfy_model import ComfyModel, missing_wire
from .comfy_run import ComfyMonitor, training_allowed
from .node_api import ADVANCED, found_by, io
from .values import (
    CATEGORY,
    TURBO_HELP,
    AskedConcept,
    ConceptWire,
    LoraWire,
    SettingsWire,
    UnlearnedLora,
    list_of_images,
    said,
    with_pictures,
)

_LOOSE = object()
"""In the place of an input without a wire."""


class ForgetConcept(io.ComfyNode):
    """Trains the text-encoder LoRA with which the model no longer draws the concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        presets = "\n".join(f"{name}: {text}" for name, text in PRESET_HELP.items())
        return io.Schema(
            **found_by("erase concept", "remove concept", "unlearn", "safety", "train lora"),
            node_id="UnlearnForget",
            display_name="Forget Concept",
            category=CATEGORY,
            description="Trains a LoRA of the text encoder with which Stable Diffusion 1, 2 or XL "
            "no longer draws the concept. The checkpoint itself stays as it is.",
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="The CLIP of a Stable Diffusion 1, 2 or XL checkpoint."
                ),
                ConceptWire.Input("concept", tooltip="From Concept to Forget or Invert Concept."),
                io.Combo.Input(
                    "preset", options=list(PRESETS), default=DEFAULT_PRESET, tooltip=presets
                ),
                io.Int.Input(
                    "seed",
                    default=UnlearnSettings().seed,
                    min=0,
                    max=bounds_of("seed")[1],
                    control_after_generate=False,
                    tooltip=help_of("seed"),
                ),
                io.Boolean.Input(
                    "ignore_other_loras",
                    default=False,
                    tooltip="Off: the LoRA is trained on top of those that CLIP carries already "
                    "and is valid only with them. On: on the bare checkpoint.",
                    **ADVANCED,
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The MODEL of the same checkpoint; only read. The preset quick can do "
                    "without.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="For pictures and live previews; only read."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="4 or 5 pictures of the concept. Word vectors are learned from them "
                    "where the model does not find the name in them, unless Invert Concept has "
                    "learned some. Where the concept has no name, the model's own word is found in "
                    "them.",
                ),
                SettingsWire.Input(
                    "settings",
                    optional=True,
                    tooltip="From Unlearning Settings; takes the preset's place.",
                ),
                io.Boolean.Input("turbo", default=False, optional=True, tooltip=TURBO_HELP),
            ],
            outputs=[
                io.Clip.Output(
                    display_name="clip",
                    tooltip="CLIP that has forgotten, for the rest of this graph.",
                ),
                LoraWire.Output(
                    display_name="unlearn_lora",
                    tooltip="For Save Unlearning LoRA and Measure Forgetting. It changes the text "
                    "encoder: ComfyUI's own LoRA model nodes patch the UNet only and would "
                    "silently do nothing with it, so this wire is of a type of its own.",
                ),
                io.String.Output(display_name="report", tooltip="What was done, in words."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        preset: tuple[str | None] = (None,),
        model: Any = _LOOSE,
        vae: Any = _LOOSE,
        settings: Any = _LOOSE,
    ) -> bool | str:
        """Refuse a preset without the wires that it needs.

        ComfyUI gives lists, and a list of None for what is wired.
        """
        [name] = preset
        if name is None or settings is not _LOOSE:
            return True  # both come by wire, so that they are not known before the run
        if name not in PRESETS:
            return f"There is no preset {name!r}: choose {', '.join(PRESETS)}."
        return missing_wire(PRESETS[name], 0, model is not _LOOSE, vae is not _LOOSE) or True

    @classmethod
    @list_of_images
    def execute(
        cls,
        clip: Any,
        concept: AskedConcept,
        preset: str,
        seed: int,
        ignore_other_loras: bool,
        model: Any = None,
        vae: Any = None,
        images: Any = None,
        settings: UnlearnSettings | None = None,
        turbo: bool = False,
    ) -> io.NodeOutput:
        """Train, and put the LoRA on a clone of CLIP."""
        started = time.monotonic()
        monitor = ComfyMonitor(cls.hidden.unique_id)
        chosen = (settings or PRESETS[preset]).replace(seed=seed)
        with training_allowed(clip, model):
            asked = concept.concept
            if images is not None:
                asked = with_pictures(asked, images)
            if isinstance(asked, Nameless) and (images is None or model is None or vae is None):
                raise BadConcept(
                    "The concept has no name: write it in Concept to Forget, or wire MODEL, VAE "
                    "and 4 or 5 images here, in which the model's own word is found."
                )
            lent = ComfyModel(clip, model, vae, ignore_other_loras, turbo)
            lent.check_wires(chosen, 0 if concept.learned else len(asked.images))
            monitor.shows_pictures = lent.draws and asked.kind not in HIDDEN_KINDS
            result = unlearn(lent, asked, chosen, monitor, concept.learned, measures=lent.draws)
            result.check_moved()
            after = None
            if lent.draws:
                monitor.report(Progress(DRAWING))
                after = draw_after(lent, result.lora, result.concept, chosen.seed)
        forgetful = with_lora(clip, result.lora, 1.0)
        lines = [*_report(clip, result, ignore_other_loras)]
        lines += notes_on_clip_skip(clip, result.lora, cls.hidden.prompt, cls.hidden.unique_id)
        report = "\n".join([*lines, f"took {time_in_words(time.monotonic() - started)}"])
        wire = UnlearnedLora(result, after, report)
        shown = said(report, result.concept.kind, result.losses)
        return io.NodeOutput(forgetful, wire, report, ui=shown)


def _report(clip: Any, result: UnlearnResult, ignore_other_loras: bool) -> Iterator[str]:
    yield from run_lines(result)
    if has_loras(clip):
        yield (
            "note: CLIP carried other LoRAs, which were left out while training."
            if ignore_other_loras
            else "note: trained on top of the LoRAs that CLIP carries; the file is valid only "
            "with them."
        )
    if (last := clip_skip(clip)) is not None:
        layers = " and ".join(map(str, conditioning_layers(clip)))
        yield (
            f"note: trained at CLIP Set Last Layer {last} (layer {layers}); the file is valid only "
            "with it."
        )
