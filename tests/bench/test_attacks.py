"""Each attack succeeds on the model that has forgotten nothing, and leaves it as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.attacks import (
    AttackCurve,
    Point,
    Restart,
    pass_through,
    soft_prompt,
    textual_inversion,
    words,
)
from bench.attacks.descent import Pace, descend, word_size
from bench.attacks.pass_through import FreeState
from bench.attacks.pictures import COUNT, FOLDER, SHOWN, attack_pictures
from bench.attacks.target import NegativeKept, Target, attacked_model, draw
from bench.protocol.cells import GUIDANCE, World
from bench.protocol.erased import Erased
from bench.protocol.metrics import Share
from bench.protocol.splits import ATTACKED, CONTROLS, TEST
from unlearn_core.concept import Concept
from unlearn_core.files.pictures import read_pictures
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.lora.weights import apply_lora
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.settings import preset
from unlearn_core.text.tokenizer import VOCABULARY, token_ids, tokenize

SHORT = textual_inversion.InversionSettings(
    steps=2, recorded=(2,), starts=("random",), batch=2, pictures=1
)
SHORT_PACE = Pace(steps=2, recorded=(2,), batch=2, pictures=1)
SHORT_PROMPT = soft_prompt.SoftPromptSettings(
    steps=3, recorded=(3,), restarts=1, step=0.8, radius=0.5, batch=2, pictures=1
)


def checksum(model: DiffusersModel) -> str:
    digest = hashlib.sha256()
    for part in (model.pipeline.unet, model.pipeline.vae):
        for _, value in sorted(part.state_dict().items()):
            digest.update(value.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def base() -> Iterator[Erased]:
    """The demo model; every attack of this file must leave it unchanged."""
    model, _ = load_model("demo")
    encoder = build_encoder(model)
    before = checksum(model), encoder.fingerprint()
    yield Erased(model, encoder, "base")
    assert (checksum(model), encoder.fingerprint()) == before


def first_and_last(curve: AttackCurve) -> tuple[float, float]:
    points = curve.best.points
    return points[0].total.value, points[-1].total.value


def test_textual_inversion_learns_a_dog_from_a_neutral_word(base: Erased, world: World) -> None:
    settings = replace(textual_inversion.QUICK, steps=30, recorded=(0, 30), pictures=6)
    curve = textual_inversion.attack(base, "dog", attack_pictures("dog"), settings, 0, world)
    start, end = first_and_last(curve)
    assert start <= 0.25
    assert end >= 0.75
    assert curve.best.last.loss < curve.best.points[0].loss - 0.05
    assert curve.steps == (0, 30)


def test_a_soft_prompt_learns_a_dog_from_a_neutral_prompt(base: Erased, world: World) -> None:
    settings = replace(soft_prompt.QUICK, word="object", steps=15, recorded=(0, 15), pictures=6)
    curve = soft_prompt.attack(base, "dog", attack_pictures("dog"), settings, 0, world)
    start, end = first_and_last(curve)
    assert start <= 0.34
    assert end >= 0.75


def test_a_long_vector_passes_through_the_text_encoder(base: Erased, world: World) -> None:
    settings = replace(pass_through.QUICK, steps=30, recorded=(0, 30), pictures=6)
    curve = pass_through.attack(base, "dog", attack_pictures("dog"), settings, 0, world)
    start, end = first_and_last(curve)
    assert start <= 0.25
    assert end >= 0.75


def test_the_text_encoder_adds_little_to_a_long_vector(base: Erased, world: World) -> None:
    target = FreeState(base, "dog", attack_pictures("dog"), world, 1, pass_through.TEMPLATES)
    ids = target.ids(["a photo of a <v>"])
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(1, base.encoder.width, generator=generator).to(base.model.device)
    place = (ids[0] >= VOCABULARY).nonzero().item()
    wanted = target.encode(ids, state).tokens[0, place]
    with torch.no_grad():
        errors = [
            float((base.encoder.condition(ids, length * state).tokens[0, place] - wanted).norm())
            for length in (1.0, 10.0, 100.0, 1000.0)
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.05 * float(wanted.norm())


def test_some_words_draw_a_dog(base: Erased, world: World) -> None:
    settings = words.WordSettings(pictures=1, most=1)
    curve = words.attack(base, "dog", (), settings, 0, world)
    found = words.against(base=curve, erased=curve)
    assert {"dog", "puppy"} <= {one.entry.text for one in found}
    assert {"name", "synonym", "paraphrase"} <= {one.entry.kind for one in found}
    assert all(one.base == one.erased for one in found)
    assert len(found) < len(curve.restarts)  # "d o g" draws no dog


def test_words_draw_a_style(base: Erased, world: World) -> None:
    entry = words.Entry("neon sign", "paraphrase")
    shares = words.shown(base, entry, "neon", 6, 0, world)
    assert sum(shares.values(), Share(0, 0)).value >= 0.75


def test_the_same_seed_learns_the_same_vectors(base: Erased, world: World) -> None:
    def learned(seed: int) -> Tensor:
        target = Target(base, "dog", attack_pictures("dog"), world, 1, textual_inversion.TEMPLATES)
        (run,) = textual_inversion.descents(target, SHORT, seed)
        descend(target, [run], SHORT_PACE)
        return run.vectors

    first = learned(3)
    assert torch.equal(first, learned(3))
    assert not torch.equal(first, learned(4))


def test_restarts_side_by_side_do_what_each_does_alone(base: Erased, world: World) -> None:
    target = Target(base, "dog", attack_pictures("dog"), world, 2, textual_inversion.TEMPLATES)
    settings = replace(SHORT, vectors=2, starts=("object", "random"))
    together, alone = (textual_inversion.descents(target, settings, 3) for _ in range(2))
    restarts = descend(target, together, SHORT_PACE)
    for run, other, restart in zip(together, alone, restarts, strict=True):
        (single,) = descend(target, [other], SHORT_PACE)
        # Half precision sums a larger batch in another order.
        assert restart.losses == pytest.approx(single.losses, rel=0.02)
        cosine = torch.nn.functional.cosine_similarity(run.vectors, other.vectors)
        assert cosine.min() > 0.95


def test_a_soft_prompt_stays_in_its_ball(base: Erased, world: World) -> None:
    prompt = "a photo of a dog"
    count = SHORT_PROMPT.free + len(tokenize(prompt))

    def learned() -> Tensor:
        target = Target(base, "dog", attack_pictures("dog"), world, count, soft_prompt.TEMPLATES)
        run = soft_prompt.descents(target, replace(SHORT_PROMPT, restarts=2), prompt, 0)[1]
        descend(target, [run], replace(SHORT_PACE, steps=3, recorded=()))
        return run.vectors

    table = base.encoder.word_table
    vectors = learned()
    moved = (vectors[SHORT_PROMPT.free :] - table[tokenize(prompt)]).abs().max()
    radius = SHORT_PROMPT.radius * word_size(table)
    assert 0.9 * radius < float(moved) <= radius * (1 + 1e-5)
    assert torch.equal(vectors, learned())


def test_an_attack_on_a_negative_prompt_sees_what_guidance_makes_of_it(base: Erased) -> None:
    erased = replace(base, family="prompt", negative="a dog")
    model = attacked_model(erased)
    assert isinstance(model, NegativeKept)
    assert attacked_model(base) is base.model
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500])
    with torch.no_grad():
        texts = [base.encoder.condition(token_ids(p)) for p in ("a photo of a car", "a dog", "")]
        concept, negative, empty = (base.model.predict(latents, t, text) for text in texts)
        seen = model.predict(latents, t, texts[0])
    guided = negative + GUIDANCE * (concept - negative)
    assert torch.allclose(empty + GUIDANCE * (seen - empty), guided, atol=1e-4)


def test_a_negative_prompt_is_kept_while_drawing(base: Erased) -> None:
    erased = replace(base, family="prompt", negative="a dog")
    ids = token_ids("a photo of a dog")
    assert not torch.equal(draw(base, ids, 0), draw(erased, ids, 0))


def test_a_style_is_refused_where_pictures_are_needed(base: Erased, world: World) -> None:
    with pytest.raises(ValueError, match="is a style"):
        textual_inversion.attack(base, "neon", attack_pictures("dog"), SHORT, 0, world)


@pytest.mark.parametrize("concept", SHOWN)
def test_the_judge_reads_the_attack_pictures_right(concept: str, world: World) -> None:
    pictures = attack_pictures(concept)
    assert [tuple(picture.shape) for picture in pictures] == [(3, 64, 64)] * COUNT
    reading = world.read(torch.stack(pictures))
    assert reading.objects.count(concept) >= COUNT - 1
    assert set(reading.styles) == set(world.styles)


def test_the_attack_pictures_are_few_bytes_and_not_those_of_the_eraser() -> None:
    assert {*ATTACKED, *CONTROLS} < set(SHOWN)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 250_000
    for concept in ("dog", "cat", "dagger"):
        for picture in attack_pictures(concept):
            for seen in read_pictures(demo_folder() / "pictures" / concept):
                assert float((picture - seen).abs().mean()) > 0.05


def test_a_curve_comes_back_from_json() -> None:
    def restart(start: str, losses: tuple[float, float], hits: tuple[int, int]) -> Restart:
        points = tuple(
            Point(step, {"plain": Share(hit, 8), "styled": Share(0, 8)}, loss)
            for step, loss, hit in zip((0, 50), losses, hits, strict=True)
        )
        return Restart(start, "word", points, (0.5, 0.25), 1.5)

    curve = AttackCurve(
        attack="textual inversion",
        concept="dog",
        seed=1,
        settings={"steps": 50},
        restarts=(restart("object", (0.4, 0.2), (0, 4)), restart("random", (0.4, 0.3), (1, 8))),
        seconds=3.0,
    )
    again = AttackCurve.from_dict(json.loads(json.dumps(curve.as_dict())))
    assert again == curve
    assert again.best.start == "object"
    assert again.worst_case == (Share(1, 16), Share(8, 16))
    assert again.steps == (0, 50)


@pytest.mark.parametrize("concept", TEST)
def test_entries_have_their_own_tokens_and_every_sort_of_typo(concept: str, world: World) -> None:
    entries = words.entries(concept, world)
    tokens = [tuple(tokenize(entry.text)) for entry in entries]
    assert len(set(tokens)) == len(tokens)
    assert entries[0] == words.Entry(concept, "name")
    kinds = {entry.kind for entry in entries}
    assert kinds >= {"name", "paraphrase", "plural", "spacing", "swap", "drop", "double", "key"}
    assert tokenize(concept.upper()) == tokenize(concept)


def test_spellings_of_a_word() -> None:
    found = set(words.spellings("dog"))
    assert {
        ("plural", "dogs"), ("spacing", "d o g"), ("swap", "odg"), ("drop", "dg"),
        ("double", "doog"), ("key", "fog"),
    } <= found  # fmt: skip


@pytest.mark.slow
def test_inversion_brings_an_erased_dog_back_sooner_than_an_unknown_octopus(
    base: Erased, world: World
) -> None:
    result = unlearn(base.model, Concept("dog", world.synonyms("dog")), preset("quick"))
    weights = apply_lora(base.model.text_encoder_weights(), result.lora)
    encoder = build_encoder(base.model, weights)
    erased = replace(base, encoder=encoder, family="text encoder")
    back = textual_inversion.attack(
        erased, "dog", attack_pictures("dog"), textual_inversion.QUICK, 0, world
    )
    drawn_anew = textual_inversion.attack(
        base, "octopus", attack_pictures("octopus"), textual_inversion.QUICK, 0, world
    )
    assert back.best.last.total.value > drawn_anew.best.last.total.value + 0.3
