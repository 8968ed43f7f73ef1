"""What kind of LoRA file it is that this pack can't read, by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TEXT_ENCODER = re.compile(
    r"lora_te[12]?_|(?:base_model\.model\.)?"
    r"(?:text_encoder(?:_2)?\.|text_encoders\.clip_[lgh]\.|text_model\."
    r"|encoder\.layers\.)"
)
_KINDS = {
    r"dora_scale|lora_magnitude_vector": "a DoRA",
    r"\.hada_[wt]\d": "a LoHa",
    r"\.lokr_[wt]\d": "a LoKr",
    r"\.b?oft_": "an OFT",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.lora_(?:mid|cp_mid)": "a LoCon with a middle matrix",
    r"\.diff(?:_b)?$|\.set_weight$": "a file of whole differences (diff)",
    r"\.[wb]_norm$": "a LoRA with changes of the norms",
    r"\.lora_(?:B|up)(?:\.\w+)?\.bias$": "a LoRA with biases",
    r"lora_embedding_": "a LoRA of the word vectors",
    r"\.on_input$": "an IA3",
}


def is_of_text_encoder(name: str) -> bool:
    """Whether a tensor's name says that it changes a text encoder, in whatever way."""
    return _TEXT_ENCODER.match(name) is not None


def kind_of(names: Sequence[str]) -> tuple[str, str] | None:
    """Another kind of file that these names are of, in words, and the name that shows it."""
    for pattern, kind in _KINDS.items():
        for name in names:
            if re.search(pattern, name):
                return kind, name
    return None
