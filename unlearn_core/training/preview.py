"""What the user sees while a concept is forgotten: it and two near words, before and now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..concept import Concept
from ..lora.encoder_lora import EncoderLora, all_disabled
from ..models.lent_model import LentModel
from ..models.sampling import draw_pictures, paired_noise
from ..text.text_encoder import TextEncoder
from ..words.prompt_writer import plain_template
from ..words.prompts import Name, fill, make_prompts, whole_prompts

PREVIEW_STEPS = 10

NEIGHBOURS_SHOWN = 2


class LivePreview:
    """Draws the concept and its nearest kept words, always from the same noise."""

    def __init__(
        self,
        model: LentModel,
        encoder: TextEncoder,
        loras: Sequence[EncoderLora],
        concept: Concept,
        kept: Sequence[str],
        seed: int,
    ) -> None:
        """`loras` are on towers of `encoder`, and more may follow; nothing is drawn yet."""
        template = plain_template(concept)
        words = (concept.name, *kept[:NEIGHBOURS_SHOWN])
        prompts = make_prompts([fill(template, Name.of(word, concept.kind)) for word in words])
        self._ids = prompts.token_ids
        self._model, self._encoder, self._loras, self._seed = model, encoder, loras, seed
        self._before: Tensor | None = None

    def __call__(self) -> Tensor:
        """(3, 2h, n w) float32 in [0, 1]: above without the LoRA, below with it as it is now."""
        if self._before is None:
            with all_disabled(self._loras):
                self._before = self._row()
        return torch.cat([self._before, self._row()], dim=1)

    @torch.no_grad()
    def _row(self) -> Tensor:
        size = self._model.native_size
        noise = paired_noise(self._seed, 0, size, size).expand(len(self._ids), -1, -1, -1)
        text = self._encoder.condition(self._ids)
        empty = self._encoder.condition(whole_prompts([""]).token_ids)
        pictures = draw_pictures(self._model, text, empty, noise, PREVIEW_STEPS)
        return (torch.cat(list(pictures), dim=2) + 1) / 2


@torch.no_grad()
def preview_picture(
    model: LentModel, encoder: TextEncoder, token_ids: Tensor, seed: int, learned: Tensor | None
) -> Tensor:
    """A prompt (77,) as it is drawn now, (3, h, w) float32 in [0, 1]."""
    text = encoder.condition(torch.stack([token_ids, whole_prompts([""]).token_ids[0]]), learned)
    size = model.native_size
    noise = paired_noise(seed, 0, size, size)
    return (draw_pictures(model, text[:1], text[1:], noise, PREVIEW_STEPS)[0] + 1) / 2


def draw_concept(model: LentModel, encoder: TextEncoder, concept: Concept, seed: int) -> Tensor:
    """The concept's plain prompt as this encoder draws it, (3, h, w) float32 in [0, 1]."""
    name = Name.of(concept.name, concept.kind)
    prompt = make_prompts([fill(plain_template(concept), name)])
    return preview_picture(model, encoder, prompt.token_ids[0], seed, None)
