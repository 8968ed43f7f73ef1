"""When the loop ends: not before the concept is gone, and with the best weights that it had."""

from collections.abc import Sequence

import pytest
import torch
from tiny_model import Recorder, TinyModel, small_settings
from torch import nn

from unlearn_core.concept import Concept
from unlearn_core.forgetting.unlearn import UnlearnResult, unlearn
from unlearn_core.lora.file import lora_bytes
from unlearn_core.settings import preset
from unlearn_core.training.stopping import COOL_DOWN, EVERY, LEVEL, REACHED, StopWhenDone


class Given:
    """Held-out prompts whose distances are given, look after look."""

    def __init__(self, looks: Sequence[tuple[float, float]]) -> None:
        self.looks = iter([(1.0, 0.0), *looks])

    def distances(self) -> tuple[float, float]:
        """The next ones."""
        return next(self.looks)


def stopping(*looks: tuple[float, float], keep_weight: float = 2.0) -> StopWhenDone:
    return StopWhenDone([Given(looks)], keep_weight)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("looks", "done"),
    [
        ([(0.9, 0.0), (0.9, 0.0)], [False, False]),  # as it was: not gone yet
        ([(0.1, 0.0), (0.09, 0.0)], [False, True]),
        ([(0.3, 0.0), (0.1, 0.0), (0.05, 0.0), (0.04, 0.0)], [False, False, False, True]),
        ([(REACHED + 0.01, 0.0), (REACHED + 0.005, 0.0)], [False, False]),
        ([(0.2, 0.0), (0.1, LEVEL * 2.5)], [False, True]),  # what is gained is lost in the rest
        ([(0.2, 0.0), (0.25, 0.0)], [False, True]),
    ],
)
def test_it_is_done_when_the_concept_is_gone_and_nothing_gets_better(
    looks: list[tuple[float, float]], done: list[bool]
) -> None:
    watch = stopping(*looks)
    assert [watch.look([]) for _ in looks] == done


def test_the_weights_of_the_best_look_come_back() -> None:
    weight = nn.Parameter(torch.zeros(2))
    watch = stopping((0.5, 0.0), (0.1, 0.0), (0.1, 0.2))
    for number in (1.0, 2.0, 3.0):
        with torch.no_grad():
            weight.fill_(number)
        watch.look([weight])
    watch.take_best([weight])
    assert weight.tolist() == [2.0, 2.0]


def run(monitor: Recorder | None = None, **changes: object) -> UnlearnResult:
    """A run whose loop could take 200 steps."""
    wanted: dict[str, object] = {
        "steps": 200, "batch_size": 8, "forget_prompts": 64, "keep_prompts": 64,
        "use_pictures": False, "stand_in_pictures": 0,
    }  # fmt: skip
    settings = preset("balanced", **small_settings(**(wanted | changes)))
    return unlearn(TinyModel(), Concept("dog"), settings, monitor)


def test_a_loop_that_is_done_takes_no_further_steps() -> None:
    monitor = Recorder()
    result = run(monitor)
    taken = len(result.losses)
    assert taken < 200
    assert taken % EVERY == COOL_DOWN % EVERY
    assert result.part.moved is not None
    assert result.part.moved.share > 1 - REACHED
    shown = [report for report in monitor.reports if report.stage == "forgetting" and report.total]
    assert [report.step for report in shown] == list(range(1, taken + 1))
    assert shown[0].total == 200
    assert shown[-1].total == taken
    assert shown[-1].seconds_left == 0


def test_equal_seeds_end_in_equal_bytes() -> None:
    assert lora_bytes(run().lora) == lora_bytes(run().lora)


@pytest.mark.parametrize("changes", [{"adversary": "pgd"}, {"learning_rate": 1e-6}])
def test_all_steps_are_taken(changes: dict[str, object]) -> None:
    assert len(run(steps=30, **changes).losses) == 30
