"""Stage 2: text encoder and UNet, trained together on the VAE's latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from bench.emoji_canvas.captions import LABELS, write_caption
from bench.emoji_canvas.pictures import Scene
from bench.emoji_canvas.training.objective import Objective, names_loss, spread_steps
from bench.emoji_canvas.training.stage import Checkpoint, Stage, warm_cosine
from unlearn_core.text.tokenizer import token_ids

WIDTH = 192
CHANNELS = (64, 128, 192)
POSITIONS = 77
PICTURES = 32
"""Pictures, each with one caption, in a batch."""
NOISES = 4
"""Steps and noises for each of them: the text is encoded once for all."""
SEED = 2
_LEARNING_RATE = 1.0e-3
_TEXT_SHARE = 0.7
"""The text encoder's learning rate over the UNet's."""
_DROPPED = 0.1
"""Share of captions replaced by "" for classifier-free guidance."""
_SHORT = 32
"""Positions computed until _LONG_FROM of the budget; longer captions are cut."""
_LONG_FROM = 0.7
_NAMES_WEIGHT = 0.03
_CAPTIONS_EACH = 6
_LOG_EVERY = 100


def new_unet() -> UNet2DConditionModel:
    """The untrained UNet: SD2's blocks, one layer each, 8.9 M parameters."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=[channels // 64 for channels in CHANNELS],
        use_linear_projection=True,
    )


def text_config(vocabulary: int, start: int, end: int, pad: int) -> CLIPTextConfig:
    """SD2's text tower in small: 6 layers, the last of which plays the penultimate one."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=3,
        max_position_embeddings=POSITIONS,
        projection_dim=WIDTH,
        hidden_act="gelu",
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=pad,
    )


@dataclass(frozen=True)
class Captions:
    """Several captions for every picture, as rows of a compact vocabulary."""

    rows: Tensor
    """(N, captions each, POSITIONS) int64."""
    named: Tensor
    """(N, captions each, labels) bool: what each caption says outright."""
    tokens: Tensor
    """(rows,) int64: the CLIP token of each row."""

    @property
    def empty(self) -> Tensor:
        """(POSITIONS,) the rows of ""."""
        return torch.searchsorted(self.tokens, token_ids("")[0])


def write_captions(scenes: list[Scene], described: float = 0.0) -> Captions:
    """Captions for each scene, from a fixed seed; `described` as `write_caption` has it."""
    rng = np.random.default_rng(SEED)
    written = [
        write_caption(scene, rng, described) for scene in scenes for _ in range(_CAPTIONS_EACH)
    ]
    texts = sorted({caption.text for caption in written})
    place = {text: index for index, text in enumerate(texts)}
    ids = torch.cat([token_ids(text) for text in ["", *texts]])
    tokens = ids.unique()
    rows = torch.searchsorted(tokens, ids[1:])
    named = torch.zeros(len(written), len(LABELS), dtype=torch.bool)
    for index, caption in enumerate(written):
        named[index, list(caption.labels)] = True
    shape = (len(scenes), _CAPTIONS_EACH, -1)
    chosen = rows[torch.tensor([place[caption.text] for caption in written])]
    return Captions(chosen.view(shape), named.view(shape), tokens)


class Generator(nn.Module):
    """Text encoder and UNet, with a head that reads off the text what it names."""

    def __init__(self, captions: Captions) -> None:
        """Untrained, from a fixed seed."""
        super().__init__()
        torch.manual_seed(SEED)
        start, end = captions.empty[:2].tolist()
        self.end = end
        config = text_config(len(captions.tokens), start, end, int(captions.empty[-1]))
        self.text_encoder = CLIPTextModel(config)
        for name, parameter in self.text_encoder.named_parameters():
            if "embedding" in name:
                nn.init.normal_(parameter, std=0.02 if "position" in name else 0.1)
        self.unet = new_unet()
        self.names = nn.Linear(WIDTH, len(LABELS))
        self.objective = Objective()

    def start_from(self, pipeline: Any, captions: Captions) -> None:
        """Take over the weights of a trained pipeline; new words keep their random rows."""
        self.unet.load_state_dict(pipeline.unet.state_dict())
        table = pipeline.text_encoder.get_input_embeddings().weight.data
        known = table[captions.tokens]
        mine = self.text_encoder.get_input_embeddings().weight.data
        new = ~known.any(1)
        known[new] = mine[new] * (known[~new].std() / mine.std())
        weights = pipeline.text_encoder.state_dict()
        key = next(name for name in weights if name.endswith("token_embedding.weight"))
        self.text_encoder.load_state_dict({**weights, key: known})

    def forward(
        self, latents: Tensor, rows: Tensor, named: Tensor, steps: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The objective's loss and the names' loss; rows (B, positions), named (B, labels)."""
        encoded = self.text_encoder(rows).last_hidden_state
        context = encoded.repeat_interleave(len(steps) // len(latents), 0)
        loss = self.objective(
            lambda noisy: self.unet(noisy, steps, context).sample, latents, steps, noise
        )
        end = (rows == self.end).int().argmax(1)
        return loss, names_loss(self.names(encoded[torch.arange(len(rows)), end]), named)


def train_generator(
    latents: Tensor,
    captions: Captions,
    folder: Path,
    minutes: float,
    start: Any = None,
) -> Generator:
    """Train for `minutes` in all, resuming what lies in `folder`; returns the averaged weights.

    `latents` (N, 4, 8, 8) scaled by the VAE's factor, in the order of `captions`; `start` is a
    pipeline to go on from.
    """
    stage = Stage("generator", folder, minutes)
    model = Generator(captions)
    if start is not None:
        model.start_from(start, captions)
    text = [*model.text_encoder.parameters(), *model.names.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": list(model.unet.parameters())}, {"params": text}],
        lr=_LEARNING_RATE,
        betas=(0.9, 0.99),
        weight_decay=1e-3,
        fused=True,
    )
    kept = Checkpoint(stage, model, optimizer, 0.999)
    torch.manual_seed(SEED + kept.step)
    losses: list[float] = []

    while (share := stage.share) < 1:
        rate = warm_cosine(kept.step, 150, share)
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE * rate
        optimizer.param_groups[1]["lr"] = _LEARNING_RATE * rate * _TEXT_SHARE
        picked = torch.randint(len(latents), (PICTURES,))
        told = torch.randint(captions.rows.shape[1], (PICTURES,))
        rows, named = captions.rows[picked, told], captions.named[picked, told]
        dropped = torch.rand(PICTURES) < _DROPPED
        rows[dropped], named[dropped] = captions.empty, False
        if share < _LONG_FROM:
            rows = rows[:, :_SHORT]
        batch = PICTURES * NOISES
        steps = spread_steps(batch)
        noise = torch.randn(batch, *latents.shape[1:])
        loss, names = model(latents[picked], rows, named, steps, noise)
        optimizer.zero_grad()
        (loss + _NAMES_WEIGHT * names).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step = kept.stepped()
        losses.append(loss.item())
        if step % _LOG_EVERY == 0:
            recent = float(np.mean(losses[-_LOG_EVERY:]))
            stage.log(step=step, loss=round(recent, 4), names=round(names.item(), 3))
        if stage.due:
            kept.save()
    kept.finish()
    return model
