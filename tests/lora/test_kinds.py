"""Files of other kinds than plain LoRA are called by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unlearn_core.errors import BadFile
from unlearn_core.lora.file import load_lora
from unlearn_core.lora.keys import kohya_name, text_module

TE = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
PEFT = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"
PLAIN = [kohya_name(text_module(0, "q_proj"), part) for part in ("down", "up")]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ([*PLAIN, f"{TE}.dora_scale"], "a DoRA"),
        ([f"{PEFT}.lora_A.weight", f"{PEFT}.lora_magnitude_vector"], "a DoRA"),
        ([f"{TE}.hada_w1_a", f"{TE}.hada_w1_b"], "a LoHa"),
        ([f"{TE}.lokr_w1", f"{TE}.lokr_w2"], "a LoKr"),
        ([f"{TE}.oft_blocks"], "an OFT"),
        ([*PLAIN, f"{TE}.diff_b"], r"whole differences \(diff\): it holds .*diff_b"),
        ([*PLAIN, f"{TE}.lora_mid.weight"], "middle matrix"),
        ([*PLAIN, f"{PEFT}.lora_B.bias"], "with biases"),
        ([*PLAIN, "lora_te_text_model_final_layer_norm.w_norm"], "changes of the norms"),
        ([*PLAIN, "lora_unet_x.dora_scale"], "changes more than the text encoder"),
        ([*PLAIN, "lora_te_text_projection.lora_up.weight"], "other parts of the text encoder"),
    ],
)
def test_the_kind_of_a_file_is_said(names: list[str], kind: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match=kind):
        load_lora(tmp_path / "a.safetensors")
