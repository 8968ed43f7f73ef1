"""What is said at the command line, where it can and where it can't be shown."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest

from unlearn_core.cli.terminal import ProgressBar, Shown, shown
from unlearn_core.progress import Progress

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


def full() -> TextIO:
    return Path("/dev/full").open("w", encoding="utf-8")


def unread() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


NOWHERE = [
    pytest.param(lambda: None, id="none"),
    pytest.param(closed, id="closed"),
    pytest.param(full, id="full", marks=needs_full),
    pytest.param(unread, id="unread"),
]


@pytest.mark.parametrize("make", NOWHERE)
def test_a_line_that_cannot_be_shown_stops_nothing(make: Callable[[], TextIO | None]) -> None:
    lost: list[Exception] = []
    inner = make()
    stream = Shown(inner, lost.append)
    for _ in range(3):
        stream.say("a line")
        print("a line", file=stream)  # type: ignore[call-overload]
    assert not stream.isatty()
    assert len(lost) == (inner is not None)


@pytest.mark.parametrize("make", NOWHERE)
def test_progress_that_cannot_be_shown_stops_nothing(
    make: Callable[[], TextIO | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", make())
    with ProgressBar() as monitor:
        for step in (1, 2):
            monitor.report(Progress("forgetting", step, 2, loss=0.5))
        monitor.report(Progress("drawing", 1, 2))
        signal.raise_signal(signal.SIGINT)
        assert monitor.should_stop()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_stage_without_steps_is_named_on_a_terminal_alone(stream: io.StringIO) -> None:
    with ProgressBar(stream) as monitor:
        monitor.report(Progress("choosing words"))
        monitor.report(Progress("preparing", 1, 2))
        monitor.report(Progress("least squares"))
        monitor.report(Progress("preparing", 2, 2))
        monitor.report(Progress("forgetting"))
    said = stream.getvalue()
    assert ("choosing words" in said) == ("forgetting" in said) == stream.isatty()
    assert "least squares" not in said, "it would tear the bar of its stage"
    assert "2/2" in said


def test_every_character_is_shown_in_some_way() -> None:
    raw = io.BytesIO()
    stream = Shown(io.TextIOWrapper(raw, encoding="ascii"))
    stream.say("d\udcffg 犬 é")
    assert raw.getvalue().splitlines() == [rb"d\udcffg \u72ac \xe9"]


def test_other_errors_are_not_hidden() -> None:
    class Wrong(io.StringIO):
        def write(self, text: str) -> int:
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        Shown(Wrong()).say("a line")


def test_a_stream_is_wrapped_once() -> None:
    stream = shown(io.StringIO())
    assert shown(stream) is stream  # type: ignore[arg-type]


# --- whole processes ------------------------------------------------------------------------------


@pytest.fixture
def no_torch(tmp_path: Path) -> dict[str, str]:
    """An environment whose torch says that it is being imported and takes its time."""
    (tmp_path / "torch.py").write_text(
        "import time; print('torch', flush=True); time.sleep(60)", "utf-8"
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_the_terminal_is_there_before_torch(root: Path) -> None:
    code = "import sys, unlearn_core.cli.terminal; print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, encoding="utf-8"
    )
    assert ran.stdout == "False\n"


def listen_to_ctrl_c() -> None:
    """A shell's background jobs, and what they start, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_while_torch_is_imported_ends_in_one_line(
    root: Path, no_torch: dict[str, str]
) -> None:
    command: list[Any] = [sys.executable, root / "unlearn_core", "demo"]
    process = subprocess.Popen(
        command,
        env=no_torch,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=listen_to_ctrl_c,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "torch\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "error: Stopped at once, as you asked.\n"


@needs_full
def test_started_by_its_folders_path_with_streams_that_are_closed_or_full(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.safetensors"
    command = ["forget", "--model", "demo", "--concept", "dog", "--preset", "quick"]
    command += ["--steps", "0", "--stand-in", "cat", "--out", "a.safetensors"]
    python = [sys.executable, root / "unlearn_core", *command]
    for streams in (">&- 2>&-", "<&- >/dev/full 2>&1"):
        shell = ["sh", "-c", f'"$0" "$@" {streams}', *python]
        assert subprocess.run(shell, cwd=tmp_path).returncode == 0
        assert out.stat().st_size > 1000
        out.unlink()
    assert list(tmp_path.iterdir()) == []
