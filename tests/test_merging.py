"""Several LoRAs as one: what the least squares ask for, and what the file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_model
import torch
from torch import Tensor

from unlearn_core import commands, merging
from unlearn_core.__main__ import main
from unlearn_core.concept import Concept
from unlearn_core.errors import BadConcept, BadFile, Cancelled
from unlearn_core.forgotten import all_from_metadata
from unlearn_core.lora_file import LoraPair, LoraWeights, load_lora, save_lora
from unlearn_core.lora_keys import LAST_LAYER, ModuleKey
from unlearn_core.lora_math import apply_lora, merge_loras
from unlearn_core.merging import check_mergeable, fit_loras, write_prompts
from unlearn_core.part import PARTS
from unlearn_core.text_encoder import TextEncoder
from unlearn_core.unlearn import unlearn


def forget(name: str, stand_in: str, **changes: object) -> LoraWeights:
    settings = tiny_model.make_settings(steps=12, use_pictures=False, **changes)
    concept = Concept(name, stand_in=stand_in)
    lora = unlearn(tiny_model.TinyModel(), concept, settings).lora
    return LoraWeights(lora.pairs, {**lora.metadata, "ss_output_name": f"forget-{name}"})


@pytest.fixture(scope="module")
def loras() -> list[LoraWeights]:
    return [forget("dog", "pig"), forget("car", "bus", rank=2), forget("apple", "banana")]


def states(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    encoder = TextEncoder(weights, tiny_model.LAST_USED, torch.device("cpu"))
    return encoder.encode(ids)


# --- least squares --------------------------------------------------------------------------------


def test_each_input_gets_the_change_of_its_own_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two LoRAs, inputs along x and along y: dW takes its first column from one, its second from
    the other."""
    monkeypatch.setattr(merging, "RIDGE", 0.0)
    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    along_x, along_y = torch.diag(torch.tensor([2.0, 0.0])), torch.diag(torch.tensor([0.0, 3.0]))
    cross = first @ along_x + second @ along_y
    pair = merging._solve(along_x + along_y, cross, 2)
    assert torch.allclose(pair.delta(), torch.tensor([[1.0, 6.0], [3.0, 8.0]]), atol=1e-5)
    kept = along_x + along_y + 2 * along_x  # x is an input of kept prompts too, twice as often
    pair = merging._solve(kept, cross, 2)
    assert torch.allclose(pair.delta(), torch.tensor([[1 / 3, 6.0], [1.0, 8.0]]), atol=1e-5)


def test_the_cut_keeps_what_is_felt_most_not_what_is_largest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merging, "RIDGE", 0.0)
    change = torch.diag(torch.tensor([10.0, 1.0]))
    gram = torch.diag(torch.tensor([1.0, 10_000.0]))
    pair = merging._solve(gram, change @ gram, 1)
    assert pair.rank == 1
    assert torch.allclose(pair.delta(), torch.diag(torch.tensor([0.0, 1.0])), atol=1e-5)
    assert pair.down.norm() == pytest.approx(float(pair.up.norm()), rel=1e-4)


def test_every_role_of_a_prompt_weighs_the_same() -> None:
    roles = torch.tensor([[0, 1, 3, 4, 4, 4, 4]])
    wanted = torch.tensor([[1, 1, 1, 0.25, 0.25, 0.25, 0.25]])
    assert merging._shares(roles).equal(wanted)


def test_grams_are_those_of_the_inputs() -> None:
    encoder = tiny_model.tiny_encoder()
    prompts = merging.whole_prompts(["a dog", "a photo of a cat"])
    key = ModuleKey(1, "fc2")
    grams = merging._Grams(encoder, [key, ModuleKey(0, "v_proj")])
    grams.add(prompts, 3.0)
    assert set(grams.sums) == {key, ModuleKey(0, "q_proj")}
    seen: list[Tensor] = []
    hook = encoder.layers[1].mlp.fc2.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    encoder.encode(prompts.token_ids)
    hook.remove()
    lengths = merging.lengths_of(prompts.ends)
    wanted = torch.zeros(tiny_model.INNER, tiny_model.INNER)
    for inputs, roles, length in zip(seen[0], prompts.roles, lengths, strict=True):
        shares = merging._shares(roles[None, :length])[0]
        for x, share in zip(inputs, shares, strict=False):
            wanted += 3.0 * share * torch.outer(x, x)
    assert torch.allclose(grams[key], wanted, atol=1e-3)
    encoder.encode(prompts.token_ids)
    assert len(seen) == 1


