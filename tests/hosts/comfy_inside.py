"""Inside ComfyUI's Python, with the pack loaded: `SCRIPT.py COMFYUI PACK ...` imports this first.

The pack is loaded from a path with a dash, as ComfyUI does it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from typing import Any

import torch
from comfy_launcher import stand_in_for_packages

folder, checkout, *ARGUMENTS = sys.argv[1:]
PROMPTS = ("a photo of a dog", "", "a sketch of an apple on a green background, " * 10)
sys.argv = ["main.py", "--cpu"]
os.chdir(folder)
sys.path[0] = folder
held = stand_in_for_packages()
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.sample  # noqa: E402
import comfy.sampler_helpers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import utils.install_util  # noqa: E402, F401  (before comfy.utils takes its name)

PACK = "sd_unlearn_in_comfyui"
spec = importlib.util.spec_from_file_location(
    PACK, f"{checkout}/__init__.py", submodule_search_locations=[checkout]
)
assert spec
assert spec.loader
sys.modules[PACK] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[PACK])


def ours(name: str) -> Any:
    """A module of the pack."""
    return importlib.import_module(f"{PACK}.{name}")


class Monitor:
    """Stops after some questions."""

    shows_pictures = True

    def __init__(self, stop_after: int = 10**9) -> None:
        self.left = stop_after

    def report(self, progress: Any) -> None:
        """Show nothing."""

    def should_stop(self) -> bool:
        """Whether the questions are used up."""
        self.left -= 1
        return self.left < 0


def checksum(*modules: Any) -> str:
    """Of every weight."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()


def greatest(one: Any, other: Any) -> float:
    """Greatest absolute difference."""
    return float((one.float() - other.float()).abs().max())


def host_encode(clip: Any, text: str) -> tuple[Any, Any]:
    """The conditioning as CLIPTextEncode gives it: (1, 77 n, width), and the pooled vector."""
    with torch.inference_mode():
        tokens, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        return tokens.clone(), pooled.clone()


def own_encode(encoder: Any, text: str) -> Any:
    """The same of our copy of the text encoder, as a Conditioning."""
    ids = ours("unlearn_core.text.tokenizer").token_ids(text)
    return encoder.condition(ids).side_by_side(len(ids))


def text_error(encoder: Any, clip: Any, prompt: str) -> float:
    """Between our copy and ComfyUI: the greatest error of a state of a text encoder.

    Relative to the root mean square of its states where that is above 1: SDXL's have no final norm.
    """
    own, (tokens, pooled) = own_encode(encoder, prompt), host_encode(clip, prompt)
    pairs = list(zip(encoder.split(own.tokens), encoder.split(tokens), strict=True))
    if own.pooled is not None:
        pairs.append((own.pooled, pooled))
    return max(greatest(one, other) / max(1.0, size(other)) for one, other in pairs)


def size(states: Any) -> float:
    """The root mean square."""
    return float(states.float().square().mean().sqrt())
