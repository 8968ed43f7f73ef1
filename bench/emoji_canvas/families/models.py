"""Small SD1 and SDXL models around the demo model's UNet, each with what it trains."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.emoji_canvas.captions import LABELS
from bench.emoji_canvas.training.generator import SEED, WIDTH, Captions, text_config
from bench.emoji_canvas.training.objective import Objective, names_loss

SIZE_WIDTH = 32
"""Sines for each of SDXL's six size numbers."""
OWN_PARTS = (
    "attn2.to_k.", "attn2.to_v.", "add_embedding.",
    "mid_block.resnets.0.time_emb_proj.", "mid_block.resnets.1.time_emb_proj.",
    "up_blocks.1.resnets.0.time_emb_proj.", "up_blocks.1.resnets.1.time_emb_proj.",
)  # fmt: skip
"""What SDXL's UNet does not share with the demo model's."""
_TEXT_RATE = 8e-4
_UNET_RATE = 1e-3
_DROPPED = 0.1
"""Share of captions dropped for classifier-free guidance."""
_STREAMS = (
    ((1, 1, 1), 0.36),
    ((0, 1, 1), 0.10), ((1, 0, 1), 0.10), ((1, 1, 0), 0.06),
    ((1, 0, 0), 0.05), ((0, 1, 0), 0.05), ((0, 0, 1), 0.28),
)  # fmt: skip
"""Which of SDXL's first tokens, second tokens and pooled vector a caption keeps, how often."""


def first_config(vocabulary: int, start: int, end: int) -> CLIPTextConfig:
    """CLIP-L in small: quick_gelu, padded with the end."""
    config = text_config(vocabulary, start, end, end)
    config.hidden_act = "quick_gelu"
    return config


def second_config(vocabulary: int, start: int, end: int, pad: int) -> CLIPTextConfig:
    """OpenCLIP-bigG in small: one layer more, which moves the pooled vector only."""
    config = text_config(vocabulary, start, end, pad)
    config.num_hidden_layers += 1
    return config


def end_padded(rows: Tensor, end: int) -> Tensor:
    """(B, positions) rows with `end` in every place after the first one."""
    return rows.masked_fill((rows == end).cumsum(1) > 0, end)


def sdxl_unet_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The demo UNet's config with two towers, a pooled vector and sizes."""
    return {
        **unet.config,
        "cross_attention_dim": 2 * WIDTH,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": WIDTH + 6 * SIZE_WIDTH,
    }


def _start_tower(tower: nn.Module, trained: nn.Module, tokens: Tensor) -> None:
    """Take over the weights of a trained tower; new words keep random rows of the same size."""
    prefix = "text_model." if hasattr(tower, "text_model") else ""
    weights = {f"{prefix}{name}": value.clone() for name, value in trained.state_dict().items()}
    key = next(name for name in weights if name.endswith("token_embedding.weight"))
    rows = weights[key][tokens]
    new = ~rows.any(1)
    rows[new] = torch.randn(int(new.sum()), rows.shape[1]) * rows[~new].std()
    weights[key] = rows
    tower.load_state_dict(weights, strict=False)


