"""A LentModel for tests: every part that the engine uses, so small that a run takes a second.

tests/ is no package; conftest.py loads this file under the plain name `tiny_model`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearn_core.concept import Kind
from unlearn_core.models.adapter import ModelAdapter
from unlearn_core.models.families import SD2, Prediction
from unlearn_core.progress import Progress
from unlearn_core.settings import UnlearnSettings
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import BOS, CHUNK, EOS, PAD, VOCABULARY, tokenize
from unlearn_core.text.tower_encoder import TowerEncoder
from unlearn_core.words.prompt_templates import FILLERS, GUARD_PROMPTS
from unlearn_core.words.prompt_writer import PromptWriter, Surroundings

WIDTH, INNER, LAYERS, LAST_USED = 64, 96, 4, 2
"""As SD2 in small: one layer more than those that condition the picture."""

ANIMALS = ("dog", "cat", "fox", "wolf", "horse", "cow", "pig", "rabbit", "owl")
PEOPLE = ("doctor", "nurse", "king", "queen", "farmer", "teacher")
THINGS = ("apple", "banana", "car", "bus", "rose", "house", "chair", "table", "guitar")
NOUNS = (*ANIMALS, *PEOPLE, *THINGS)
STYLES = ("anime", "cartoon", "etching", "fresco", "graffiti", "mosaic", "manga")
_FURTHER = (
    "dr strange dogs cats puppy kitten animal canine photo picture image drawing painting of in on"
    " and style background a an , . white gray black red orange yellow green blue purple pink"
    " sword gun cart van gogh nudity taylor"
)
UNKNOWN = "xylograph"
"""A word of which no piece has a vector."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


KNOWN_WORDS = " ".join((*NOUNS, *STYLES, *FILLERS, *GUARD_PROMPTS, _FURTHER))


@cache
def _text_encoder_weights() -> dict[str, Tensor]:
    known = torch.zeros(VOCABULARY, 1)
    known[[BOS, EOS, PAD, *tokenize(KNOWN_WORDS)]] = 1
    name = "text_model.embeddings."
    weights = {
        f"{name}token_embedding.weight": draw(VOCABULARY, WIDTH) * 0.5 * known,
        f"{name}position_embedding.weight": draw(CHUNK, WIDTH, seed=1) * 0.1,
    }
    linears = {f"self_attn.{x}_proj": (WIDTH, WIDTH) for x in ("q", "k", "v", "out")}
    linears |= {"mlp.fc1": (INNER, WIDTH), "mlp.fc2": (WIDTH, INNER)}
    for layer in range(LAYERS):
        name = f"text_model.encoder.layers.{layer}."
        for number, (module, shape) in enumerate(linears.items()):
            seed = 100 * layer + 10 * number + 2
            weights[f"{name}{module}.weight"] = draw(*shape, seed=seed) / shape[1] ** 0.5
            weights[f"{name}{module}.bias"] = draw(shape[0], seed=seed + 1) * 0.02
        weights |= _layer_norm(f"{name}layer_norm1", 100 * layer + 80)
        weights |= _layer_norm(f"{name}layer_norm2", 100 * layer + 90)
    return weights | _layer_norm("text_model.final_layer_norm", 999)


def _layer_norm(name: str, seed: int) -> dict[str, Tensor]:
    scale, shift = draw(2, WIDTH, seed=seed) * torch.tensor([[0.1], [0.02]])
    return {f"{name}.weight": 1 + scale, f"{name}.bias": shift}


def text_encoder_weights() -> dict[str, Tensor]:
    """Fresh copies, so that a test may spoil them."""
    return {name: value.clone() for name, value in _text_encoder_weights().items()}


def tower_of(
    weights: dict[str, Tensor],
    conditioning_layer: int = LAST_USED,
    products: torch.dtype = torch.float32,
) -> TowerEncoder:
    """SD2's kind of tower, of any size."""
    return TowerEncoder(SD2.towers[0], weights, conditioning_layer, torch.device("cpu"), products)


def tiny_tower() -> TowerEncoder:
    return tower_of(_text_encoder_weights())


def tiny_encoder() -> TextEncoder:
    return TextEncoder([tiny_tower()])


