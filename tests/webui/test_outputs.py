"""The files of a run, and what they tell."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from unlearn_core.lora.file import load_lora
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights
from unlearn_core.models.families import SDXL
from unlearn_core.training.inversion import LearnedVectors
from unlearn_webui.outputs import LoraFiles, save_vectors

WORDS = ("grumpy cat", "tabby", "owl", "wolf")
METADATA = {
    "unlearn_concept": "grumpy cat",
    "unlearn_synonyms": '["tabby"]',
    "unlearn_names": '["grumpy cat", "tabby"]',
    "unlearn_stand_in": "owl",
    "unlearn_kept": '["wolf"]',
    "unlearn_kind": "object",
    "unlearn_base_model_hash": "abc",
}


def lora() -> LoraWeights:
    pair = LoraPair(torch.ones(2, 8), torch.ones(8, 2), 2.0)
    return LoraWeights({text_module(22, "q_proj"): pair}, dict(METADATA))


def test_a_name_that_any_lora_has_is_not_taken_again(tmp_path: Path) -> None:
    first = LoraFiles.unused(tmp_path, "Grumpy Cat", False, ())
    assert first.stem == "forget-grumpy-cat"
    first.save_lora(lora(), private=False)
    assert LoraFiles.unused(tmp_path, "grumpy cat", False, ()).stem == "forget-grumpy-cat-2"
    elsewhere = {"forget-grumpy-cat", "forget-grumpy-cat-2"}
    assert LoraFiles.unused(tmp_path / "sub", "grumpy cat", False, elsewhere).stem.endswith("-3")


def test_a_card_that_is_left_over_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "forget-dog.json").write_text("{}", "utf-8")
    (tmp_path / "forget-dog-2.png").write_bytes(b"")
    assert LoraFiles.unused(tmp_path, "dog", False, ()).stem == "forget-dog-3"


def test_the_files_alias_is_its_name_and_every_attention_module_is_there(tmp_path: Path) -> None:
    files = LoraFiles.unused(tmp_path, "dog", False, ())
    files.save_lora(lora(), private=False)
    read = load_lora(files.lora)
    assert read.metadata["ss_output_name"] == files.stem
    assert read.metadata["ss_v2"] == "True"
    assert {key.module for key in read.pairs} == {"q_proj", "k_proj", "v_proj", "out_proj"}


def test_the_card_says_what_the_host_reads(tmp_path: Path) -> None:
    files = LoraFiles(tmp_path, "forget-dog")
    files.save_card(SDXL, "Forgets dog.", ["kept: 99%", "ä"], 0.75)
    card = json.loads((tmp_path / "forget-dog.json").read_text("utf-8"))
    assert card == {
        "description": "Forgets dog.",
        "sd version": "SDXL",
        "activation text": "",
        "preferred weight": 0.75,
        "notes": "kept: 99%\nä",
    }


def test_the_picture_stands_beside_the_lora(tmp_path: Path) -> None:
    LoraFiles(tmp_path, "forget-dog").save_picture(torch.zeros(3, 16, 16))
    assert (tmp_path / "forget-dog.png").read_bytes().startswith(b"\x89PNG")


def test_the_private_file_names_no_word(tmp_path: Path) -> None:
    files = LoraFiles.unused(tmp_path, "grumpy cat", True, ())
    assert files.stem == "unlearned"
    files.save_lora(lora(), private=True)
    content = files.lora.read_bytes()
    for word in WORDS:
        assert word.encode() not in content
    read = load_lora(files.lora).metadata
    assert read["unlearn_private"] == "True"
    assert len(json.loads(read["unlearn_names"])) == 2
    assert LoraFiles.unused(tmp_path, "dog", True, ()).stem == "unlearned-2"


def test_an_embedding_is_not_named_like_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    learned = LearnedVectors(torch.zeros(1, 8), (), 1.0)
    assert save_vectors(learned, "dog", False, folder) == "forget-dog-concept"
    assert save_vectors(learned, "dog", True, folder) == "forget-unlearned-concept"
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_vectors_of_two_text_encoders_are_one_file_with_the_hosts_names(tmp_path: Path) -> None:
    learned = LearnedVectors(torch.arange(10.0)[None], (), 1.0, (4, 6))
    name = save_vectors(learned, "dog", False, tmp_path)
    tensors = load_file(tmp_path / f"{name}.safetensors")
    assert {key: value.tolist() for key, value in tensors.items()} == {
        "clip_l": [[0, 1, 2, 3]],
        "clip_g": [[4, 5, 6, 7, 8, 9]],
    }
