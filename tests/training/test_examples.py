"""Examples: what is frozen, and that cutting prompts changes nothing where they are cut."""

import pytest
import torch
from tiny_model import Recorder, make_writer, tiny_tower

from unlearn_core.errors import Cancelled
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.keys import text_module
from unlearn_core.text.tokenizer import CHUNK
from unlearn_core.text.tower_encoder import TowerEncoder
from unlearn_core.training.examples import (
    LENGTHS,
    PADS,
    WHOLE_EVERY,
    forget_examples,
    lengths_of,
    retain_examples,
    role_scales,
    whole_examples,
)
from unlearn_core.training.losses import RoleScales
from unlearn_core.words.prompts import OWN_STATE, ROLE_EOS, Name, fill, pair_prompts, whole_prompts

DOG, OWL = Name.of("dog"), Name.of("owl")
PROMPTS = ["", "a photo of a dog", "a photo of a dog", "dog " * 60, "a cat and an owl " * 5]


def tiny_lora(tower: TowerEncoder) -> EncoderLora:
    tower.split_at(1)
    keys = [text_module(1, "q_proj"), text_module(2, "fc2")]
    lora = EncoderLora(tower, keys, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, key in enumerate(keys):
            up = lora.up(key)
            up.copy_(torch.randn(up.shape, generator=torch.Generator().manual_seed(number)))
    return lora


@pytest.mark.parametrize("length", LENGTHS)
def test_cut_prompts_have_the_conditioning_of_whole_ones(length: int) -> None:
    tower = tiny_tower()
    tiny_lora(tower)
    ids = whole_prompts(PROMPTS).token_ids
    whole, cut = tower.encode(ids), tower.encode(ids[:, :length])
    torch.testing.assert_close(cut, whole[:, :length], atol=1e-5, rtol=1e-5)


def test_a_prompt_keeps_its_end_and_a_few_pads_and_some_keep_all() -> None:
    ends = torch.arange(2, 77)
    lengths = lengths_of(ends)
    assert set(lengths.tolist()) <= set(LENGTHS)
    assert bool((lengths >= (ends + 1 + PADS).clamp(max=CHUNK)).all())
    assert bool((lengths[::WHOLE_EVERY] == CHUNK).all())
    shortest = next(length for length in LENGTHS if length >= 5 + 1 + PADS)
    assert lengths[ends == 5].item() == shortest


def test_every_prompt_is_in_one_part_with_its_end() -> None:
    tower = tiny_tower()
    lora = tiny_lora(tower)
    prompts = make_writer().forget([DOG, Name.of("hot air balloon")], OWL, 60)
    sets = forget_examples(lora, prompts, None)
    assert sum(map(len, sets)) == 60
    for examples in sets:
        assert bool((examples.roles == ROLE_EOS).any(1).all())
    written = {tuple(row) for row in prompts.token_ids.tolist()}
    for length in {examples.length for examples in sets}:
        found = [examples.token_ids.tolist() for examples in sets if examples.length == length]
        assert {tuple(row) for rows in found for row in rows} <= {row[:length] for row in written}


@pytest.mark.parametrize("name", ["dog", "hot air balloon"])
@pytest.mark.parametrize("stand_in", ["owl", "hot air balloon"])
def test_a_forget_examples_targets_are_the_stand_ins_own_states(name: str, stand_in: str) -> None:
    tower = tiny_tower()
    lora = tiny_lora(tower)
    templates = ["a photo of {it}", "{it}", "a cat, a car, a fox and {it}, on a green background"]
    pairs = [(fill(t, Name.of(name)), fill(t, Name.of(stand_in))) for t in templates]
    prompts = pair_prompts(pairs)
    with lora.disabled():
        own, other = tower.encode(prompts.token_ids), tower.encode(prompts.stand_in_ids)
    texts = prompts.token_ids.tolist()
    seen = 0
    for examples in forget_examples(lora, prompts, None):
        for ids, targets in zip(examples.token_ids.tolist(), examples.targets, strict=True):
            row = next(i for i, text in enumerate(texts) if text[: examples.length] == ids)
            seen += 1
            for position, source in enumerate(prompts.source[row, : examples.length].tolist()):
                wanted = own[row, position] if source == OWN_STATE else other[row, source]
                torch.testing.assert_close(targets[position], wanted, atol=1e-5, rtol=1e-5)
    assert seen == len(texts)


def test_examples_are_frozen_without_the_lora() -> None:
    tower = tiny_tower()
    prompts = whole_prompts(["a photo of a cat"])
    plain = tower.encode(prompts.token_ids)
    lora = tiny_lora(tower)
    (examples,) = retain_examples(lora, prompts)
    torch.testing.assert_close(examples.targets, plain[:, : examples.length], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tower.tail(examples.states), examples.targets)


def test_whole_examples_keep_all_positions_and_can_be_cut() -> None:
    tower = tiny_tower()
    lora = tiny_lora(tower)
    examples = whole_examples(lora, whole_prompts(PROMPTS))
    assert examples.length == CHUNK
    short = examples.cut(9)
    assert (short.length, len(short)) == (9, len(PROMPTS))
    states = tower.tail(short.states)
    whole = tower.tail(examples.states)
    torch.testing.assert_close(states, whole[:, :9], atol=1e-5, rtol=1e-5)


def test_chosen_rows_are_these_rows() -> None:
    tower = tiny_tower()
    lora = tiny_lora(tower)
    examples = whole_examples(lora, whole_prompts(PROMPTS))
    rows = examples.rows(torch.tensor([3, 0]))
    assert torch.equal(rows.token_ids, examples.token_ids[[3, 0]])
    assert torch.equal(rows.targets, examples.targets[[3, 0]])


def test_the_scales_are_those_of_all_positions() -> None:
    tower = tiny_tower()
    lora = tiny_lora(tower)
    examples = whole_examples(lora, whole_prompts(PROMPTS))
    measured = RoleScales.measure(examples.targets, examples.roles)
    torch.testing.assert_close(role_scales([examples]).variance, measured.variance)


def test_the_user_can_stop_between_two_batches() -> None:
    tower = tiny_tower()
    lora = tiny_lora(tower)
    monitor = Recorder(stop_at=0)
    with pytest.raises(Cancelled):
        retain_examples(lora, whole_prompts(PROMPTS), monitor)
