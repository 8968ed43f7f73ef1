"""What wraps a lent model and a monitor."""

from __future__ import annotations

import pytest
import torch
from tiny_model import WIDTH, Recorder, TinyModel, draw

from unlearn_core.errors import Cancelled
from unlearn_core.models.lent_model import Stoppable
from unlearn_core.progress import SilentMonitor, preview_is_due

INPUTS = draw(1, 4, 8, 8, seed=1), torch.tensor([500]), draw(1, 77, WIDTH, seed=2)


def test_a_stoppable_model_is_the_model_until_the_user_stops() -> None:
    model = TinyModel()
    stoppable = Stoppable(model, Recorder(stop_at=1))
    assert torch.equal(stoppable.predict(*INPUTS), model.predict(*INPUTS))
    assert stoppable.native_size == model.native_size
    with pytest.raises(Cancelled):
        stoppable.predict(*INPUTS)


@pytest.mark.parametrize(("steps", "due"), [(12, [3, 6, 9, 12]), (2, [1, 2]), (1, [1])])
def test_previews_are_few_and_only_for_those_who_see_them(steps: int, due: list[int]) -> None:
    every = range(1, steps + 1)
    assert [step for step in every if preview_is_due(Recorder(), step, steps)] == due
    assert not any(preview_is_due(SilentMonitor(), step, steps) for step in every)
