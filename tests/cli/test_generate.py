"""Drawing from prompts: noise that belongs to a place, long prompts, LoRAs and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearn_core.cli.drawing import Drawing, DrawSettings, draw_prompts, noise_index
from unlearn_core.cli.generate import (
    ChosenLora,
    encoder_with_loras,
    load_embeddings,
    load_loras,
    picture_name,
    read_prompts,
)
from unlearn_core.errors import BadFile, BadSettings, Cancelled, WrongModel
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.lora.file import save_lora
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.models.sampling import paired_noise
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.embedding_file import save_embedding
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids, tokenize

LONG = ", ".join(["cat"] * 50)  # 99 tokens: two chunks
QUICK = DrawSettings(steps=1, guidance=1.0)


class RecordingModel:
    """Predicts no noise and remembers what it was asked."""

    device = torch.device("cpu")
    compute_dtype = torch.float32
    prediction = "epsilon"
    alphas_cumprod = torch.linspace(0.999, 0.01, 1000)
    native_size = 32
    conditioning_layers = (5,)
    is_distilled = False

    def __init__(self) -> None:
        self.noise: list[Tensor] = []
        self.text: list[Tensor] = []

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        self.noise.append(latents)
        self.text.append(text.tokens)
        return latents * 0

    def decode_latents(self, latents: Tensor) -> Tensor:
        return latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3) / 10


@pytest.fixture(scope="module")
def demo() -> DiffusersModel:
    return load_model("demo")[0]


@pytest.fixture(scope="module")
def encoder(demo: DiffusersModel) -> TextEncoder:
    return build_encoder(demo)


def drawn(
    encoder: TextEncoder, prompts: list[str], **options: Any
) -> dict[tuple[int, int], Tensor]:
    model: Any = RecordingModel()
    settings = DrawSettings(**{"steps": 1, "guidance": 1.0, **options})
    pictures = draw_prompts(model, prompts, encoder, settings)
    return {(one.line, one.copy): one.pixels for one in pictures}


def test_noise_belongs_to_line_and_copy_and_to_nothing_else(encoder: TextEncoder) -> None:
    many = drawn(encoder, ["a cat", "a dog", LONG, "a fox"], count=3, seed=7)
    assert sorted(many) == [(line, copy) for line in range(4) for copy in range(3)]
    fewer = drawn(encoder, ["a bee", "a bee"], count=2, seed=7)
    for place, pixels in fewer.items():
        assert torch.equal(pixels, many[place])
    assert len({pixels.numpy().tobytes() for pixels in many.values()}) == 12
    other_seed = drawn(encoder, ["a cat"], seed=8)
    assert not torch.equal(other_seed[0, 0], many[0, 0])
    assert noise_index(2, 1) == 2049


def test_the_noise_is_the_engines_paired_noise(encoder: TextEncoder) -> None:
    model: Any = RecordingModel()
    list(
        draw_prompts(
            model, ["a cat", "a dog"], encoder, DrawSettings(seed=3, steps=1, guidance=1.0)
        )
    )
    expected = [paired_noise(3, noise_index(line, 0), 32, 32) for line in (0, 1)]
    assert torch.equal(model.noise[0], torch.cat(expected))


def test_prompt_and_negative_get_the_same_number_of_chunks(encoder: TextEncoder) -> None:
    short, long = token_ids("a dog"), token_ids(LONG)
    assert (len(short), len(long)) == (1, 2)
    empty = encoder.condition(token_ids("")).tokens[0]
    for prompt, negative in ((LONG, "a dog"), ("a dog", LONG)):
        model: Any = RecordingModel()
        settings = DrawSettings(steps=1, guidance=5.0, negative=negative)
        list(draw_prompts(model, [prompt], encoder, settings))
        against, text = model.text[0]
        assert text.shape == (154, encoder.width)
        spread = encoder.condition(long).tokens.flatten(0, 1)
        filled = torch.cat([encoder.condition(short).tokens[0], empty])
        expected = (spread, filled) if prompt == LONG else (filled, spread)
        assert torch.allclose(text, expected[0], atol=1e-4)
        assert torch.allclose(against, expected[1], atol=1e-4)


def test_without_guidance_a_long_negative_costs_nothing(encoder: TextEncoder) -> None:
    model: Any = RecordingModel()
    settings = DrawSettings(steps=1, guidance=1.0, negative=LONG)
    list(draw_prompts(model, ["a dog"], encoder, settings))
    assert model.text[0].shape == (1, 77, encoder.width)


def test_prompts_of_other_lengths_are_drawn_apart_but_all_of_them(encoder: TextEncoder) -> None:
    model: Any = RecordingModel()
    prompts = [LONG, "a dog", LONG, ""]
    order = [d.line for d in draw_prompts(model, prompts, encoder, QUICK)]
    assert order == [1, 3, 0, 2]
    assert [text.shape[1] for text in model.text] == [77, 154]


def test_big_pictures_are_drawn_in_small_batches(encoder: TextEncoder) -> None:
    model: Any = RecordingModel()
    settings = DrawSettings(count=10, size=(768, 768), steps=1, guidance=1.0)
    list(draw_prompts(model, ["a dog"], encoder, settings))
    assert [len(noise) for noise in model.noise] == [4, 4, 2]


def test_emphasis_is_read_as_bare_words(encoder: TextEncoder) -> None:
    texts = []
    for prompt in ("a photo of a dog", "a photo of a (dog:1.4)"):
        model: Any = RecordingModel()
        list(draw_prompts(model, [prompt], encoder, QUICK))
        texts.append(model.text[0])
    assert torch.equal(*texts)


def test_embeddings_are_words_of_a_prompt(encoder: TextEncoder, tmp_path: Path) -> None:
    for word in ("cat", "dog"):
        vectors = encoder.word_vectors(tokenize(word))
        save_embedding(vectors, tmp_path / f"my-{word}-1.safetensors")
    files = [tmp_path / f"my-{word}-1.safetensors" for word in ("cat", "dog")]
    embeddings = load_embeddings(files, encoder.width)
    texts = []
    for prompt in ("a dog and a cat", "a my-dog-1 and a my-cat-1"):
        model: Any = RecordingModel()
        list(draw_prompts(model, [prompt], encoder, QUICK, embeddings))
        texts.append(model.text[0])
    assert torch.allclose(*texts, atol=1e-5)
    with pytest.raises(BadSettings, match="Two embeddings"):
        load_embeddings([files[0], tmp_path / "sub" / files[0].name], encoder.width)
    with pytest.raises(BadFile, match="text width 192"):
        load_embeddings(files[:1], 1024)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": (65, 64)}, "multiples of 8, for example 64x64"),
        ({"size": (0, 64)}, "width is 0"),
        ({"size": (64, 99992)}, "height is 99992"),
        ({"count": 0}, "count is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "seed is"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSettings, match=said):
        DrawSettings(**options)


def test_no_prompts_are_refused_before_anything_is_drawn(encoder: TextEncoder) -> None:
    model: Any = RecordingModel()
    with pytest.raises(BadSettings, match="0 prompts"):
        draw_prompts(model, [], encoder, QUICK)


def test_cancel_stops_at_the_next_step(encoder: TextEncoder) -> None:
    class Stops:
        reports = 0
        shows_pictures = False

        def report(self, progress: object) -> None:
            self.reports += 1

        def should_stop(self) -> bool:
            return self.reports >= 2

    model: Any = RecordingModel()
    monitor = Stops()
    settings = DrawSettings(steps=9, guidance=1.0)
    with pytest.raises(Cancelled):
        list(draw_prompts(model, ["a dog"], encoder, settings, monitor=monitor))
    assert len(model.noise) == 2


def one_layer_lora(width: int = 192) -> LoraWeights:
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, width), (4 * width, 2)))
    return LoraWeights({text_module(5, "fc1"): LoraPair(down, up, 2.0)})


def test_strength_0_draws_the_same_bits_and_strength_1_does_not(
    demo: DiffusersModel, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    save_lora(one_layer_lora(), file)
    prompts, settings = ["a photo of a dog"], DrawSettings(steps=2)
    pictures = [
        next(draw_prompts(demo, prompts, encoder_with_loras(demo, load_loras(loras)), settings))
        for loras in ([], [ChosenLora(file, 0.0)], [ChosenLora(file)])
    ]
    assert torch.equal(pictures[0].pixels, pictures[1].pixels)
    assert not torch.equal(pictures[0].pixels, pictures[2].pixels)
    assert pictures[0].pixels.shape == (3, 64, 64)


def test_loras_add_up_and_a_foreign_one_is_refused(demo: DiffusersModel, tmp_path: Path) -> None:
    file, foreign = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_lora(one_layer_lora(), file)
    save_lora(one_layer_lora(1024), foreign)
    ids = token_ids("a dog")
    twice = encoder_with_loras(demo, load_loras([ChosenLora(file, 0.5), ChosenLora(file, 0.25)]))
    once = encoder_with_loras(demo, load_loras([ChosenLora(file, 0.75)]))
    assert torch.allclose(twice.condition(ids).tokens, once.condition(ids).tokens, atol=1e-4)
    with pytest.raises(WrongModel, match="text width 1024"):
        encoder_with_loras(demo, load_loras([ChosenLora(foreign)]))


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:1.2", r"C:\loras\a.safetensors", 1.2),
        ("C:/loras/a:b.safetensors", "C:/loras/a:b.safetensors", 1.0),
        ("12", "12", 1.0),
        (":2", ":2", 1.0),
    ],
)
def test_a_strength_is_parsed_behind_any_path(text: str, file: str, strength: float) -> None:
    assert ChosenLora.parse(text) == ChosenLora(Path(file), strength)


def test_a_file_whose_name_ends_like_a_strength_wins(tmp_path: Path) -> None:
    file = tmp_path / "a:2"
    file.touch()
    assert ChosenLora.parse(str(file)) == ChosenLora(file)
    with pytest.raises(BadSettings, match="finite"):
        ChosenLora.parse("a.safetensors:nan")


def test_names_sort_by_line_then_by_copy() -> None:
    def names(lines: int, count: int) -> list[str]:
        places = [(line, copy) for line in range(lines) for copy in range(count)]
        empty = torch.empty(0)
        return [picture_name(Drawing(*place, empty), lines, count) for place in places]

    assert names(2, 2) == ["0000-0.png", "0000-1.png", "0001-0.png", "0001-1.png"]
    for lines, count in ((3, 12), (10001, 1)):
        assert names(lines, count) == sorted(names(lines, count))


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b"a dog\na cat\n", ["a dog", "a cat"]),
        (b"a dog\r\na cat", ["a dog", "a cat"]),
        (b"a dog\n\na cat\n\n", ["a dog", "", "a cat", ""]),
        (b"\xef\xbb\xbfa dog", ["a dog"]),
        (b"\n", [""]),
    ],
)
def test_prompt_n_is_line_n_of_the_file(tmp_path: Path, content: bytes, prompts: list[str]) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    assert read_prompts(tmp_path / "p.txt") == prompts


def test_prompt_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for name, said in (("none.txt", "no file"), ("empty.txt", "empty"), ("latin.txt", "UTF-8")):
        with pytest.raises(BadFile, match=said):
            read_prompts(tmp_path / name)
    with pytest.raises(BadFile, match="is a folder"):
        read_prompts(tmp_path)
