"""The least-squares solution: what it moves, what it keeps, and its rank."""

from collections.abc import Sequence

import pytest
import torch
from tiny_model import draw, make_writer, tiny_tower

from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.keys import ATTENTION, MODULES, ModuleKey, ModuleName, text_module
from unlearn_core.lora.null_space import felt_directions
from unlearn_core.training.examples import (
    Examples,
    forget_examples,
    retain_examples,
    role_scales,
    whole_examples,
)
from unlearn_core.training.least_squares import LeastSquares, _cut_to_rank, _divide, solved_for
from unlearn_core.training.losses import role_distance
from unlearn_core.words.prompt_templates import GUARD_PROMPTS
from unlearn_core.words.prompts import Name, whole_prompts

LAST = text_module(2, "fc2")


class Solved:
    """A problem, and what was found; distances before and after."""

    def __init__(
        self,
        keep_weight: float = 2.0,
        rank: int = 8,
        layers: tuple[int, ...] = (1, 2),
        guarded: bool = False,
    ) -> None:
        self.tower = tiny_tower()
        self.tower.split_at(layers[0])
        keys = [text_module(layer, module) for layer in layers for module in MODULES]
        self.lora = EncoderLora(self.tower, keys, rank, torch.Generator().manual_seed(0))
        writer = make_writer()
        prompts = writer.forget([Name.of("dog")], Name.of("owl"), 80)
        self.forget = forget_examples(self.lora, prompts, None)
        kept = [Name.of(word) for word in ("cat", "car", "owl", "fox")]
        self.retain = retain_examples(self.lora, writer.keep(kept, 100))
        self.guard = [whole_examples(self.lora, whole_prompts(GUARD_PROMPTS))]
        self.scales = role_scales(self.retain)
        self.bases = felt_directions(self.lora, self.guard[0].token_ids) if guarded else {}
        self.before = self.distance(self.forget)
        (key,) = solved_for(self.lora)
        equations = LeastSquares(self.lora, key, self.scales, self.bases.get(key))
        for examples in self.forget:
            equations.forget([examples])
        equations.retain(self.retain, keep_weight)
        equations.solve()

    @torch.no_grad()
    def distance(self, sets: Sequence[Examples]) -> float:
        """Mean over the prompts."""
        far = [
            role_distance(
                self.tower.tail(examples.states),
                examples.targets,
                examples.roles,
                self.scales,
            )
            for examples in sets
        ]
        return float(torch.cat(far).mean())


def test_the_concept_moves_towards_the_stand_in() -> None:
    solved = Solved()
    assert solved.distance(solved.forget) < 0.9 * solved.before


def test_keeping_costs_some_forgetting_and_keeps_the_rest_nearer() -> None:
    kept, free = Solved(), Solved(keep_weight=0.0)
    assert free.distance(free.forget) < kept.distance(kept.forget)
    assert kept.distance(kept.retain) < 0.8 * free.distance(free.retain)


def test_more_weight_on_keeping_keeps_more() -> None:
    light, heavy = Solved(keep_weight=1.0), Solved(keep_weight=100.0)
    assert heavy.distance(heavy.retain) < light.distance(light.retain)
    assert heavy.distance(heavy.forget) > light.distance(light.forget)


@pytest.mark.parametrize("rank", [1, 4])
def test_the_rank_is_that_of_the_lora(rank: int) -> None:
    solved = Solved(rank=rank)
    pair = solved.lora.export().pairs[LAST]
    assert (pair.down.shape[0], pair.up.shape[1]) == (rank, rank)
    assert int(torch.linalg.matrix_rank(pair.delta())) == rank
    assert solved.distance(solved.forget) < solved.before


def test_a_higher_rank_forgets_more() -> None:
    one, many = Solved(rank=1), Solved(rank=32)
    assert many.distance(many.forget) < one.distance(one.forget)


def test_only_the_last_fc2_is_solved_for() -> None:
    solved = Solved()
    changed = [key for key, pair in solved.lora.export().pairs.items() if bool(pair.up.any())]
    assert changed == [LAST]


@pytest.mark.parametrize(
    ("modules", "expected"), [(MODULES, [LAST]), (("fc2", "q_proj"), [LAST]), (ATTENTION, [])]
)
def test_the_last_fc2_is_solved_for_if_there_is_one(
    modules: tuple[ModuleName, ...], expected: list[ModuleKey]
) -> None:
    keys = [text_module(layer, module) for layer in (1, 2) for module in modules]
    lora = EncoderLora(tiny_tower(), keys, 2, torch.Generator().manual_seed(0))
    assert solved_for(lora) == expected


def test_an_earlier_layer_alone_is_solved_for_too() -> None:
    solved = Solved(layers=(1,))
    assert bool(solved.lora.up(text_module(1, "fc2")).any())


def test_the_guard_prompts_feel_nothing_of_a_guarded_solution() -> None:
    free, guarded = Solved(), Solved(guarded=True)
    basis = guarded.bases[LAST]
    down = guarded.lora.down(LAST).detach()
    assert float((down @ basis).abs().max()) < 1e-3 * float(down.abs().max())
    assert guarded.distance(guarded.guard) < free.distance(free.guard)


def test_nothing_is_left_hooked_and_the_solution_is_the_same_again() -> None:
    first, again = Solved(), Solved()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in first.tower.model.modules())
    pairs = first.lora.export().pairs, again.lora.export().pairs
    for key in pairs[0]:
        assert torch.equal(pairs[0][key].delta(), pairs[1][key].delta())


@pytest.mark.parametrize("rank", [1, 5])
def test_the_change_is_cut_to_its_largest_singular_values(rank: int) -> None:
    change = draw(6, 24, seed=1).double()
    up, down = _cut_to_rank(change, rank)
    left, size, right = torch.linalg.svd(change, full_matrices=False)
    torch.testing.assert_close(up @ down, (left[:, :rank] * size[:rank]) @ right[:rank])
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1))


def test_the_division_is_the_solution_of_the_normal_equations() -> None:
    rows, cross = draw(40, 12, seed=2).double(), draw(5, 12, seed=3).double()
    gram = rows.T @ rows
    torch.testing.assert_close(_divide(cross, gram.clone()) @ gram, cross)