def test_it_is_nearer_to_what_each_lora_does_than_their_sum_is(
    loras: list[LoraWeights],
) -> None:
    encoder = tiny_model.tiny_encoder()
    weights = tiny_model.text_encoder_weights()
    fitted, summed = fit_loras(encoder, loras), merge_loras([(lora, 1.0) for lora in loras])
    parts = check_mergeable(loras)
    prompts = write_prompts(encoder, parts, torch.Generator().manual_seed(7))  # not those fitted on

    def apart(merged: LoraWeights, target: dict[str, Tensor], ids: Tensor) -> float:
        difference = states(apply_lora(weights, merged), ids) - states(target, ids)
        return float(difference.pow(2).mean())

    pairs = [(apply_lora(weights, x), p) for x, p in zip(loras, prompts.forget, strict=True)]
    pairs += [(weights, kept) for kept in prompts.keep]
    errors = [
        sum(apart(merged, target, p.token_ids) for target, p in pairs)
        for merged in (fitted, summed)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_the_rank_is_all_ranks_together_or_what_is_asked_for(loras: list[LoraWeights]) -> None:
    encoder = tiny_model.tiny_encoder()
    assert {pair.rank for pair in fit_loras(encoder, loras).pairs.values()} == {4 + 2 + 4}
    assert {pair.rank for pair in fit_loras(encoder, loras, 3).pairs.values()} == {3}
    wide = fit_loras(encoder, loras, 128).pairs.values()
    assert {pair.rank for pair in wide} == {tiny_model.WIDTH}


def test_the_same_seed_gives_the_same_numbers(loras: list[LoraWeights]) -> None:
    first, again = (fit_loras(tiny_model.tiny_encoder(), loras) for _ in range(2))
    assert all(first.pairs[key].up.equal(again.pairs[key].up) for key in first.pairs)
    other = fit_loras(tiny_model.tiny_encoder(), loras, seed=1)
    assert not all(first.pairs[key].up.equal(other.pairs[key].up) for key in first.pairs)


def test_a_layer_that_only_one_lora_changes_is_left_alone_for_the_others(
    loras: list[LoraWeights],
) -> None:
    key = ModuleKey(0, "fc2")
    more = LoraPair(torch.randn(1, tiny_model.INNER), torch.randn(tiny_model.WIDTH, 1), 1.0)
    first = LoraWeights({**loras[0].pairs, key: more}, loras[0].metadata)
    fitted = fit_loras(tiny_model.tiny_encoder(), [first, *loras[1:]])
    assert set(fitted.pairs) == {key, *loras[0].pairs}
    assert 0 < fitted.pairs[key].delta().norm() < more.delta().norm()


# --- words ----------------------------------------------------------------------------------------


def test_no_prompt_that_is_kept_names_what_any_lora_forgets(loras: list[LoraWeights]) -> None:
    encoder = tiny_model.tiny_encoder()
    parts = check_mergeable([*loras, forget("bus", "cart")])  # bus stands in for the car
    prompts = write_prompts(encoder, parts, torch.Generator().manual_seed(0))
    gone = {"dog", "dogs", "car", "cars", "apple", "bus"}
    for kept in prompts.keep:
        for text in kept.texts:
            assert gone.isdisjoint(text.replace(",", " ").split())
    for part, own in zip(parts, prompts.forget, strict=True):
        for text in own.texts:
            words = set(text.replace(",", " ").split())
            assert words & set(part.names)
            assert (gone - set(part.names)).isdisjoint(words)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "does not say which one concept"),
        ({"unlearn_private": "True"}, "does not say which one concept"),
        ({PARTS: "[]"}, "does not say which one concept"),
    ],
)
def test_a_lora_that_does_not_tell_is_refused(
    loras: list[LoraWeights], metadata: dict[str, str], said: str
) -> None:
    silent = {} if not metadata or PARTS in metadata else loras[1].metadata
    other = LoraWeights(loras[1].pairs, {**silent, **metadata, "ss_output_name": "other"})
    with pytest.raises(BadFile, match=f"other {said}"):
        check_mergeable([loras[0], other])
    with pytest.raises(BadConcept, match="'dog' is forgotten by two"):
        check_mergeable([loras[0], loras[1], loras[0]])


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, loras: list[LoraWeights], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    model = tiny_model.TinyModel()
    monkeypatch.setattr(commands, "load_model", lambda *_: (model, "prediction: v"))
    paths = [tmp_path / f"{lora.metadata['ss_output_name']}.safetensors" for lora in loras]
    for path, lora in zip(paths, loras, strict=True):
        save_lora(lora, path)
    return [str(path) for path in paths]


