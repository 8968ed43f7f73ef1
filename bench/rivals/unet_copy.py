"""A copy of the demo pipeline with a UNet of its own, whose cross-attention a rival may change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.protocol.erased import Erased
from unlearn_core.errors import TrainingFailed, WrongModel
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.text.conditioning import Conditioning

Trained = Literal["keys and values", "all"]


class UnetCopy:
    """A private UNet in a pipeline that shares everything else with the base."""

    def __init__(self, base: Erased) -> None:
        """Copy; raises WrongModel if the base is no DiffusersModel with float32 weights."""
        if not isinstance(base.model, DiffusersModel):
            raise WrongModel("A rival of the UNet family needs a DiffusersModel.")
        pipeline: Any = base.model.pipeline
        if next(pipeline.unet.parameters()).dtype != torch.float32:
            raise WrongModel("A rival of the UNet family trains float32 weights: load them so.")
        self.unet: nn.Module = copy.deepcopy(pipeline.unet)
        self.unet.requires_grad_(False)
        self.unet.train(False)
        own = copy.copy(pipeline)
        own.register_modules(unet=self.unet)
        self.model = DiffusersModel(own, base.model.compute_dtype)

    def projections(self) -> dict[str, nn.Linear]:
        """to_k and to_v of every cross-attention, by name."""
        return {
            name: module
            for name, module in self.unet.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(("attn2.to_k", "attn2.to_v"))
        }

    def cross_attention(self, trained: Trained) -> list[nn.Parameter]:
        """The weights of cross-attention: of to_k and to_v, or of to_q and to_out too."""
        if trained == "keys and values":
            return [module.weight for module in self.projections().values()]
        return [value for name, value in self.unet.named_parameters() if "attn2." in name]

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The UNet's output as LentModel.predict, but with a gradient for its weights."""
        return self.model._run_unet(latents, timesteps, text)

    def descend(
        self,
        weights: Sequence[nn.Parameter],
        optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer],
        steps: int,
        loss: Callable[[], Tensor],
        clip: float = 0.0,
    ) -> list[float]:
        """Lower `loss` for `steps` steps; the losses. `clip` 0 leaves gradients as they are.

        Raises TrainingFailed when the loss is no number.
        """
        losses = []
        with _wanted(weights):
            stepper = optimizer(weights)
            for step in range(steps):
                value = loss()
                if not bool(value.isfinite()):
                    raise TrainingFailed(
                        f"The loss is no number at step {step + 1}: lower the rate."
                    )
                stepper.zero_grad()
                value.backward()
                if clip:
                    nn.utils.clip_grad_norm_(weights, clip)
                stepper.step()
                losses.append(float(value.detach()))
        return losses

    @contextmanager
    def first_token_held(self) -> Iterator[None]:
        """No gradient reaches to_k and to_v through the first token, the same in every prompt."""

        def hold(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

        hooks = [module.register_forward_hook(hold) for module in self.projections().values()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def erased(
        self, base: Erased, changed: Sequence[Tensor], seconds: float, notes: dict[str, str]
    ) -> Erased:
        """What a UNet method gives back; `changed` are the weights that it hands on."""
        size = sum(weight.numel() * weight.element_size() for weight in changed)
        return Erased(self.model, base.encoder, "UNet", base.negative, seconds, size, notes)


@contextmanager
def _wanted(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """The weights want a gradient inside, and hold none after."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None