class SD1(nn.Module):
    """A CLIP-L to train before the demo model's UNet, which stays as it is."""

    def __init__(self, captions: Captions, demo: Any) -> None:
        """Start from the demo pipeline's text encoder, with a fixed seed."""
        super().__init__()
        torch.manual_seed(SEED)
        self.empty = captions.empty
        start, self.end = captions.empty[:2].tolist()
        self.text_encoder = CLIPTextModel(first_config(len(captions.tokens), start, self.end))
        _start_tower(self.text_encoder, demo.text_encoder, captions.tokens)
        self.names = nn.Linear(WIDTH, len(LABELS))
        nn.init.zeros_(self.names.weight)
        self.unet = demo.unet.requires_grad_(False)
        self.objective = Objective()

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        text = [*self.text_encoder.parameters(), *self.names.parameters()]
        return [{"params": text, "lr": _TEXT_RATE}]

    def forward(
        self, latents: Tensor, rows: Tensor, named: Tensor, steps: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective's loss and the names' loss; a random tenth of the captions is dropped."""
        dropped = torch.rand(len(rows)) < _DROPPED
        rows = torch.where(dropped[:, None], self.empty[: rows.shape[1]], rows)
        encoded = self.text_encoder(end_padded(rows, self.end)).last_hidden_state
        context = encoded.repeat_interleave(len(steps) // len(latents), 0)
        loss = self.objective(
            lambda noisy: self.unet(noisy, steps, context).sample, latents, steps, noise
        )
        ends = encoded[torch.arange(len(rows)), (rows == self.end).int().argmax(1)]
        return loss, names_loss(self.names(ends), named & ~dropped[:, None])


class SDXL(nn.Module):
    """A bigG and the UNet's readers of it to train, beside a finished CLIP-L."""

    def __init__(self, captions: Captions, demo: Any, first: CLIPTextModel) -> None:
        """Start from the demo pipeline; `first` is the CLIP-L, frozen, on the same rows."""
        super().__init__()
        torch.manual_seed(SEED)
        self.empty = captions.empty
        start, self.end = captions.empty[:2].tolist()
        self.text_encoder = first.requires_grad_(False)
        config = second_config(len(captions.tokens), start, self.end, int(captions.empty[-1]))
        self.text_encoder_2 = CLIPTextModelWithProjection(config)
        _start_tower(self.text_encoder_2, demo.text_encoder, captions.tokens)
        last = self.text_encoder_2.text_model.encoder.layers[-1]
        for part in (last.self_attn.out_proj, last.mlp.fc2):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        nn.init.eye_(self.text_encoder_2.text_projection.weight)
        self.unet = self._start_unet(demo, captions)
        self.names = nn.Linear(WIDTH, len(LABELS))
        nn.init.zeros_(self.names.weight)
        self.objective = Objective()

    def _start_unet(self, demo: Any, captions: Captions) -> UNet2DConditionModel:
        """The demo's UNet: blind to the first tower, reading the second as it read its own."""
        sample = captions.rows[:64, 0]
        with torch.no_grad():
            state = self.text_encoder_2(sample, output_hidden_states=True).hidden_states[-2]
        spread = state[:, 1:].std(-1).mean()
        gain = demo.text_encoder.final_layer_norm.weight / spread
        unet = UNet2DConditionModel.from_config(sdxl_unet_config(demo.unet))
        weights = demo.unet.state_dict()
        for name, weight in weights.items():
            if "attn2.to_k." in name or "attn2.to_v." in name:
                folded = weight * gain
                folded = folded - folded.mean(1, keepdim=True)
                weights[name] = torch.cat([torch.zeros_like(folded), folded], 1)
        unet.load_state_dict(weights, strict=False)
        nn.init.zeros_(unet.add_embedding.linear_2.weight)
        nn.init.zeros_(unet.add_embedding.linear_2.bias)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(any(part in name for part in OWN_PARTS))
        return unet

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        text = [*self.text_encoder_2.parameters(), *self.names.parameters()]
        own = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        return [{"params": text, "lr": _TEXT_RATE}, {"params": own, "lr": _UNET_RATE}]

    def forward(
        self, latents: Tensor, rows: Tensor, named: Tensor, steps: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective's loss and the names' loss, with streams dropped and sizes at random."""
        rows = torch.cat([rows, self.empty[None, : rows.shape[1]]])
        with torch.no_grad():
            first = self.text_encoder(end_padded(rows, self.end), output_hidden_states=True)
        second = self.text_encoder_2(rows, output_hidden_states=True)
        streams = _drop(first.hidden_states[-2], second.hidden_states[-2], second.text_embeds)
        each = len(steps) // len(latents)
        context = torch.cat(streams[:2], 2).repeat_interleave(each, 0)
        added = {
            "text_embeds": streams[2].repeat_interleave(each, 0),
            "time_ids": random_sizes(len(latents)).repeat_interleave(each, 0),
        }
        loss = self.objective(
            lambda noisy: self.unet(noisy, steps, context, added_cond_kwargs=added).sample,
            latents, steps, noise,
        )  # fmt: skip
        return loss, names_loss(self.names(second.text_embeds[:-1]), named)


def _drop(*streams: Tensor) -> list[Tensor]:
    """Streams of B captions, each (B + 1, ...) with that of "" last, some of them dropped."""
    count = len(streams[0]) - 1
    shares = torch.tensor([share for _, share in _STREAMS])
    kept = torch.tensor([kept for kept, _ in _STREAMS])[shares.multinomial(count, True)].bool()
    dropped = torch.rand(count)
    kept &= dropped[:, None] > _DROPPED
    zeroed = dropped < _DROPPED / 2
    mixed = []
    for stream, keep in zip(streams, kept.T, strict=True):
        shape = (count, *[1] * (stream.dim() - 1))
        one = torch.where(keep.view(shape), stream[:-1], stream[-1:])
        mixed.append(one.masked_fill(zeroed.view(shape), 0.0))
    return mixed


def random_sizes(count: int) -> Tensor:
    """(count, 6) SDXL's size numbers: those of the pictures in half, any in the other half."""
    true = torch.tensor([64, 64, 0, 0, 64, 64])
    sizes = torch.randint(64, 1025, (count, 6))
    sizes[:, 2:4] = torch.randint(0, 257, (count, 2)) * (torch.rand(count, 1) < 0.5)
    return torch.where(torch.rand(count, 1) < 0.5, true, sizes).float()
