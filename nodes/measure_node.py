"""The node Measure Forgetting."""

from __future__ import annotations

from typing import Any

from ..unlearn_core.files.pictures import to_tensor
from ..unlearn_core.measuring.evaluation import evaluate, forgotten_by_nearness
from ..unlearn_core.measuring.judge import evaluation_judge
from ..unlearn_core.measuring.scaled_encoder import ScaledEncoder
from ..unlearn_core.reporting.lines import main_numbers
from ..unlearn_core.reporting.sheets import contact_sheet, strength_sheet
from ..unlearn_core.settings import bounds_of
from .comfy_clip import text_weights
from .comfy_demo import is_demo
from .comfy_model import ComfyModel
from .comfy_run import ComfyMonitor, training_allowed
from .node_api import found_by, io, ui
from .values import (
    CATEGORY,
    TURBO_HELP,
    AskedConcept,
    ConceptWire,
    LoraWire,
    UnlearnedLora,
    as_image,
    said,
)


class MeasureForgetting(io.ComfyNode):
    """Shows in pictures and numbers what a change of CLIP has done."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            **found_by("compare before and after", "evaluate unlearning", "lora strengths"),
            node_id="UnlearnMeasure",
            display_name="Measure Forgetting",
            category=CATEGORY,
            description="Draws the concept, its synonyms, its neighbours and unrelated words "
            "before and after from the same noise, and measures strengths from -1 to 1.5. For the "
            "kinds person and unsafe what is drawn before is blurred.",
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that draws."),
                io.Clip.Input("clip_before", tooltip="CLIP of the checkpoint."),
                io.Clip.Input(
                    "clip_after", tooltip="From Forget Concept or Load Text-Encoder LoRA."
                ),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                ConceptWire.Input("concept", tooltip="What is said to be forgotten."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=bounds_of("seed")[1],
                    control_after_generate=False,
                    tooltip="Seed of every picture; the same before and after.",
                ),
                LoraWire.Input(
                    "unlearn_lora",
                    optional=True,
                    tooltip="From Save Unlearning LoRA, whose file is then written first, or from "
                    "Forget Concept: measures against the stand-in and the kept words that were "
                    "chosen. Without it the nearest words are taken.",
                ),
                io.Boolean.Input("turbo", default=False, optional=True, tooltip=TURBO_HELP),
            ],
            outputs=[
                io.Image.Output(
                    display_name="contact_sheet", tooltip="Before and after, from the same noise."
                ),
                io.Image.Output(
                    display_name="strength_curve", tooltip="Pictures and two curves by strength."
                ),
                io.String.Output(display_name="numbers", tooltip="What to read first."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip_before: Any,
        clip_after: Any,
        vae: Any,
        concept: AskedConcept,
        seed: int,
        unlearn_lora: UnlearnedLora | None = None,
        turbo: bool = False,
    ) -> io.NodeOutput:
        """Draw and measure."""
        monitor = ComfyMonitor(cls.hidden.unique_id)
        with training_allowed(clip_before, model):
            lent = ComfyModel(clip_before, model, vae, is_distilled=turbo)
            scaled = ScaledEncoder.between(lent, text_weights(clip_after))
            if unlearn_lora is not None:
                forgotten = unlearn_lora.result.forgotten
            else:
                forgotten = forgotten_by_nearness(scaled.encoder, concept.named, seed)
            judge = evaluation_judge(forgotten.concept.kind) if is_demo(model) else None
            evaluation = evaluate(lent, forgotten, scaled, seed, monitor, judge)
        sheet = as_image(to_tensor(contact_sheet(evaluation)))
        curve = as_image(to_tensor(strength_sheet(evaluation)))
        numbers = "\n".join(main_numbers(evaluation))
        rows = ", ".join(f"{group.word} ({group.role})" for group in evaluation.groups)
        text = f"{numbers}\npicture: before left, after right; rows from above: {rows}"
        kind = forgotten.concept.kind
        shown = {**ui.PreviewImage(sheet, cls=cls).as_dict(), **said(text, kind)}
        return io.NodeOutput(sheet, curve, numbers, ui=shown)
