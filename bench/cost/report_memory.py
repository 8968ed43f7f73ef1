"""What `forget --report` holds at most beside a text encoder of SD2's size, run and report apart.

The text encoder has random weights. UNet and VAE are the demo's, but for the width of the text, so
that pictures cost next to nothing and the text encoder alone is seen.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.protocol.cost import MemoryGauge
from unlearn_core.concept import Concept
from unlearn_core.forgetting.memory_plan import MemoryPlan
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.measuring.evaluation import evaluate
from unlearn_core.measuring.scaled_encoder import ScaledEncoder
from unlearn_core.models.families import SD2
from unlearn_core.progress import SilentMonitor
from unlearn_core.settings import preset
from unlearn_core.text.tokenizer import CHUNK, VOCABULARY

HEAD_WIDTH = 64


def report_peaks(width: int = SD2.towers[0].width, layers: int = 23) -> tuple[MemoryPlan, int, int]:
    """The plan of `quick` with a report, and the bytes at most of the run and of the report."""
    model = _model(width, layers)
    gauge = MemoryGauge(model.device)
    try:
        result = unlearn(model, Concept("dog"), preset("quick"), measures=True)
        running = gauge.look()
        scaled = ScaledEncoder.with_lora(model, result.lora)
        evaluate(model, result.forgotten, scaled, 0, SilentMonitor())
        return result.memory.plan, running, gauge.look()
    finally:
        gauge.close()


def _model(width: int, layers: int) -> DiffusersModel:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    pipeline: Any = load_demo_pipeline()
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        hidden_act="gelu",
        max_position_embeddings=CHUNK,
    )
    torch.manual_seed(0)
    pipeline.text_encoder = CLIPTextModel(config).requires_grad_(False)
    unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "cross_attention_dim": width})
    pipeline.unet = unet.requires_grad_(False)
    return DiffusersModel(pipeline, torch.float32)
