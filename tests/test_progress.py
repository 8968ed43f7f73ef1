"""What a running job tells: in words, and how much time is left."""

from __future__ import annotations

import pytest
from tiny_model import Recorder

from unlearn_core import progress
from unlearn_core.progress import Progress, StepReports, time_in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (599, "9 min 59 s"),
        (3235, "53 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_a_time_is_told_in_the_units_of_its_size(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (Progress("least squares"), "least squares"),
        (Progress("drawing", 2, 9), "drawing: 2 of 9"),
        (
            Progress("forgetting", 1, 150, 0.9642, 3235.0),
            "forgetting: 1 of 150, loss 0.964, 53 min left",
        ),
        (Progress("forgetting", 150, 150, 0.01, 0.0), "forgetting: 150 of 150, loss 0.01"),
    ],
)
def test_a_report_in_words_says_what_is_known(report: Progress, words: str) -> None:
    assert report.in_words() == words


def test_the_time_left_is_told_from_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monitor = Recorder()
    monitor.shows_pictures = False
    reports = StepReports(monitor, "forgetting", 4)
    for step in (1, 2, 3, 4):
        if step in (1, 3):
            now[0] += 100  # something is prepared
            reports.go_on()
        now[0] += 2
        reports.one_more(0.5, lambda: pytest.fail("no picture is shown"))
    assert [report.seconds_left for report in monitor.reports] == [6, 4, 2, 0]
