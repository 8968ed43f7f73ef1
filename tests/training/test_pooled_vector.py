"""The pooled vector of SDXL's second tower: forgotten, kept and guarded like a state."""

import pytest
import torch
from tiny_families import family_encoder
from tiny_model import make_settings, make_writer

from unlearn_core.lora.encoder_lora import EncoderLora, chosen_modules
from unlearn_core.models.families import SDXL
from unlearn_core.training.examples import (
    Examples,
    forget_examples,
    retain_examples,
    role_scales,
    whole_examples,
)
from unlearn_core.training.least_squares import LeastSquares, solved_for
from unlearn_core.training.losses import RoleScales, role_distance
from unlearn_core.training.terms import RetainTerm, TextDistance
from unlearn_core.words.prompt_templates import GUARD_PROMPTS
from unlearn_core.words.prompts import ROLE_POOLED, ROLE_WORD, Name, whole_prompts


class Second:
    """The second tower with a LoRA, and what it is trained on."""

    def __init__(self, layers: str = "last:1") -> None:
        self.tower = family_encoder(SDXL).towers[1]
        modules = chosen_modules(make_settings(layers=layers), 3, 1, "te2")
        self.tower.split_at(modules[0].layer)
        self.lora = EncoderLora(self.tower, modules, 16, torch.Generator().manual_seed(0))
        writer = make_writer()
        self.forget = forget_examples(
            self.lora, writer.forget([Name.of("dog")], Name.of("owl"), 60), None
        )
        kept = [Name.of(word) for word in ("cat", "car", "fox")]
        self.retain = retain_examples(self.lora, writer.keep(kept, 40))
        self.scales = role_scales(self.retain)

    @torch.no_grad()
    def pooled_distance(self) -> float:
        """Of all prompts to forget from their targets, the pooled vector alone."""
        found = []
        for part in self.forget:
            roles = part.roles.masked_fill(part.roles != ROLE_POOLED, -1)
            states = self.tower.tail(part.states, part.ends)
            found.append(role_distance(states, part.targets, roles, self.scales))
        return float(torch.cat(found).mean())


def test_layers_behind_the_conditioning_layer_go_with_it() -> None:
    settings = make_settings(layers="last:1", modules="mlp")
    assert [key.layer for key in chosen_modules(settings, 3, 1, "te2")] == [3, 3, 4, 4]
    settings = make_settings(layers="first:1", modules="mlp")
    assert [key.layer for key in chosen_modules(settings, 3, 1, "te2")] == [0, 0]


def test_examples_end_in_the_pooled_vector_of_their_target() -> None:
    second = Second()
    for part in second.forget:
        assert part.targets.shape[1] == part.length + 1
        assert bool((part.roles[:, -1] == ROLE_POOLED).all())
        assert bool((part.source[:, -1] == part.length).all())
    own = second.retain[0]
    assert torch.equal(own.targets[:, -1], second.tower.encode(own.token_ids)[:, -1]) or (
        float((own.targets[:, -1] - second.tower.encode(own.token_ids)[:, -1]).abs().max()) < 1e-4
    )


def test_least_squares_solve_for_the_pooled_vector_after_the_states() -> None:
    second = Second()
    first, last = solved_for(second.lora)
    assert (first.layer, last.layer) == (3, 4)
    distances = [second.pooled_distance()]
    for key in (first, last):
        equations = LeastSquares(second.lora, key, second.scales, None)
        equations.forget(second.forget)
        equations.retain(second.retain, 1.0)
        equations.solve()
        distances.append(second.pooled_distance())
    assert distances[2] < 0.5 * distances[1]


def test_a_pooled_vector_has_its_own_scale() -> None:
    states = torch.randn(40, 3, 8, generator=torch.Generator().manual_seed(0))
    roles = torch.full((40, 3), ROLE_WORD)
    roles[:, -1] = ROLE_POOLED
    plain = RoleScales.measure(states, roles)
    states[:, -1] *= 1e-3
    small = RoleScales.measure(states, roles)
    assert float(small.variance[ROLE_POOLED]) == pytest.approx(
        1e-6 * float(plain.variance[ROLE_POOLED]), rel=1e-4
    )
    assert torch.equal(small.variance[:ROLE_POOLED], plain.variance[:ROLE_POOLED])


def test_the_guard_keeps_the_pooled_vector_of_prompts_longer_than_a_batch() -> None:
    second = Second()
    guard = whole_examples(second.lora, whole_prompts(GUARD_PROMPTS))
    distance = TextDistance(second.tower, second.scales, 4, torch.Generator().manual_seed(0))
    term = RetainTerm(distance, second.retain, guard, 0.0, 1.0)
    with torch.no_grad():
        for key in second.lora.modules:
            if key.layer == 4:
                second.lora.up(key).add_(0.05)
    states_moved = float(sum(term(0)).detach())
    assert states_moved > 1e-3


def test_cutting_examples_leaves_the_pooled_vector() -> None:
    second = Second()
    guard: Examples = whole_examples(second.lora, whole_prompts([""]))
    cut = guard.cut(10)
    assert cut.targets.shape[1] == 11
    assert torch.equal(cut.targets[:, -1], guard.targets[:, -1])
    assert cut.roles[0, -1] == ROLE_POOLED
