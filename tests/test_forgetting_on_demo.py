"""The main job on real input: the demo model forgets its dog, in the preset without the UNet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench.protocol.cells import World
from unlearn_core.cli.drawing import DrawSettings, draw_prompts
from unlearn_core.concept import Concept
from unlearn_core.files.pictures import read_pictures
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.lora.file import load_lora, save_lora
from unlearn_core.lora.weights import LoraWeights, apply_lora
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.progress import SilentMonitor
from unlearn_core.settings import preset
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.training.inversion import invert
from unlearn_core.training.losses import drift

PICTURES = 8
FILL = "a drawing in cartoon style on a blue background, "  # the model draws the dog behind it


@dataclass
class Forgetful:
    model: DiffusersModel
    path: Path
    lora: LoraWeights
    before: TextEncoder
    after: TextEncoder
    checksums: tuple[str, str]


def checksum(model: DiffusersModel) -> str:
    digest = hashlib.sha256()
    pipeline = model.pipeline
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        for _, value in sorted(part.state_dict().items()):
            digest.update(value.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def encoder_with(model: DiffusersModel, lora: LoraWeights, strength: float) -> TextEncoder:
    weights = apply_lora(model.text_encoder_weights(), lora, strength)
    return build_encoder(model, weights)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Forgetful:
    model, _ = load_model("demo")
    first = checksum(model)
    result = unlearn(model, Concept("dog", ("puppy",)), preset("quick"))
    path = tmp_path_factory.mktemp("lora") / "forget-dog.safetensors"
    save_lora(result.lora, path)
    lora = load_lora(path)
    return Forgetful(
        model,
        path,
        lora,
        encoder_with(model, lora, 0.0),
        encoder_with(model, lora, 1.0),
        (first, checksum(model)),
    )


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def seen(forgetful: Forgetful, world: World, encoder: TextEncoder, prompt: str, wanted: str) -> int:
    settings = DrawSettings(count=PICTURES, steps=8)
    drawings = draw_prompts(forgetful.model, [prompt], encoder, settings)
    pictures = torch.stack([drawing.pixels for drawing in drawings])
    return world.read(pictures).objects.count(wanted)


# What the eraser's own templates lack, and what users really type.
WRITTEN = {
    "plain": "a photo of a dog",
    "capitals": "A PHOTO OF A DOG",
    "emphasis": "a photo of a (dog:1.4), flat style",
    "no article": "flat dog on blue",
    "synonym": "a puppy in the style of cartoon",
    "last": "cartoon style, a dog",
    "a list": "dog, white background, flat style",
    "the second chunk": FILL * 9 + "a photo of a dog",
}


@pytest.mark.parametrize("prompt", WRITTEN.values(), ids=WRITTEN)
def test_the_dog_is_not_drawn_however_it_is_written(
    forgetful: Forgetful, world: World, prompt: str
) -> None:
    assert seen(forgetful, world, forgetful.after, prompt, "dog") == 0


@pytest.mark.parametrize("form", ["plain", "the second chunk"])
def test_the_same_judge_finds_the_dog_before(forgetful: Forgetful, world: World, form: str) -> None:
    assert seen(forgetful, world, forgetful.before, WRITTEN[form], "dog") >= PICTURES - 1


@pytest.mark.parametrize("word", ["lion", "bear", "fox", "cat", "apple", "car"])
def test_other_things_stay(forgetful: Forgetful, world: World, word: str) -> None:
    before = seen(forgetful, world, forgetful.before, f"a photo of a {word}", word)
    assert seen(forgetful, world, forgetful.after, f"a photo of a {word}", word) >= before - 1


@torch.no_grad()
def test_the_empty_prompt_changes_by_less_than_one_percent(forgetful: Forgetful) -> None:
    ids = token_ids("")
    assert (
        float(drift(*(side.condition(ids).tokens for side in (forgetful.after, forgetful.before))))
        < 0.01
    )


def test_strength_zero_is_the_base_model_bit_for_bit(forgetful: Forgetful) -> None:
    base = forgetful.model.text_encoder_weights()
    at_zero = apply_lora(base, forgetful.lora, 0.0)
    assert all(torch.equal(base[name], at_zero[name]) for name in base)


def test_no_layer_beyond_the_conditioning_one_is_named(forgetful: Forgetful) -> None:
    assert max(key.layer for key in forgetful.lora.pairs) <= forgetful.model.conditioning_layers[0]


def test_the_lent_model_is_bit_for_bit_unchanged(forgetful: Forgetful) -> None:
    assert forgetful.checksums[0] == forgetful.checksums[1]


@torch.no_grad()
def test_diffusers_reads_the_file_as_the_engine_does(forgetful: Forgetful) -> None:
    from diffusers.utils import USE_PEFT_BACKEND

    if not USE_PEFT_BACKEND:
        pytest.skip("diffusers loads LoRAs only beside a newer transformers")
    pipeline = load_model("demo")[0].pipeline
    prompts = ["a photo of a dog", "a puppy, flat style", "", "a cat on a blue background"]
    ids = torch.cat([token_ids(prompt) for prompt in prompts]).to(pipeline.device)
    before = pipeline.text_encoder(ids)[0]
    pipeline.load_lora_weights(str(forgetful.path))
    theirs = pipeline.text_encoder(ids)[0]
    assert float((theirs - before).abs().max()) > 0.1
    assert float((theirs - forgetful.after.condition(ids).tokens).abs().max()) <= 1e-4


@pytest.mark.slow  # beside other processes its two threads wait for each other, for minutes
def test_vectors_are_learned_the_same_twice_with_two_threads(forgetful: Forgetful) -> None:
    concept = Concept("dog", images=read_pictures(demo_folder() / "pictures" / "dog"))
    settings = preset("balanced", inversion_steps=12)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second, third = (
            invert(
                forgetful.model,
                build_encoder(forgetful.model),
                concept,
                settings,
                ("cartoon", "sketch"),
                SilentMonitor(),
            ).vectors
            for _ in range(3)
        )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
