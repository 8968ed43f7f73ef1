"""Weight names of diffusers and transformers <-> those of a single-file checkpoint. Pure strings.

A single file names its weights as the original code did: `model.diffusion_model.` (UNet),
`first_stage_model.` (VAE), and the text encoders in one of the ways below.
"""

from __future__ import annotations

import re

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_ENCODER_PREFIX = "cond_stage_model.model."
TRANSFORMERS_PREFIXES = (
    "cond_stage_model.transformer.text_model.",
    "conditioner.embedders.0.transformer.text_model.",
    "cond_stage_model.transformer.",
)
"""Before a text encoder's weights that are stored under transformers' names, CLIP-L's as a rule."""
OPEN_CLIP_PREFIXES = (TEXT_ENCODER_PREFIX, "conditioner.embedders.0.model.")
"""Before those that are stored under OpenCLIP's names: SD2's, and SD-Turbo's."""
SECOND_PREFIX = "conditioner.embedders.1.model."
"""Before those of SDXL's second text encoder, under OpenCLIP's names."""

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_TEXT_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_TEXT_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_key(name: str, layers_per_block: int, attention_up_blocks: list[bool]) -> str:
    """The single-file name of a UNet2DConditionModel weight.

    `attention_up_blocks` says for each up block whether it holds cross-attention.

    >>> unet_key("down_blocks.1.resnets.0.conv1.weight", 2, [False, True, True, True])
    'model.diffusion_model.input_blocks.4.0.in_layers.2.weight'
    """
    body, end = name.rsplit(".", 1)
    if body in _UNET_ENDS:
        return f"{UNET_PREFIX}{_UNET_ENDS[body]}.{end}"
    matched = re.match(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", body
    )
    if matched:
        side, block, kind, index, rest = matched.groups()
        first = int(block) * (layers_per_block + 1)
        if kind == "downsamplers":
            return f"{UNET_PREFIX}input_blocks.{first + layers_per_block + 1}.0.op.{end}"
        if kind == "upsamplers":
            place = 2 if attention_up_blocks[int(block)] else 1
            return f"{UNET_PREFIX}output_blocks.{first + layers_per_block}.{place}.conv.{end}"
        row = first + int(index) + (1 if side == "down" else 0)
        stem = f"{'input' if side == 'down' else 'output'}_blocks.{row}"
        inner = f"0.{_UNET_RESNET[rest]}" if kind == "resnets" else f"1.{rest}"
        return f"{UNET_PREFIX}{stem}.{inner}.{end}"
    matched = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", body)
    if not matched:
        raise ValueError(f"not a UNet weight: {name}")
    kind, index, rest = matched.groups()
    if kind == "attentions":
        return f"{UNET_PREFIX}middle_block.{2 * int(index) + 1}.{rest}.{end}"
    return f"{UNET_PREFIX}middle_block.{2 * int(index)}.{_UNET_RESNET[rest]}.{end}"


def vae_key(name: str, levels: int) -> str:
    """The single-file name of an AutoencoderKL weight; `levels` is its number of resolutions.

    >>> vae_key("decoder.up_blocks.0.resnets.2.conv1.weight", 4)
    'first_stage_model.decoder.up.3.block.2.conv1.weight'
    """
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    matched = re.match(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if matched:
        half, side, block, kind, index, rest = matched.groups()
        level = int(block) if side == "down" else levels - 1 - int(block)
        inner = f"block.{index}" if kind == "resnets" else kind.removesuffix("rs")
        return f"{VAE_PREFIX}{half}.{side}.{level}.{inner}.{rest}"
    matched = re.match(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if not matched:
        return VAE_PREFIX + name
    half, kind, index, rest = matched.groups()
    if kind == "resnets":
        return f"{VAE_PREFIX}{half}.mid.block_{int(index) + 1}.{rest}"
    body, end = rest.rsplit(".", 1)
    return f"{VAE_PREFIX}{half}.mid.attn_1.{_VAE_ATTENTION[body]}.{end}"


def text_key(name: str, prefix: str = TEXT_ENCODER_PREFIX) -> tuple[str, int | None]:
    """The single-file name of a CLIPTextModel weight (without `text_model.`), and its third.

    OpenCLIP keeps query, key and value in one matrix, stacked in this order; the second value is
    which third of the rows this weight is, or None where it is the whole.

    >>> text_key("encoder.layers.3.self_attn.k_proj.bias")
    ('cond_stage_model.model.transformer.resblocks.3.attn.in_proj_bias', 1)
    """
    if name in _TEXT_ENDS:
        return prefix + _TEXT_ENDS[name], None
    matched = re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", name)
    if not matched:
        raise ValueError(f"not a text encoder weight: {name}")
    layer, body, end = matched.groups()
    stem = f"{prefix}transformer.resblocks.{layer}."
    third = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}.get(body)
    if third is not None:
        return f"{stem}attn.in_proj_{end}", third
    return f"{stem}{_TEXT_LAYER[body]}.{end}", None
