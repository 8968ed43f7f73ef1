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
from unlearn_core.models.families import SD1, SD2, SDXL, Family
from unlearn_core.models.gradients import checkpointed
from unlearn_core.models.unet_sizes import UnetSizes
from unlearn_core.settings import PRESETS, UnlearnSettings
from unlearn_core.text.tokenizer import VOCABULARY

PICTURES = 5
COMPARED = ((SD2, 1, 64), (SD2, 2, 64), (SD2, 4, 64), (SD2, 1, 96), (SD1, 1, 64), (SDXL, 1, 128))
"""(Family, pictures, edge of their latents)."""
SIZES = ((SD1, 512), (SD2, 512), (SD2, 768), (SDXL, 1024))
"""(Family, edge of a picture)."""


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


def text_sizes(family: Family) -> list[TextSizes]:
    """Of its text encoders as they are published, in half precision."""
    return [
        TextSizes(
            VOCABULARY, tower.width, 4 * tower.width, tower.last_layer + 1, half=True,
            pooling_layers=tower.last_layer - tower.conditioning_layer, part=tower.part,
        )
        for tower in family.towers
    ]  # fmt: skip


def unet_sizes(family: Family) -> UnetSizes:
    """From its own config."""
    return UnetSizes.from_config(published_configs(family)["unet"])


def empty_unet(family: Family, dtype: torch.dtype) -> nn.Module:
    """Its UNet without memory."""
    configs = published_configs(family)
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
    config: Any = unet.config
    width = config.cross_attention_dim
    text = torch.empty(batch, 77, width, dtype=dtype, device="meta", requires_grad=True)
    times = torch.empty(batch, dtype=torch.int64, device="meta")
    pooled = None
    if config.addition_embed_type:
        sizes = torch.empty(batch, 6, dtype=dtype, device="meta")
        vector = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        pooled = {"time_ids": sizes, "text_embeds": text.new_empty(batch, vector)}
    output: Tensor = unet(
        latents, times, encoder_hidden_states=text, added_cond_kwargs=pooled, return_dict=False
    )[0]
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


def comparison(
    family: Family, batch: int, edge: int, dtype: torch.dtype = torch.float16
) -> Iterator[tuple[str, int, int]]:
    """What is compared, the bytes counted, the bytes estimated."""
    unet, sizes, width = empty_unet(family, dtype), unet_sizes(family), dtype.itemsize

    def estimated(rows: int, checkpointing: bool) -> UnetUse:
        return UnetUse(sizes, 8 * edge, width, rows, 0, checkpointing)

    kept = batch * sizes.kept(edge, edge, checkpointing=False) * width
    yield "kept for the way back", kept_bytes(unet, batch, edge), kept
    for checkpointing, name in ((False, "there and back"), (True, "the same, checkpointed")):
        counted = most_bytes(unet, batch, edge, checkpointing)
        yield name, counted, estimated(batch, checkpointing).gradient_bytes
    drawing = batch * sizes.drawing(edge, edge) * width
    yield "without a gradient", most_bytes(unet, batch, edge, None), drawing


def needed_bytes(
    family: Family, settings: UnlearnSettings, edge: int, checkpointing: bool, whole: bool
) -> int:
    """Of a run in half precision beside the model, whole batches or a picture at a time."""
    learning, use = settings.learns_vectors, None
    if learning or settings.needs_pictures or settings.stand_in_pictures:
        drawn = 2 * max(settings.stand_in_pictures, 12 if learning else 0) if whole else 1
        rows = settings.inversion_batch if whole else 1
        pictures = learning or settings.needs_pictures
        use = UnetUse(unet_sizes(family), edge, 2, rows, drawn, checkpointing, pictures)
    return max(estimate(text_sizes(family), use, Workload(settings, PICTURES)).values())


def _compared() -> Iterator[Sequence[str]]:
    for family, batch, edge in COMPARED:
        for name, counted, expected in comparison(family, batch, edge):
            numbers = [f"{counted / 1e6:,.0f} MB", f"{expected / 1e6:,.0f} MB"]
            off = f"{expected / counted - 1:+.1%}"
            yield family.name, str(batch), f"{8 * edge} px", name, *numbers, off


def _presets() -> Iterator[Sequence[str]]:
    ways = ((False, True), (True, True), (True, False))
    for name, settings in PRESETS.items():
        cells = (
            gigabytes(needed_bytes(family, settings, edge, checkpointing, whole))
            for family, edge in SIZES
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
        headers = ("family", "pictures", "size", "what", "counted", "estimated", "off by")
        print(markdown(headers, list(_compared())), end="\n\n")
    ways = ("", "gradient checkpointing", "one picture at a time")
    sizes = [f"{family.name}, {edge} px" for family, edge in SIZES]
    header = [f"{size} {way}".strip() for size in sizes for way in ways]
    print(markdown(["preset", *header], list(_presets())))
