"""What wraps a lent model and a monitor."""

from __future__ import annotations

import pytest
import torch
from tiny_model import WIDTH, Recorder, TinyModel, draw

from unlearn_core.errors import Cancelled
from unlearn_core.models.lent_model import Stoppable
from unlearn_core.progress import StepReports
from unlearn_core.text.conditioning import Conditioning

INPUTS = (
    draw(1, 4, 8, 8, seed=1),
    torch.tensor([500]),
    Conditioning(draw(1, 77, WIDTH, seed=2)),
)


def test_a_stoppable_model_is_the_model_until_the_user_stops() -> None:
    model = TinyModel()
    stoppable = Stoppable(model, Recorder(stop_at=1))
    assert torch.equal(stoppable.predict(*INPUTS), model.predict(*INPUTS))
    assert stoppable.native_size == model.native_size
    with pytest.raises(Cancelled):
        stoppable.predict(*INPUTS)


@pytest.mark.parametrize(("steps", "due"), [(12, [3, 6, 9, 12]), (2, [1, 2]), (1, [1])])
def test_previews_are_few_and_only_for_those_who_see_them(steps: int, due: list[int]) -> None:
    for sees in (True, False):
        monitor = Recorder()
        monitor.shows_pictures = sees
        reports = StepReports(monitor, "drawing", steps)
        for _ in range(steps):
            reports.one_more(0.5, lambda: torch.ones(3, 2, 2))
        shown = [report.step for report in monitor.reports if report.preview is not None]
        assert shown == (due if sees else [])
