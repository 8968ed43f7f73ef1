"""The names of LoRA tensors: our module keys, PEFT's names and kohya's names, both ways.

Strings only; no tensor is touched here.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

from ..text.clip_model import prefix_of

ModuleName = Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
LoraPart = Literal["down", "up", "alpha"]

ATTENTION: tuple[ModuleName, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Hosts apply these only if all four exist for a layer."""
MLP: tuple[ModuleName, ...] = ("fc1", "fc2")
MODULES: tuple[ModuleName, ...] = (*ATTENTION, *MLP)
TEXT, FIRST_OF_TWO, SECOND_OF_TWO = "te", "te1", "te2"
"""The text encoder where there is one, and SDXL's two."""


class ModuleKey(NamedTuple):
    """One Linear that a LoRA changes: `ModuleKey("te", "encoder.layers.22.self_attn.q_proj")`."""

    part: str
    """Of the model: what stands behind `lora_` in kohya's names, see `TextTower.part`."""
    path: str
    """Inside that part. transformers 4 has "text_model." in front of it, transformers 5 nothing."""

    @property
    def layer(self) -> int:
        """The layer of a text encoder's module."""
        return int(self.path.split(".")[2])

    @property
    def module(self) -> ModuleName:
        """The name of a text encoder's module within its layer."""
        return cast(ModuleName, self.path.rpartition(".")[2])


class LoraEntry(NamedTuple):
    """What one tensor of a LoRA file is: which part, of which module."""

    key: ModuleKey
    part: LoraPart


def text_module(layer: int, module: ModuleName, part: str = TEXT) -> ModuleKey:
    """The key of a module of a text encoder.

    >>> text_module(3, "q_proj")
    ModuleKey(part='te', path='encoder.layers.3.self_attn.q_proj')
    """
    parent = "self_attn" if module in ATTENTION else "mlp"
    return ModuleKey(part, f"encoder.layers.{layer}.{parent}.{module}")


def weight_name(key: ModuleKey) -> str:
    """Its weight as a host lends it: "text_model.encoder.layers.3.self_attn.q_proj.weight".

    With "te1." or "te2." in front of it where there are two towers.
    """
    return f"{prefix_of(key.part)}text_model.{key.path}.weight"


def kohya_name(key: ModuleKey, part: LoraPart) -> str:
    """Its tensor in a LoRA file, in the names that ComfyUI, the WebUI and diffusers all load.

    "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight"; `.lora_up.weight`;
    `.alpha`.
    """
    module = f"lora_{key.part}_text_model_{key.path.replace('.', '_')}"
    return f"{module}.alpha" if part == "alpha" else f"{module}.lora_{part}.weight"


def peft_name(key: ModuleKey, part: LoraPart, prefix: str = "", adapter: str = "default") -> str:
    """Its parameter in a model that PEFT has injected a LoRA into.

    "encoder.layers.3.self_attn.q_proj.lora_A.default.weight" with `prefix` in front ("text_model."
    for transformers 4). Raises ValueError for "alpha", which is no parameter there.
    """
    if part == "alpha":
        raise ValueError("PEFT keeps alpha in its configuration, not in a parameter")
    letter = "A" if part == "down" else "B"
    return f"{prefix}{key.path}.lora_{letter}.{adapter}.weight"


def unet_name(module: str, part: LoraPart) -> str:
    """A UNet layer's tensor in a LoRA file, under kohya's name: see `LoraWeights.unet`.

    "lora_unet_mid_block_resnets_0_conv1.lora_down.weight"; `.lora_up.weight`; `.alpha`.
    """
    name = f"lora_unet_{module}"
    return f"{name}.alpha" if part == "alpha" else f"{name}.lora_{part}.weight"


def unet_entry(name: str) -> tuple[str, LoraPart] | None:
    """The UNet layer and the part that a tensor's kohya name says; None if it is another name.

    Only diffusers' names of layers are known, not latent diffusion's ("input_blocks_").
    """
    found = _UNET.fullmatch(name)
    if found is None:
        return None
    parts: dict[str, LoraPart] = {"lora_down.weight": "down", "lora_up.weight": "up"}
    return found["module"], parts.get(found["part"], "alpha")


_MODULE = (
    r"encoder\.layers\.(?P<layer>[0-9]{1,4})\."
    r"(?:self_attn\.(?P<attention>[qkv]_proj|out_proj)|mlp\.(?P<mlp>fc[12]))"
)
_PLAIN_MODULE = re.compile(rf"(?:.*\.)?{_MODULE}(?:\.base_layer)?(?:\.weight)?")
_KOHYA = re.compile(
    r"lora_(?P<tower>te[12]?)_text_model_"
    + _MODULE.replace(r"\.", "_")
    + r"\.(?P<part>lora_down\.weight|lora_up\.weight|alpha)"
)
_UNET = re.compile(
    r"lora_unet_(?P<module>(?:(?:down|up)_blocks_[0-9]|mid_block)_[a-z0-9_]{1,200})"
    r"\.(?P<part>lora_down\.weight|lora_up\.weight|alpha)"
)
_PEFT = re.compile(
    r"(?:base_model\.model\.)?"
    r"(?:text_encoder(?P<second>_2)?\.|text_encoders\.clip_(?P<comfy>[lgh])\.transformer\.)?"
    rf"(?:text_model\.)?{_MODULE}\."
    r"(?P<part>lora_A(?:\.\w+)?\.weight|lora_B(?:\.\w+)?\.weight|lora_down\.weight|lora_up\.weight"
    r"|lora_linear_layer\.down\.weight|lora_linear_layer\.up\.weight|alpha)"
)


def key_of_module(name: str) -> ModuleKey | None:
    """The key of a module or weight of a text encoder under any prefix; None if it is another.

    >>> key_of_module("text_model.encoder.layers.3.self_attn.q_proj")
    ModuleKey(part='te', path='encoder.layers.3.self_attn.q_proj')
    """
    found = _PLAIN_MODULE.fullmatch(name)
    return None if found is None else _key(found, TEXT)


def entry_of_tensor(name: str) -> LoraEntry | None:
    """What a tensor of a LoRA file or a parameter of a PEFT model is; None if not ours.

    Understands kohya's names (`lora_te_`, `lora_te1_`, `lora_te2_`), and PEFT's, diffusers' and
    ComfyUI's with their prefixes
    ("text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_A.weight"). A name that may be
    of one tower or of the first of two, "text_encoder." or `lora_te1_`, is given the part "te".
    """
    found = _KOHYA.fullmatch(name) or _PEFT.fullmatch(name)
    if found is None:
        return None
    part: LoraPart = "alpha"
    if re.search(r"lora_A|down", found["part"]):
        part = "down"
    elif re.search(r"lora_B|up", found["part"]):
        part = "up"
    groups = found.groupdict()
    second = groups.get("tower") == SECOND_OF_TWO or groups.get("second")
    second = second or groups.get("comfy") == "g"
    return LoraEntry(_key(found, SECOND_OF_TWO if second else TEXT), part)


def of_two_towers(key: ModuleKey) -> ModuleKey:
    """The key where the file is one of two towers: "te" is the first of them."""
    return key._replace(part=FIRST_OF_TWO) if key.part == TEXT else key


def _key(found: re.Match[str], part: str) -> ModuleKey:
    module = cast(ModuleName, found["attention"] or found["mlp"])
    return text_module(int(found["layer"]), module, part)
