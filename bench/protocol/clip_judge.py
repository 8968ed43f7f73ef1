"""CLIP as the judge of a full-size model: which object and which style a picture shows.

Zero-shot classification (Radford et al. 2021, arXiv 2103.00020, section 3.1): the text nearest to
the picture by cosine. Objects are asked about as "a photo of a dog", styles as "a picture in neon
style". The folder holds a transformers CLIPModel, such as one of clip-vit-large-patch14; nothing
is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unlearn_core.errors import BadFile
from unlearn_core.text.tokenizer import BOS, EOS, tokenize
from unlearn_core.words.prompts import Name

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on, red, green and blue, 0 to 1 (its repository)."""


class ClipJudge:
    """Names objects and styles by the nearest text."""

    def __init__(
        self, folder: Path, objects: Sequence[str], styles: Sequence[str], device: torch.device
    ) -> None:
        """Load the model and encode the names. Raises BadFile."""
        from transformers import CLIPModel

        if not (folder / "config.json").is_file():
            raise BadFile(f"{folder} holds no config.json: give the folder of a CLIPModel.")
        try:
            model: Any = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise BadFile(f"The CLIP in {folder} can't be loaded: {error}") from error
        self._model = model.to(device, torch.float32).requires_grad_(False).train(False)
        self._size = int(model.config.vision_config.image_size)
        self._device = device
        self.objects, self.styles = list(objects), list(styles)
        self._object_texts = self._encode(f"a photo of {Name.of(w).article}{w}" for w in objects)
        self._style_texts = self._encode(f"a picture in {style} style" for style in styles)

    @torch.no_grad()
    def _encode(self, texts: Any) -> Tensor:
        """(n, width), of length 1. One text at a time, so that none is padded."""
        rows = []
        for text in texts:
            ids = torch.tensor([[BOS, *tokenize(text), EOS]], device=self._device)
            rows.append(_features(self._model.get_text_features(input_ids=ids)))
        return functional.normalize(torch.cat(rows), dim=1)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, h, w) in [-1, 1] -> cosines (B, objects) and (B, styles), on the CPU."""
        sized = functional.interpolate(
            pixels.to(self._device).float(),
            size=(self._size, self._size),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        ).clamp(-1, 1)
        mean, deviation = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1)
            for values in (MEAN, DEVIATION)
        )
        features = torch.cat(
            [
                _features(self._model.get_image_features(pixel_values=part))
                for part in ((sized + 1) / 2 - mean).div(deviation).split(16)
            ]
        )
        seen = functional.normalize(features, dim=1)
        return (seen @ self._object_texts.T).cpu(), (seen @ self._style_texts.T).cpu()


def _features(output: Any) -> Tensor:
    """transformers 5 wraps the projected features, 4 returns them."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