def test_merge_writes_one_file_that_says_all_that_it_forgets(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "both.safetensors"
    assert main(["merge", *files, "--model", "demo", "--rank", "5", "--out", str(out)]) == 0
    merged = load_lora(out)
    assert {pair.rank for pair in merged.pairs.values()} == {5}
    assert max(key.layer for key in merged.pairs) <= LAST_LAYER
    for layer in {key.layer for key in merged.pairs}:
        here = {key.module for key in merged.pairs if key.layer == layer}
        assert here >= {"q_proj", "k_proj", "v_proj", "out_proj"}
    said = all_from_metadata(merged.metadata)
    assert [(part.concept.name, part.stand_in) for part in said] == [
        ("dog", "pig"), ("car", "bus"), ("apple", "banana"),
    ]  # fmt: skip
    assert merged.metadata["unlearn_base_model_hash"]
    assert "unlearn_concept" not in merged.metadata
    text = capsys.readouterr().out
    assert "forgotten: dog, " in text
    assert "bus is drawn in its place" in text
    assert f"written: {out}" in text
    first = out.read_bytes()
    assert main(["merge", *files, "--model", "demo", "--rank", "5", "--out", str(out)]) == 0
    assert out.read_bytes() == first


def test_measure_takes_the_first_thing_of_a_merged_file_or_the_one_that_is_named(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "both.safetensors"
    assert main(["merge", *files, "--model", "demo", "--out", str(out)]) == 0
    measured: list[tuple[str, str, tuple[str, ...]]] = []

    def note(session: object, model: object, forgotten: object, *_: object) -> None:
        measured.append((forgotten.concept.name, forgotten.stand_in, forgotten.kept))  # type: ignore[attr-defined]

    monkeypatch.setattr(commands, "_report", note)
    command = ["measure", "--model", "demo", "--lora", str(out), "--report", str(tmp_path / "r")]
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "says that it forgets 'dog', 'car', 'apple'" in said
    assert "measured here: 'dog'; choose another with --concept" in said
    assert main([*command, "--concept", "Car"]) == 0
    assert "note" not in capsys.readouterr().out
    assert main([*command, "--concept", "fox", "--stand-in", "owl"]) == 0
    assert "says that it forgets" in capsys.readouterr().out
    assert [name for name, _, _ in measured] == ["dog", "car", "fox"]
    assert measured[1][1] == "bus"
    assert all({"dog", "car", "apple"}.isdisjoint(kept) for _, _, kept in measured[:2])


def test_a_stand_in_that_is_forgotten_too_is_pointed_out(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bus = tmp_path / "forget-bus.safetensors"
    save_lora(forget("bus", "cart"), bus)
    out = str(tmp_path / "both.safetensors")
    assert main(["merge", files[1], str(bus), "--model", "demo", "--out", out]) == 0
    assert "note: 'bus' is forgotten here too, yet drawn for 'car'" in capsys.readouterr().out


@pytest.mark.parametrize("stop_at", [0, 2, 5])
def test_a_merge_can_be_stopped(loras: list[LoraWeights], stop_at: int) -> None:
    monitor = tiny_model.Recorder(stop_at=stop_at)
    with pytest.raises(Cancelled):
        fit_loras(tiny_model.tiny_encoder(), loras, monitor=monitor)
    assert [(p.step, p.total) for p in monitor.reports] == [(i + 1, 6) for i in range(stop_at)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{dog}"], "give two or more"),
        (["{dog}", "{here}/none.safetensors"], "There is no file"),
        (["{dog}", "{dog}"], "'dog' is forgotten by two"),
        (["{dog}", "{car}", "--rank", "0"], "rank is 0"),
        (["{dog}", "{car}", "--rank", "999"], "rank is 999"),
        (["{dog}", "{other}"], "was made for another text encoder"),
        (["{dog}", "{wide}"], "was made for text width"),
    ],
)
def test_what_can_not_be_merged_is_refused(
    tmp_path: Path, files: list[str], loras: list[LoraWeights],
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str,
) -> None:  # fmt: skip
    notes = {**loras[1].metadata, "unlearn_base_model_hash": "0"}
    save_lora(LoraWeights(loras[1].pairs, notes), tmp_path / "other.safetensors")
    wide = LoraPair(torch.ones(1, 32), torch.ones(32, 1), 1.0)
    wide_lora = LoraWeights({ModuleKey(0, "q_proj"): wide}, loras[1].metadata)
    save_lora(wide_lora, tmp_path / "wide.safetensors")
    named = {
        "{dog}": files[0], "{car}": files[1], "{here}": str(tmp_path),
        "{other}": str(tmp_path / "other.safetensors"),
        "{wide}": str(tmp_path / "wide.safetensors"),
    }  # fmt: skip
    filled = []
    for argument in arguments:
        for name, value in named.items():
            argument = argument.replace(name, value)
        filled.append(argument)
    out = tmp_path / "out" / "both.safetensors"
    assert main(["merge", *filled, "--model", "demo", "--out", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not out.parent.exists()


def test_a_note_of_a_merged_file_that_can_not_be_read_is_an_error() -> None:
    for note in ("nonsense", "7", '["dog"]', json.dumps([{"unlearn_concept": "dog"}])):
        with pytest.raises(BadFile, match="does not say"):
            all_from_metadata({PARTS: note})
