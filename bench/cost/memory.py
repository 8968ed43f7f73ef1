"""The estimate of memory beside counted bytes, and the README's table of it.

    python -m bench memory

A UNet of SD2's size is made on torch's meta device, where tensors have shapes and no contents, and
predictions go through it, with a gradient at the text and without. Counted are the storages that
autograd keeps (torch.autograd.graph.saved_tensors_hooks) and the most that are alive at any time,
operation by operation; weights are left out. Attention is the fused kernel that torch has for CPUs;
the meta device itself would take another one, which keeps a table of attention weights.
"""

from __future__ import annotations

import argparse
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.cost.report_memory import report_peaks
from bench.report.tables import markdown
from unlearn_core.forgetting.memory_estimate import TextSizes, UnetUse, Workload, estimate
from unlearn_core.forgetting.memory_plan import gigabytes
from unlearn_core.loaders.model_configs import published_configs
from unlearn_core.loaders.pipeline_parts import empty_parts
from unlearn_core.models.families import SD2
from unlearn_core.models.gradients import checkpointed
from unlearn_core.models.unet_sizes import UnetSizes
from unlearn_core.settings import PRESETS, UnlearnSettings

SD2_TEXT = TextSizes(49408, 1024, 4096, 23, half=True)
PICTURES = 5
COMPARED = ((1, 64), (2, 64), (4, 64), (1, 96))
"""(Pictures, edge of their latents)."""
SIZES = {"512 px, epsilon": 512, "768 px, v": 768}


class LiveBytes(TorchDispatchMode):
    """The bytes of all tensors that are alive, and the most there were; weights are left out."""

    def __init__(self, left_out: nn.Module) -> None:
        """Nothing is alive yet."""
        super().__init__()
        self._own = {weight.untyped_storage()._cdata for weight in left_out.parameters()}
        self._tensors: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """See TorchDispatchMode."""
        output = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        self.most = max(self.most, self.now)
        return output

    def _add(self, tensor: Tensor) -> None:
        place = tensor.untyped_storage()._cdata
        if place in self._own:
            return
        if self._tensors[place] == 0:
            self._sizes[place] = tensor.untyped_storage().nbytes()
            self.now += self._sizes[place]
        self._tensors[place] += 1
        weakref.finalize(tensor, self._drop, place)

    def _drop(self, place: int) -> None:
        self._tensors[place] -= 1
        if self._tensors[place] == 0:
            self.now -= self._sizes[place]


def sd2_sizes() -> UnetSizes:
    """From SD2's own config."""
    return UnetSizes.from_config(published_configs(SD2)["unet"])


def sd2_unet(dtype: torch.dtype) -> nn.Module:
    """SD2's UNet without memory."""
    configs = published_configs(SD2)
    unet, _ = empty_parts(configs["unet"], configs["vae"])
    return unet.to(dtype).requires_grad_(False).train(False)


def kept_bytes(unet: nn.Module, batch: int, edge: int) -> int:
    """What autograd keeps of one prediction for `batch` latents of `edge` x `edge`."""
    kept: dict[int, Tensor] = {}
    own = {weight.untyped_storage()._cdata for weight in unet.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _predict(unet, batch, edge)
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


def most_bytes(unet: nn.Module, batch: int, edge: int, checkpointing: bool | None) -> int:
    """The most that is alive during a prediction and its way back; None: without a gradient."""
    live = LiveBytes(unet)
    with live, torch.set_grad_enabled(checkpointing is not None):
        with checkpointed(unet) if checkpointing else nullcontext():
            output = _predict(unet, batch, edge)
        if checkpointing is not None:
            output.sum().backward()
    return live.most


def _predict(unet: nn.Module, batch: int, edge: int) -> Tensor:
    dtype = next(unet.parameters()).dtype
    latents = torch.empty(batch, 4, edge, edge, dtype=dtype, device="meta")
    text = torch.empty(batch, 77, 1024, dtype=dtype, device="meta", requires_grad=True)
    times = torch.empty(batch, dtype=torch.int64, device="meta")
    output: Tensor = unet(latents, times, encoder_hidden_states=text, return_dict=False)[0]
    return output


@contextmanager
def _fused_attention() -> Iterator[None]:
    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value
        )[0]
        return attended

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend):
        yield


def comparison(unet: nn.Module, batch: int, edge: int) -> Iterator[tuple[str, int, int]]:
    """What is compared, the bytes counted, the bytes estimated."""
    sizes, width = sd2_sizes(), next(unet.parameters()).element_size()

    def estimated(rows: int, checkpointing: bool) -> UnetUse:
        return UnetUse(sizes, 8 * edge, width, rows, 0, checkpointing)

    kept = batch * sizes.kept(edge, edge, checkpointing=False) * width
    yield "kept for the way back", kept_bytes(unet, batch, edge), kept
    for checkpointing, name in ((False, "there and back"), (True, "the same, checkpointed")):
        counted = most_bytes(unet, batch, edge, checkpointing)
        yield name, counted, estimated(batch, checkpointing).gradient_bytes
    drawing = batch * sizes.drawing(edge, edge) * width
    yield "without a gradient", most_bytes(unet, batch, edge, None), drawing


def needed_bytes(settings: UnlearnSettings, edge: int, checkpointing: bool, whole: bool) -> int:
    """Of a run on SD2 in half precision beside the model, whole batches or a picture at a time."""
    learning = settings.use_pictures and settings.inversion_steps > 0
    use = None
    if settings.needs_unet or learning or settings.stand_in_pictures:
        drawn = 2 * max(settings.stand_in_pictures, 12 if learning else 0) if whole else 1
        rows = settings.inversion_batch if whole else 1
        use = UnetUse(sd2_sizes(), edge, 2, rows, drawn, checkpointing)
    return max(estimate([SD2_TEXT], use, Workload(settings, PICTURES)).values())


def _compared() -> Iterator[Sequence[str]]:
    unet = sd2_unet(torch.float16)
    for batch, edge in COMPARED:
        for name, counted, expected in comparison(unet, batch, edge):
            numbers = [f"{counted / 1e6:,.0f} MB", f"{expected / 1e6:,.0f} MB"]
            yield str(batch), f"{8 * edge} px", name, *numbers, f"{expected / counted - 1:+.1%}"


def _presets() -> Iterator[Sequence[str]]:
    ways = ((False, True), (True, True), (True, False))
    for name, settings in PRESETS.items():
        cells = (
            gigabytes(needed_bytes(settings, edge, checkpointing, whole))
            for edge in SIZES.values()
            for checkpointing, whole in ways
        )
        yield f"`{name}`", *cells


def main(words: Sequence[str]) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="Run `quick` and its report beside a full-size text encoder; minutes.",
    )
    if parser.parse_args(words).report:
        plan, running, reporting = report_peaks()
        print(f"planned: {plan.in_words()}")
        print(f"held at most: run {gigabytes(running)}, report {gigabytes(reporting)}")
        return
    with _fused_attention():
        headers = ("pictures", "size", "what", "counted", "estimated", "off by")
        print(markdown(headers, list(_compared())), end="\n\n")
    ways = ("", "gradient checkpointing", "one picture at a time")
    header = [f"{size} {way}".strip() for size in SIZES for way in ways]
    print(markdown(["preset", *header], list(_presets())))
