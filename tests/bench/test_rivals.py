"""The rivals: each moves the metric that it claims to, and none touches the base."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.protocol.cells import DRAW_STEPS, GUIDANCE, Cell, World, agree
from bench.protocol.erased import Erased, Family, Method, Task
from bench.rivals import concept_ablation, esd, few_shot_erasing, negative_prompt, subject, uce
from bench.rivals.unet_copy import UnetCopy
from unlearn_core.errors import BadConcept, TrainingFailed, WrongModel
from unlearn_core.files.pictures import read_pictures
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.models.lent_model import LentModel, build_encoder
from unlearn_core.models.noise import split_prediction
from unlearn_core.models.sampling import draw_pictures, paired_noise
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids

PICTURES = 24
DOG = 0  # the first object of the judge
QUICK: dict[str, tuple[Method, Family]] = {
    "UCE": (uce.FITTED, "UNet"),
    "few-shot erasing": (few_shot_erasing.FITTED, "text encoder"),
}
SHORT: dict[str, tuple[Method, Family]] = {
    **QUICK,
    "negative prompt": (negative_prompt.FITTED, "prompt"),
    "ESD-x": (replace(esd.FITTED, steps=2, drawing_steps=2), "UNet"),
    "Concept Ablation": (
        replace(concept_ablation.FITTED, steps=2, captions=3, pictures=4, drawing_steps=2),
        "UNet",
    ),
}
"""Every rival; what trains for a minute is cut to two steps."""
SLOW: dict[str, Method] = {"ESD-x": esd.FITTED, "Concept Ablation": concept_ablation.FITTED}


@dataclass(frozen=True)
class Subject:
    """The demo model, its judge, and how often it draws the dog."""

    base: Erased
    world: World
    cell: Cell
    shown: float


def draw(erased: Erased, cell: Cell) -> Tensor:
    with torch.no_grad():
        ids = torch.cat([token_ids(prompt) for prompt in cell.prompts])
        size = erased.model.native_size
        noise = torch.cat([paired_noise(cell.seed, i, size, size) for i in range(len(ids))])
        negative = erased.encoder.condition(token_ids(erased.negative))
        text = erased.encoder.condition(ids)
        return draw_pictures(erased.model, text, negative, noise, DRAW_STEPS, GUIDANCE)


@pytest.fixture(scope="module")
def demo() -> Subject:
    model, _ = load_model("demo")
    base, world = Erased(model, build_encoder(model), "base"), World()
    cell = world.cell([("dog", "dog")], PICTURES, 501)
    seen = agree(world.read(draw(base, cell)).objects, cell.objects)
    return Subject(base, world, cell, seen.count("1") / len(seen))


@pytest.fixture(scope="module")
def dog() -> Task:
    return Task("dog", "object", read_pictures(demo_folder() / "pictures" / "dog"))


def weights_of(model: LentModel, encoder: TextEncoder) -> str:
    pipeline: Any = model.pipeline  # type: ignore[attr-defined]
    digest = hashlib.sha256()
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, encoder.towers[0].model):
        for _, value in sorted(part.state_dict().items()):
            digest.update(value.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def shown(demo: Subject, erased: Erased) -> float:
    reading = demo.world.read(draw(erased, demo.cell))
    return agree(reading.objects, demo.cell.objects).count("1") / len(demo.cell.objects)


@pytest.mark.parametrize("name", QUICK)
def test_a_rival_draws_the_concept_much_less(demo: Subject, dog: Task, name: str) -> None:
    assert demo.shown >= 0.9
    assert shown(demo, QUICK[name][0](demo.base, dog)) <= demo.shown - 0.3


def test_a_negative_prompt_makes_the_judge_less_sure(demo: Subject, dog: Task) -> None:
    erased = negative_prompt.FITTED(demo.base, dog)
    sure = [
        float(demo.world.judge(draw(side, demo.cell))[0].softmax(1)[:, DOG].mean().detach())
        for side in (demo.base, erased)
    ]
    assert sure[1] < sure[0] - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_trained_rival_draws_the_concept_much_less(demo: Subject, dog: Task, name: str) -> None:
    assert shown(demo, SLOW[name](demo.base, dog)) <= demo.shown - 0.3


@pytest.mark.parametrize("name", SHORT)
def test_a_rival_leaves_the_base_as_it_was_and_the_seed_decides(
    demo: Subject, dog: Task, name: str
) -> None:
    method, family = SHORT[name]
    before = weights_of(demo.base.model, demo.base.encoder)
    state = torch.random.get_rng_state()
    first, second = method(demo.base, dog), method(demo.base, dog)
    assert weights_of(demo.base.model, demo.base.encoder) == before
    assert bool((torch.random.get_rng_state() == state).all())
    assert first.family == family
    # On a GPU the way back through a UNet adds up in no fixed order.
    if demo.base.model.device.type == "cpu" or name not in ("ESD-x", "Concept Ablation"):
        assert weights_of(first.model, first.encoder) == weights_of(second.model, second.encoder)
    changed = weights_of(first.model, first.encoder) != before
    assert changed == (family != "prompt")
    assert (first.file_bytes > 0) == (family != "prompt")
    if family in ("UNet", "text encoder"):
        assert (first.encoder is demo.base.encoder) == (family == "UNet")
        assert (first.model is demo.base.model) == (family == "text encoder")
    parts = (first.model.pipeline.unet, first.encoder.towers[0].model)  # type: ignore[attr-defined]
    assert not any(weight.requires_grad for part in parts for weight in part.parameters())


@pytest.mark.parametrize("name", ["few-shot erasing", "ESD-x", "Concept Ablation"])
def test_another_seed_gives_other_weights(demo: Subject, dog: Task, name: str) -> None:
    method, _ = SHORT[name]
    one, other = (method(demo.base, replace(dog, seed=seed)) for seed in (0, 1))
    assert weights_of(one.model, one.encoder) != weights_of(other.model, other.encoder)


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize(
    "bad",
    [
        Task("", "object"),
        Task("zzyzx", "object"),
        Task("dog", "person"),  # type: ignore[arg-type]
        Task("dog", "object", keep=("dog",)),
    ],
)
def test_a_task_that_cannot_be_done_is_refused(demo: Subject, bad: Task, name: str) -> None:
    with pytest.raises(BadConcept):
        SHORT[name][0](demo.base, replace(bad, images=(torch.zeros(3, 64, 64),)))


def test_few_shot_erasing_needs_pictures(demo: Subject) -> None:
    with pytest.raises(BadConcept, match="pictures"):
        few_shot_erasing.PUBLISHED(demo.base, Task("dog", "object"))


def test_few_shot_erasing_raises_the_denoising_loss(demo: Subject, dog: Task) -> None:
    erased = few_shot_erasing.FITTED(demo.base, dog)
    first, last = map(float, erased.notes["denoising loss"].split(" -> "))
    assert last > first


def test_few_shot_erasing_trains_the_mlps_and_the_last_attention(demo: Subject, dog: Task) -> None:
    erased = few_shot_erasing.FITTED(demo.base, dog)
    (tower,) = demo.base.encoder.towers
    before = dict(tower.layers.named_parameters())
    changed = {
        name
        for name, value in erased.encoder.towers[0].layers.named_parameters()
        if not torch.equal(value, before[name])
    }
    last = f"{len(tower.layers) - 1}.self_attn."
    # The keys' bias moves no attention: softmax takes the same away from every key.
    wanted = {n for n in before if ".mlp." in n or (n.startswith(last) and "k_proj.bias" not in n)}
    assert wanted <= changed | {f"{last}k_proj.bias"}
    assert changed <= wanted | {f"{last}k_proj.bias"}


def linear_maps(erased: Erased) -> dict[str, nn.Linear]:
    unet = erased.model.pipeline.unet  # type: ignore[attr-defined]
    return {name: part for name, part in unet.named_modules() if isinstance(part, nn.Linear)}


@pytest.mark.parametrize("settings", [uce.PUBLISHED, uce.NEWEST, uce.FITTED])
def test_uce_changes_keys_and_values_only(demo: Subject, dog: Task, settings: uce.Uce) -> None:
    before, after = linear_maps(demo.base), linear_maps(settings(demo.base, dog))
    for name, part in after.items():
        same = torch.equal(part.weight, before[name].weight)
        assert same != name.endswith(("attn2.to_k", "attn2.to_v"))


def test_uce_sends_the_concept_to_its_guide_and_keeps_what_it_must(demo: Subject) -> None:
    keep = ("horse", "car")
    settings = replace(uce.NEWEST, guide="super-category", erase_scale=100.0, preserve_scale=100.0)
    erased = settings(demo.base, Task("dog", "object", keep=keep))
    words = {
        word: demo.base.encoder.condition(token_ids(word)).tokens[0, 1]
        for word in ("dog", "animal", *keep)
    }
    before, after = linear_maps(demo.base), linear_maps(erased)
    for name in (name for name in after if name.endswith(("attn2.to_k", "attn2.to_v"))):
        was, now = before[name].weight, after[name].weight
        scale = (was @ words["dog"]).norm()
        assert (now @ words["dog"] - was @ words["animal"]).norm() < 0.02 * scale
        for word in keep:
            assert (now @ words[word] - was @ words[word]).norm() < 0.02 * scale


def test_a_turned_combination_of_v_is_that_of_eps(demo: Subject) -> None:
    generator = torch.Generator().manual_seed(3)
    noisy, with_c, without = torch.randn(3, 2, 4, 8, 8, generator=generator)
    t = torch.tensor([100, 800])
    eps = [
        split_prediction(v, noisy, t, demo.base.model.alphas_cumprod, "v")[1]
        for v in (with_c, without, without - 1.5 * (with_c - without))
    ]
    assert torch.allclose(eps[2], eps[1] - 1.5 * (eps[0] - eps[1]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("ESD-x", ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "0.bias")),
        ("Concept Ablation", ("to_k.weight", "to_v.weight")),
    ],
)
def test_a_trained_rival_changes_cross_attention_only(
    demo: Subject, dog: Task, name: str, endings: tuple[str, ...]
) -> None:
    erased = SHORT[name][0](demo.base, dog)
    unets = [one.model.pipeline.unet.state_dict() for one in (demo.base, erased)]  # type: ignore
    changed = {key for key, value in unets[1].items() if not torch.equal(value, unets[0][key])}
    assert changed == {key for key in unets[0] if "attn2." in key and key.endswith(endings)}


def test_concept_ablation_puts_the_concept_in_the_anchors_place() -> None:
    generator = torch.Generator().manual_seed(0)
    task = Task("apple", "object")
    for _ in range(30):
        general, special = concept_ablation._pair(task, "apple", "fruit", generator)
        assert general.replace("a fruit", "an apple") == special
    style = Task("sketch", "style", keep=("dog", "cartoon"))
    for _ in range(30):
        general, special = concept_ablation._pair(style, "sketch", "", generator)
        assert general in special
        assert "sketch" in special
        assert "dog" in general
        assert "in the style of" not in special  # a grammar of the benchmark's tests


def test_no_gradient_reaches_a_held_first_token(demo: Subject) -> None:
    copied = UnetCopy(demo.base)
    weight = copied.cross_attention("keys and values")[0].requires_grad_(True)
    text = torch.randn(1, 77, demo.base.encoder.width, generator=torch.Generator().manual_seed(0))
    latents, text, step = (
        part.to(demo.base.model.device)
        for part in (torch.ones(1, 4, 8, 8), text, torch.tensor([500]))
    )
    with copied.first_token_held():
        copied.predict(latents, step, Conditioning(text[:, :1])).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()
    copied.predict(latents, step, Conditioning(text)).sum().backward()
    assert weight.grad.any()


def test_a_loss_that_is_no_number_stops_the_training(demo: Subject) -> None:
    copied = UnetCopy(demo.base)
    weights = copied.cross_attention("keys and values")
    with pytest.raises(TrainingFailed):
        copied.descend(
            weights, lambda ws: torch.optim.SGD(ws, 1.0), 1, lambda: weights[0].sum() * torch.nan
        )
    assert not any(weight.requires_grad for weight in weights)


def test_a_unet_method_refuses_a_model_that_it_cannot_copy(demo: Subject, dog: Task) -> None:
    strange = replace(demo.base, model=object())  # type: ignore[arg-type]
    with pytest.raises(WrongModel):
        uce.PUBLISHED(strange, dog)


def test_the_super_category_is_a_word_of_the_model(demo: Subject) -> None:
    encoder = demo.base.encoder
    for name in demo.world.objects:
        assert encoder.knows(subject.super_category(Task(name, "object"), encoder))
    assert subject.super_category(Task("dog", "object"), encoder) == "animal"
    assert subject.super_category(Task("sketch", "style"), encoder) == ""


def test_an_object_outside_the_world_is_answered_with_its_neighbour(demo: Subject) -> None:
    found = subject.super_category(Task("kitten", "object"), demo.base.encoder)
    assert demo.base.encoder.knows(found)
    assert found != "kitten"
