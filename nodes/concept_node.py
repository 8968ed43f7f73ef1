"""The node Concept to Forget."""

from __future__ import annotations

from ..unlearn_core.concept import COVERS, KINDS, Covers, Kind, as_typed
from .node_api import ADVANCED, found_by, io
from .values import CATEGORY, AskedConcept, ConceptWire


class ConceptToForget(io.ComfyNode):
    """Names the concept, what takes its place and what must stay."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            **found_by("erase concept", "remove concept", "unlearn", "forget", "safety"),
            node_id="UnlearnConcept",
            display_name="Concept to Forget",
            category=CATEGORY,
            description="What the model shall no longer draw, in words.",
            inputs=[
                io.String.Input(
                    "name",
                    default="dog",
                    tooltip="What prompts call it, as in 'a photo of a NAME' or 'NAME style'. "
                    "Several names with commas: all are forgotten. Empty: the model's own word is "
                    "found in the pictures that are wired to Forget Concept.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="object",
                    tooltip="A thing, a style, a person or something unsafe. Decides the prompts "
                    "that are forgotten; for person and unsafe no preview is drawn, and what was "
                    "drawn before is blurred.",
                ),
                io.String.Input(
                    "synonyms",
                    default="",
                    tooltip="Other names of it, with commas: puppy, hound. All are forgotten too.",
                ),
                io.String.Input(
                    "stand_in",
                    default="",
                    tooltip="What is drawn in its place. Empty: a near word is chosen and shown in "
                    "the report.",
                ),
                io.String.Input(
                    "keep",
                    default="",
                    tooltip="Words that must stay, with commas. Near words are kept anyway.",
                ),
                io.Combo.Input(
                    "covers",
                    options=list(COVERS),
                    default="word",
                    optional=True,
                    tooltip="word: only the word is forgotten, and what else it names stays; the "
                    "report lists it. kinds: of fruit the apples and pears go too, all that the "
                    "model knows.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                ConceptWire.Output(
                    display_name="concept",
                    tooltip="For Invert Concept, Forget Concept and Measure Forgetting.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        name: str,
        kind: Kind,
        synonyms: str,
        stand_in: str,
        keep: str,
        covers: Covers = "word",
    ) -> io.NodeOutput:
        """Check the words."""
        concept = as_typed(name, kind, synonyms, stand_in, keep, covers)
        return io.NodeOutput(AskedConcept(concept))
