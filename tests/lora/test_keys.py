"""Names of LoRA tensors, there and back."""

import pytest

from unlearn_core.lora.keys import (
    MODULES,
    SECOND_OF_TWO,
    LoraEntry,
    LoraPart,
    ModuleKey,
    entry_of_tensor,
    key_of_module,
    kohya_name,
    peft_name,
    text_module,
    unet_entry,
    unet_name,
    weight_name,
)

EVERY_KEY = [text_module(layer, module) for layer in (0, 9, 10, 22) for module in MODULES]
OF_THE_SECOND = [text_module(31, module, SECOND_OF_TWO) for module in MODULES]
Q3 = text_module(3, "q_proj")
FC1 = text_module(12, "fc1")


@pytest.mark.parametrize("key", [*EVERY_KEY, *OF_THE_SECOND])
def test_every_kohya_name_leads_back_to_its_module(key: ModuleKey) -> None:
    parts: tuple[LoraPart, ...] = ("down", "up", "alpha")
    for part in parts:
        assert entry_of_tensor(kohya_name(key, part)) == LoraEntry(key, part)


@pytest.mark.parametrize("key", EVERY_KEY)
@pytest.mark.parametrize("prefix", ["", "text_model.", "base_model.model.text_model."])
def test_every_peft_name_leads_back_to_its_module(key: ModuleKey, prefix: str) -> None:
    parts: tuple[LoraPart, ...] = ("down", "up")
    for part in parts:
        assert entry_of_tensor(peft_name(key, part, prefix)) == LoraEntry(key, part)


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_module_path_leads_back_to_its_module(key: ModuleKey) -> None:
    assert key_of_module(key.path) == key
    assert key_of_module(weight_name(key)) == key


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        (
            "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight",
            LoraEntry(Q3, "down"),
        ),
        ("lora_te1_text_model_encoder_layers_12_mlp_fc1.alpha", LoraEntry(FC1, "alpha")),
        ("text_model.encoder.layers.12.mlp.fc1.lora_A.default.weight", LoraEntry(FC1, "down")),
        ("encoder.layers.12.mlp.fc1.lora_B.default.weight", LoraEntry(FC1, "up")),
        (
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight",
            LoraEntry(Q3, "up"),
        ),
        (
            "text_encoders.clip_h.transformer.text_model.encoder.layers.12.mlp.fc1.lora_A.weight",
            LoraEntry(FC1, "down"),
        ),
        (
            "text_encoder.text_model.encoder.layers.12.mlp.fc1.lora_linear_layer.up.weight",
            LoraEntry(FC1, "up"),
        ),
        ("", None),
        ("alpha", None),
        (
            "lora_te2_text_model_encoder_layers_3_self_attn_q_proj.alpha",
            LoraEntry(text_module(3, "q_proj", SECOND_OF_TWO), "alpha"),
        ),
        (
            "text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj.lora_A.weight",
            LoraEntry(text_module(3, "q_proj", SECOND_OF_TWO), "down"),
        ),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.12.mlp.fc1.lora_B.weight",
            LoraEntry(text_module(12, "fc1", SECOND_OF_TWO), "up"),
        ),
        ("lora_te3_text_model_encoder_layers_3_self_attn_q_proj.alpha", None),
        ("lora_te_text_model_encoder_layers_3_self_attn_q_proj.dora_scale", None),
        ("lora_te_text_model_encoder_layers_3_self_attn_q_proj.hada_w1_a", None),
        ("lora_te_text_model_encoder_layers_x_self_attn_q_proj.alpha", None),
        ("lora_te_text_model_encoder_layers_3_layer_norm1.alpha", None),
        ("lora_te_text_model_encoder_layers_3_mlp_q_proj.alpha", None),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", None),
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", None),
        ("text_model.encoder.layers.3.self_attn.q_proj.weight", None),
    ],
)
def test_a_tensor_name_is_understood_or_refused(name: str, entry: LoraEntry | None) -> None:
    assert entry_of_tensor(name) == entry


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("text_model.encoder.layers.3.self_attn.q_proj", Q3),
        ("encoder.layers.3.self_attn.q_proj.base_layer", Q3),
        ("base_model.model.encoder.layers.12.mlp.fc1", FC1),
        ("text_model.encoder.layers.3.self_attn.q_proj.bias", None),
        ("text_model.encoder.layers.3.layer_norm1", None),
        ("text_model.embeddings.token_embedding", None),
    ],
)
def test_a_module_is_found_under_any_prefix(name: str, key: ModuleKey | None) -> None:
    assert key_of_module(name) == key


def test_alpha_is_no_parameter_of_peft() -> None:
    with pytest.raises(ValueError, match="alpha"):
        peft_name(Q3, "alpha")


def test_every_parameter_that_peft_adds_is_understood() -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.CLIPTextModel(config)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=list(MODULES)), model)
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    entries = {entry_of_tensor(name) for name in names}
    keys = [text_module(layer, module) for layer in (0, 1) for module in MODULES]
    assert entries == {LoraEntry(key, part) for key in keys for part in ("down", "up")}
    prefix = names[0].split("encoder.")[0]
    assert set(names) == {
        peft_name(entry.key, entry.part, prefix) for entry in entries if entry is not None
    }


@pytest.mark.parametrize("part", ["down", "up", "alpha"])
def test_a_name_of_the_unet_is_read_as_it_was_written(part: LoraPart) -> None:
    module = "up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert unet_entry(unet_name(module, part)) == (module, part)
    assert unet_name(module, "down") == f"lora_unet_{module}.lora_down.weight"


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_input_blocks_1_1_proj_in.lora_down.weight",
        "lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight",
        "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight",
    ],
)
def test_another_name_is_none_of_the_unets(name: str) -> None:
    assert unet_entry(name) is None
