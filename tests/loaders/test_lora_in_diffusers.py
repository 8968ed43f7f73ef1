"""diffusers' own pipelines of each family take the LoRA file whole, and it acts there as here."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from bench.cost.full_size_checkpoint import write_checkpoint
from unlearn_core.concept import Concept
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.lora.file import save_lora
from unlearn_core.lora.weights import apply_lora
from unlearn_core.models.families import FAMILIES, Family
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.settings import preset
from unlearn_core.text.tokenizer import token_ids

pytestmark = pytest.mark.usefixtures("tiny_configs")
PROMPT = "a photo of a dog"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_load_lora_weights_takes_every_key(tmp_path: Path, family: Family) -> None:
    """diffusers raises ValueError for a key that is left over."""
    if not diffusers.utils.USE_PEFT_BACKEND:
        pytest.skip("diffusers loads LoRAs only beside a newer transformers")
    write_checkpoint(tmp_path / "m.safetensors", dtype=torch.float32, family=family)
    model, _ = load_model(tmp_path / "m.safetensors")
    settings = preset(
        "robust", steps=3, stand_in_pictures=0, layers="last:2", adversary="none", rank=4,
        use_pictures=False, forget_prompts=24, keep_prompts=24, learning_rate=0.05,
    )  # fmt: skip
    lora = unlearn(model, Concept("dog", stand_in="cat"), settings).lora
    save_lora(lora, tmp_path / "forget-dog.safetensors")
    weights = apply_lora(model.text_encoder_weights(), lora)
    expected = build_encoder(model, weights).condition(token_ids(PROMPT))
    before = build_encoder(model).condition(token_ids(PROMPT))

    pipeline: Any = model.pipeline
    pipeline.load_lora_weights(tmp_path, weight_name="forget-dog.safetensors")
    theirs = pipeline.encode_prompt(
        PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    for found, ours, was in zip((theirs[0], theirs[-2]), expected.tensors, before.tensors,
                                strict=False):  # fmt: skip
        assert float((ours - was).abs().max()) > 1e-3
        torch.testing.assert_close(found, ours, rtol=1e-3, atol=1e-3)
    active = pipeline.get_list_adapters()
    wanted = {"text_encoder", "text_encoder_2"} if len(family.towers) > 1 else {"text_encoder"}
    assert set(active) == wanted
