"""The files of a run: the LoRA, its card for the WebUI, a picture, a page, and the embedding."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unlearn_core.files.file_names import safe_file_name, unused_name
from unlearn_core.files.input_files import file_digest
from unlearn_core.files.output_files import make_folder, png_bytes
from unlearn_core.files.tensor_file import write_whole
from unlearn_core.lora.file import save_lora
from unlearn_core.lora.metadata import hide_words
from unlearn_core.lora.weights import LoraWeights
from unlearn_core.measuring.evaluation import Evaluation
from unlearn_core.models.families import Family
from unlearn_core.reporting.report import page_bytes
from unlearn_core.text.embedding_file import free_embedding_name, save_embedding
from unlearn_core.training.inversion import LearnedVectors

NEUTRAL_STEM = "unlearned"
_ENDINGS = (".safetensors", ".json", ".png", ".html")


@dataclass(frozen=True)
class LoraFiles:
    """Where one LoRA and what stands beside it go: names that nobody has."""

    folder: Path
    stem: str

    @classmethod
    def unused(cls, folder: Path, concept: str, private: bool, taken: Collection[str]) -> LoraFiles:
        """forget-CONCEPT, or with -2, -3 and so on behind it; raises BadConcept.

        `taken` are names of LoRAs in any folder, in lower case: the host tells them apart by name
        alone. In private mode the name is neutral.
        """
        wanted = NEUTRAL_STEM if private else f"forget-{safe_file_name(concept)}"

        def is_taken(stem: str) -> bool:
            files = (folder / f"{stem}{ending}" for ending in _ENDINGS)
            return stem.lower() in taken or any(file.exists() for file in files)

        return cls(folder, unused_name(wanted, is_taken))

    @property
    def lora(self) -> Path:
        """The LoRA's file."""
        return self.folder / f"{self.stem}.safetensors"

    def save_lora(self, lora: LoraWeights, private: bool) -> None:
        """Write the LoRA; raises BadFile."""
        make_folder(self.folder)
        save_lora(hide_words(lora) if private else lora, self.lora)

    def save_card(
        self, family: Family, description: str, notes: Sequence[str], strength: float
    ) -> None:
        """Write what the host's LoRA card shows: its text, and the strength a click inserts.

        The host hides it while a checkpoint of another family is loaded.
        """
        card = {
            "description": description,
            "sd version": family.key.upper(),
            "activation text": "",
            "preferred weight": strength,
            "notes": "\n".join(notes),
        }
        content = json.dumps(card, indent=4, ensure_ascii=False) + "\n"
        write_whole(self.folder / f"{self.stem}.json", content.encode())

    def save_picture(self, pixels: Tensor) -> None:
        """Write the card's picture, (3, h, w) float32 in [-1, 1]."""
        write_whole(self.folder / f"{self.stem}.png", png_bytes(pixels))

    def save_page(self, evaluation: Evaluation, lora: LoraWeights) -> Path:
        """Write the report's page beside the LoRA that was saved; its path."""
        page = self.folder / f"{self.stem}.html"
        write_whole(page, page_bytes(evaluation, lora.metadata, file_digest(self.lora)))
        return page


def save_vectors(learned: LearnedVectors, concept: str, private: bool, folder: Path) -> str:
    """Write learned vectors as an embedding; the name that prompts use."""
    make_folder(folder)
    name = free_embedding_name(NEUTRAL_STEM if private else concept, folder)
    save_embedding(learned.vectors, folder / f"{name}.safetensors", learned.widths)
    return name
