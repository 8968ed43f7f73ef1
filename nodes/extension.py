"""The list of nodes."""

from __future__ import annotations

from .concept_node import ConceptToForget
from .demo_node import LoadDemoModel
from .forget_node import ForgetConcept
from .invert_node import InvertConcept
from .load_node import LoadTextEncoderLora
from .measure_node import MeasureForgetting
from .node_api import ComfyExtension, io
from .save_node import SaveUnlearningLora
from .settings_node import UnlearningSettings


class UnlearnExtension(ComfyExtension):
    """What this pack adds to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node, in the order of a workflow."""
        return [
            LoadDemoModel,
            ConceptToForget,
            InvertConcept,
            ForgetConcept,
            UnlearningSettings,
            SaveUnlearningLora,
            LoadTextEncoderLora,
            MeasureForgetting,
        ]
