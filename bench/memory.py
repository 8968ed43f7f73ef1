"""The estimate of memory beside what autograd keeps, and the README's table of it.

    python -m bench.memory

A UNet of SD2's size is made on torch's meta device, where tensors have shapes and no contents, and
one prediction with a gradient at the text goes through it. The storages that autograd keeps are
counted, weights left out. Attention is the fused kernel that torch has for CPUs; the meta device
itself would take another one, which keeps a table of attention weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from unlearn_core import recompute
from unlearn_core.memory_estimate import TextSizes, UnetUse, estimate
from unlearn_core.memory_plan import gigabytes
from unlearn_core.model_files import read_json
from unlearn_core.pipeline_folder import empty_parts
from unlearn_core.settings import PRESETS, UnlearnSettings
from unlearn_core.single_file import CONFIGS_FOLDER
from unlearn_core.unet_sizes import UnetSizes

SD2_TEXT = TextSizes(49408, 1024, 4096, 23, half=True)
PICTURES = 5
SIZES = {"512 px, epsilon": 512, "768 px, v": 768}


class Kept:
    """The storages that autograd keeps, but for some."""

    def __init__(self, left_out: nn.Module) -> None:
        """The weights of `left_out` are not counted."""
        self._own = {weight.untyped_storage()._cdata for weight in left_out.parameters()}
        self._held: dict[int, Tensor] = {}

    def add(self, tensor: Tensor) -> Tensor:
        """Count the tensor's storage once."""
        place = tensor.untyped_storage()._cdata
        if place not in self._own:
            self._held[place] = tensor
        return tensor

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._held.values())


def sd2_unet(dtype: torch.dtype) -> nn.Module:
    """SD2's UNet without memory."""
    configs = [read_json(CONFIGS_FOLDER / f"{part}.json") for part in ("unet", "vae")]
    text = read_json(CONFIGS_FOLDER / "text_encoder.json")
    unet, _, _ = empty_parts(configs[0], configs[1], {**text, "num_hidden_layers": 1})
    return unet.to(dtype).requires_grad_(False).train(False)


def counted_bytes(unet: nn.Module, batch: int, edge: int, recomputes: bool) -> int:
    """What autograd keeps of one prediction for `batch` latents of `edge` x `edge`."""
    dtype = next(unet.parameters()).dtype
    latents = torch.empty(batch, 4, edge, edge, dtype=dtype, device="meta")
    text = torch.empty(batch, 77, 1024, dtype=dtype, device="meta", requires_grad=True)
    times = torch.empty(batch, dtype=torch.int64, device="meta")
    kept = Kept(unet)
    largest = 0

    def checkpoint(function: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal largest
        inside = Kept(unet)
        del kwargs["use_reentrant"], kwargs["preserve_rng_state"]
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        for tensor in given:
            kept.add(tensor)
        with saved_tensors_hooks(inside.add, lambda tensor: tensor):
            output = function(*args, **kwargs)
        largest = max(largest, inside.size)
        return output

    with _fused_attention(), saved_tensors_hooks(kept.add, lambda tensor: tensor):
        if recomputes:
            with mock.patch.object(recompute, "checkpoint", checkpoint), recompute.recomputed(unet):
                unet(latents, times, encoder_hidden_states=text)
        else:
            unet(latents, times, encoder_hidden_states=text)
    return kept.size + largest


@contextmanager
def _fused_attention() -> Iterator[None]:
    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value
        )[0]
        return attended

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend):
        yield


def needed_bytes(settings: UnlearnSettings, edge: int, recomputes: bool) -> int:
    """Of a run on SD2 in half precision, whole batches, weights not counted."""
    learning = settings.use_pictures and settings.inversion_steps > 0
    use = None
    if settings.needs_unet or learning or settings.stand_in_pictures:
        sizes = UnetSizes.from_config(read_json(CONFIGS_FOLDER / "unet.json"))
        drawn = 2 * max(settings.stand_in_pictures, 12 if learning else 0)
        use = UnetUse(sizes, edge, 2, settings.inversion_batch, drawn, recomputes)
    return max(estimate(SD2_TEXT, use, settings, PICTURES).values())


def main() -> None:
    """Print both tables."""
    sizes = UnetSizes.from_config(read_json(CONFIGS_FOLDER / "unet.json"))
    print("| pictures | latents | dtype | recomputed | counted | estimated | off by |")
    print("|---|---|---|---|---|---|---|")
    for dtype in (torch.float16, torch.float32):
        unet = sd2_unet(dtype)
        for batch, edge in ((1, 64), (4, 64), (1, 96)):
            for recomputes in (False, True):
                counted = counted_bytes(unet, batch, edge, recomputes)
                expected = batch * sizes.kept(edge, edge, recomputes) * dtype.itemsize
                print(
                    f"| {batch} | {edge} x {edge} | {str(dtype).removeprefix('torch.')} "
                    f"| {'yes' if recomputes else 'no'} | {counted / 1e6:,.0f} MB "
                    f"| {expected / 1e6:,.0f} MB | {expected / counted - 1:+.1%} |"
                )
    print("\n| preset |", " | ".join(f"{name} | recomputed" for name in SIZES), "|")
    print("|---" * (1 + 2 * len(SIZES)) + "|")
    for name, settings in PRESETS.items():
        cells = [
            gigabytes(needed_bytes(settings, edge, recomputes))
            for edge in SIZES.values()
            for recomputes in (False, True)
        ]
        print(f"| `{name}` |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