class TinyModel(ModelAdapter):
    """A lent model whose UNet is one cross-attention from latent pixels to the text."""

    checks_gradient = False
    family = SD2

    def __init__(self, prediction: Prediction = "v", broken: bool = False) -> None:
        self.device = torch.device("cpu")
        self.compute_dtype = torch.float32
        self.prediction: Prediction = prediction
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.alphas_cumprod = (1 - betas).cumprod(0).float()
        self.native_size = 64
        self.unet = nn.Identity()
        self.conditioning_layers = (LAST_USED,)
        self.free: int | None = None
        self.broken = broken
        """Whether the UNet answers NaN."""
        self.calls: Counter[str] = Counter()
        self._weights = text_encoder_weights()
        self._query = draw(4, 16, seed=11)
        self._key = draw(WIDTH, 16, seed=12) / WIDTH**0.5
        self._value = draw(WIDTH, 4, seed=13) / WIDTH**0.5
        self._phase = draw(16, seed=14)

    def text_encoder_weights(self) -> dict[str, Tensor]:
        self.calls["text_encoder_weights"] += 1
        return {name: value.clone() for name, value in self._weights.items()}

    def free_memory(self) -> int | None:
        return self.free

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        assert len(latents) == len(timesteps) == len(text)
        assert timesteps.dtype == torch.int64
        assert text.tokens.shape[1] % CHUNK == 0
        assert text.tokens.shape[2] == len(self._key)
        self.calls["predict"] += 1
        pixels = latents.flatten(2).transpose(1, 2)
        phase = torch.sin(timesteps.float()[:, None, None] / 1000 * 3 + self._phase)
        query = pixels @ self._query + phase
        share = (query @ (text.tokens @ self._key).transpose(1, 2) / 4).softmax(-1)
        output = 0.5 * pixels + share @ (text.tokens @ self._value)
        if self.broken:
            output = output * float("nan")
        return output.transpose(1, 2).reshape(latents.shape)

    def _encode(self, pixels: Tensor) -> Tensor:
        self.calls["encode_image"] += 1
        small = functional.avg_pool2d(pixels, 8)
        return torch.cat([small, small.mean(1, keepdim=True)], dim=1)

    def _decode(self, latents: Tensor) -> Tensor:
        self.calls["decode_latents"] += 1
        return functional.interpolate(latents[:, :3], scale_factor=8)

    def checksum(self) -> str:
        """Of every tensor that the model is made of."""
        digest = hashlib.sha256()
        parts = (*self._weights.values(), self._query, self._key, self._value, self._phase)
        for tensor in (*parts, self.alphas_cumprod):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


class Recorder:
    """A monitor that keeps every report, and stops at the given question (0 is the first)."""

    shows_pictures = True

    def __init__(self, stop_at: int | None = None, stop_in: str | None = None) -> None:
        self.reports: list[Progress] = []
        self.asked = 0
        self.stop_at, self.stop_in = stop_at, stop_in

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)

    def should_stop(self) -> bool:
        self.asked += 1
        if self.stop_in is not None:
            return any(r.stage == self.stop_in and r.step >= 2 for r in self.reports)
        return self.stop_at is not None and self.asked > self.stop_at

    @property
    def stages(self) -> list[str]:
        """The stages that were reported, in order."""
        return list(dict.fromkeys(report.stage for report in self.reports))


def pictures(count: int = 4, size: int = 64) -> tuple[Tensor, ...]:
    """Alike pictures, (3, size, size) each: a reddish blot on grey, a little noise."""
    blot = torch.zeros(3, size, size)
    blot[0, size // 4 : -size // 4, size // 4 : -size // 4] = 0.9
    return tuple(
        (blot + 0.05 * draw(3, size, size, seed=50 + i)).clamp(-1, 1) for i in range(count)
    )


def small_settings(**changes: object) -> dict[str, object]:
    """What makes any preset quick, for `preset(name, **small_settings())`."""
    small: dict[str, object] = {
        "steps": 6, "batch_size": 4, "forget_prompts": 12, "keep_prompts": 16, "rank": 4,
        "inversion_steps": 4, "inversion_batch": 2, "caption_styles": 2, "stand_in_pictures": 2,
    }  # fmt: skip
    return {**small, **changes}


def make_settings(**changes: object) -> UnlearnSettings:
    return UnlearnSettings(**small_settings(**changes))  # type: ignore[arg-type]


def make_writer(kind: Kind = "object", seed: int = 0, varied: bool = True) -> PromptWriter:
    around = Surroundings(("cat", "car", "apple", "rose", "house"), ("anime", "mosaic"))
    return PromptWriter(kind, around, torch.Generator().manual_seed(seed), varied)
