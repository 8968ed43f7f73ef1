"""Embedding files: the format that all three hosts load, and names that prompts don't say."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlearn_core.errors import BadConcept, BadFile
from unlearn_core.text.embedding_file import free_embedding_name, load_embedding, save_embedding

VECTORS = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
NAME = "forget-dog-concept.safetensors"


def test_a_saved_embedding_is_one_float32_tensor_and_comes_back(tmp_path: Path) -> None:
    save_embedding(VECTORS, tmp_path / NAME)
    tensors = load_file(tmp_path / NAME)
    assert list(tensors) == ["emb_params"]
    assert tensors["emb_params"].dtype == torch.float32
    assert torch.equal(load_embedding(tmp_path / NAME, width=16), VECTORS)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_embedding_of_two_text_encoders_is_a_tensor_for_each_and_comes_back(
    tmp_path: Path,
) -> None:
    save_embedding(VECTORS, tmp_path / NAME, widths=(6, 10))
    tensors = load_file(tmp_path / NAME)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "clip_l": torch.float32, "clip_g": torch.float32,
    }  # fmt: skip
    assert torch.equal(tensors["clip_l"], VECTORS[:, :6])
    assert torch.equal(tensors["clip_g"], VECTORS[:, 6:])
    assert torch.equal(load_embedding(tmp_path / NAME, width=16), VECTORS)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"<dog>": VECTORS}, VECTORS),
        ({"<dog>": VECTORS[0]}, VECTORS[:1]),
        ({"clip_g": VECTORS[:, 6:].contiguous(), "clip_l": VECTORS[:, :6].contiguous()}, VECTORS),
        ({"emb_params": VECTORS.half()}, VECTORS.half().float()),
        ({"emb_params": VECTORS.bfloat16()}, VECTORS.bfloat16().float()),
    ],
)
def test_embeddings_of_other_tools_load(
    tensors: dict[str, Tensor], expected: Tensor, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    assert torch.equal(load_embedding(tmp_path / "a.safetensors"), expected)


def test_transposed_memory_and_gradients_do_not_matter(tmp_path: Path) -> None:
    save_embedding(VECTORS.t().contiguous().t().requires_grad_(), tmp_path / NAME)
    assert torch.equal(load_embedding(tmp_path / NAME), VECTORS)


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ("dog", "'forget-dog-concept'"),
        ("Dog", "'forget-dog-concept'"),
        ("gogh", "plain word"),
        ("rottweilerish", "plain word"),
        ("3", "plain word"),
        ("1889", "plain word"),
        ("...", "letters, digits"),
        ("van gogh", "'forget-van-gogh-concept'"),
        ("dog:1", "'forget-dog-1-concept'"),
        ("(dog)", "can't find"),
        ("<dog>", "can't find"),
        ("dog,", "can't find"),
        ("🐶", "can't find"),
    ],
)
def test_a_name_that_a_prompt_may_say_is_refused(stem: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=message):
        save_embedding(VECTORS, tmp_path / f"{stem}.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stem", ["forget-dog-concept", "dog_v2", "日本-1"])
def test_a_name_that_no_prompt_says_is_taken(stem: str, tmp_path: Path) -> None:
    save_embedding(VECTORS, tmp_path / f"{stem}.safetensors")
    assert torch.equal(load_embedding(tmp_path / f"{stem}.safetensors"), VECTORS)


@pytest.mark.parametrize("name", ["forget-dog-concept.pt", "forget-dog-concept"])
def test_only_safetensors_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"end in \.safetensors"):
        save_embedding(VECTORS, tmp_path / name)


@pytest.mark.parametrize(
    "vectors",
    [
        torch.ones(16),
        torch.ones(0, 16),
        torch.ones(76, 16),
        torch.ones(2, 0),
        torch.ones(1, 2, 16),
        torch.full((1, 16), torch.nan),
        torch.full((1, 16), torch.inf),
    ],
)
def test_vectors_that_no_host_could_use_are_not_saved(vectors: Tensor, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="an embedding"):
        save_embedding(vectors, tmp_path / NAME)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "0 tensors"),
        ({"clip_l": torch.ones(1, 4), "clip_h": torch.ones(1, 12)}, "2 tensors"),
        ({"clip_l": torch.ones(1, 4), "clip_g": torch.ones(2, 12)}, "hold 1 and 2 vectors"),
        ({"clip_l": torch.ones(1, 4), "clip_g": torch.ones(1, 10)}, "text width 14, this model"),
        ({"clip_l": torch.ones(1, 4), "clip_g": torch.full((1, 12), torch.nan)}, "not finite"),
        ({"emb_params": torch.ones(1, 2, 3)}, r"shape \(1, 2, 3\)"),
        ({"emb_params": torch.ones(100, 4)}, "1 to 75 vectors"),
        ({"emb_params": torch.full((1, 4), torch.nan)}, "not finite"),
        ({"emb_params": torch.ones(1, 4, dtype=torch.int32)}, "int32"),
        ({"emb_params": torch.ones(1, 1, dtype=torch.int64)}, "int64"),
        ({"emb_params": torch.ones(1, 4, dtype=torch.complex64)}, "complex64"),
        ({"emb_params": torch.tensor(1.0)}, r"shape \(\)"),
        ({"emb_params": torch.full((1, 4), 1e300, dtype=torch.float64)}, "not finite"),
        ({"emb_params": torch.ones(1, 4)}, "text width 4, this model has 16"),
    ],
)
def test_a_file_that_is_no_embedding_is_refused(
    tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match=message):
        load_embedding(tmp_path / "a.safetensors", width=16)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_under_every_name(name: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(
        {"string_to_param": {"*": VECTORS}},
        tmp_path / name,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(BadFile, match="pickle"):
        load_embedding(tmp_path / name)


def test_a_missing_and_a_truncated_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="There is no file"):
        load_embedding(tmp_path / NAME)
    save_embedding(VECTORS, tmp_path / NAME)
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:-4])
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_embedding(tmp_path / NAME)


def test_a_free_name_says_the_concept_and_avoids_files(tmp_path: Path) -> None:
    assert free_embedding_name("Van Gogh", tmp_path) == "forget-van-gogh-concept"
    save_embedding(VECTORS, tmp_path / "forget-van-gogh-concept.safetensors")
    assert free_embedding_name("Van Gogh", tmp_path) == "forget-van-gogh-concept-2"
    with pytest.raises(BadConcept):
        free_embedding_name("...", tmp_path)
