"""How far the empty prompt and five common negative prompts move, in the text and in the UNet.

Interfaces encode both with the text encoder that has forgotten, so what moves there changes every
picture. Of the two measures the first is the README's; the second is for methods that change the
UNet, where the first is 0 whatever they do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.protocol.erased import Erased
from unlearn_core.models.noise import add_noise
from unlearn_core.models.sampling import encode_pictures, paired_noise
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.training.losses import drift
from unlearn_core.words.prompt_templates import GUARD_PROMPTS

TIMESTEPS = (200, 500, 800)
SEED = 9

Drifts = dict[str, float]
"""Prompt -> relative change, the empty prompt first."""


@torch.no_grad()
def text_drift(encoder: TextEncoder, base: TextEncoder) -> Drifts:
    """Greatest relative change of any position's state or the pooled vector, see `losses.drift`."""
    ids = torch.cat([token_ids(prompt) for prompt in GUARD_PROMPTS])
    pairs = zip(encoder.states(ids), base.states(ids), strict=True)
    found = torch.stack([drift(*pair) for pair in pairs]).amax(0)
    return dict(zip(GUARD_PROMPTS, found.tolist(), strict=True))


@torch.no_grad()
def drawn_drift(erased: Erased, base: Erased, pictures: Sequence[Tensor]) -> Drifts:
    """|e - e0| / |e0| of the UNet's output on noised pictures, mean over these and TIMESTEPS.

    This measure is our own.
    """
    clean = encode_pictures(base.model, pictures)
    size = base.model.native_size
    noise = torch.cat([paired_noise(SEED, i, size, size) for i in range(len(clean))]).to(clean)
    drifts = dict.fromkeys(GUARD_PROMPTS, 0.0)
    for time in TIMESTEPS:
        t = torch.full((len(clean),), time, device=clean.device)
        noisy = add_noise(clean, noise, t, base.model.alphas_cumprod)
        for prompt in GUARD_PROMPTS:
            after, before = (
                side.model.predict(noisy, t, _encoded(side, prompt, len(t)))
                for side in (erased, base)
            )
            change = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
            drifts[prompt] += float(change.mean()) / len(TIMESTEPS)
    return drifts


def _encoded(side: Erased, prompt: str, count: int) -> Conditioning:
    return side.encoder.condition(token_ids(prompt)).expand(count)
