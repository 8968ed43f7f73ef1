"""The documentation: its links lead somewhere, its commands and examples are understood."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import bench.__main__
import install
from unlearn_core.cli.concepts import read_list
from unlearn_core.cli.parser import build_parser
from unlearn_core.settings import PRESETS
from unlearn_webui.request import ForgetRequest

ROOT = Path(__file__).resolve().parents[2]
HELP = ROOT / "web/docs"
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [
    *GUIDES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "demo/README.md")),
    *sorted((ROOT / "bench").rglob("*.md")),
    *sorted(HELP.rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(-m unlearn_core|-m bench|install\.py)\b([^\n`]*)")
HERE_DOCUMENT = re.compile(r"<<END\n(.*?)\n\s*END$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = FENCE.sub("", page.read_text("utf-8"))
    slugs = [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    ]
    repeated = (f"{slug}-{n}" for slug, count in Counter(slugs).items() for n in range(1, count))
    return {*slugs, *repeated}


def broken_links(page: Path) -> list[str]:
    """The links to files and headings of the repository that lead nowhere."""
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text("utf-8")))
    inside = [link for link in LINK.findall(text) if not re.match(r"https?:", link)]
    return [link for link in inside if not leads_somewhere(page, link)]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    # ComfyUI looks for the pictures of every help page, also of a translated one, in web/docs.
    folder = HELP if page.is_relative_to(HELP) else page.parent
    target = folder / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """What is called in the page's code, with its arguments."""
    text = re.sub(r"\\\n\s*", "", page.read_text("utf-8"))
    for program, arguments in COMMAND.findall(text):
        yield program, shlex.split(arguments, comments=True)


def check_engine_command(arguments: Sequence[str], _: pytest.MonkeyPatch) -> None:
    try:
        build_parser().parse_args(arguments)
    except SystemExit as end:
        if end.code:  # --help ends with 0
            raise AssertionError(f"not understood: {shlex.join(arguments)}") from end


def check_install_command(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run install.py without what it would install and start."""
    started: list[tuple[str, ...]] = []

    def run(*command: str, **_: object) -> int:
        started.append(command)
        return 0

    monkeypatch.setattr(install, "run", run)
    for name in ("ensure_venv", "ensure_oldest_venv", "install_for_host", "keep_to_ourselves"):
        monkeypatch.setattr(install, name, lambda *_: "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
    assert install.main() == 0
    for _, module, *rest in started:
        if module == "unlearn_core":
            check_engine_command(rest, monkeypatch)


def check_bench_command(arguments: Sequence[str], _: pytest.MonkeyPatch) -> None:
    """Its help must know every flag: a command that is parsed is run at once."""
    words = [word for word in arguments if not word.startswith("-")]
    names = words[:2] if words[:1] in (["trial"], ["world"]) else words[:1]
    said = io.StringIO()
    with pytest.raises(SystemExit) as end, contextlib.redirect_stdout(said):
        bench.__main__.main([*names, "--help"])
    assert not end.value.code
    missing = [word for word in arguments if word.startswith("--") and word not in said.getvalue()]
    assert missing == []


CHECKS: dict[str, Callable[[Sequence[str], pytest.MonkeyPatch], None]] = {
    "-m unlearn_core": check_engine_command,
    "-m bench": check_bench_command,
    "install.py": check_install_command,
}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    links = ["page.md#first-steps", "#first-steps-1", "gone.md", "#gone", "https://example.org"]
    headings = "# `First` steps!\n```sh\n# gone\n```\n## First steps\n"
    page.write_text(headings + " ".join(f"[x]({link})" for link in links), "utf-8")
    assert broken_links(page) == ["gone.md", "#gone"]


@pytest.mark.parametrize("page", [*GUIDES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_command_in_the_guides_is_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program, arguments in commands(page):
        CHECKS[program](arguments, monkeypatch)


def test_the_guides_show_every_program() -> None:
    assert {program for page in GUIDES for program, _ in commands(page)} == set(CHECKS)


@pytest.mark.parametrize(
    "text",
    [
        "python -m unlearn_core forget \\\n    --model demo --outt x",
        "python3 install.py --tests",
        "python -m bench run --quickly",
        "python -m bench rounding",
    ],
)
def test_a_command_with_a_wrong_flag_is_found(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Write `{text}`.", "utf-8")
    [(program, arguments)] = commands(page)
    with pytest.raises((AssertionError, SystemExit)):
        CHECKS[program](arguments, monkeypatch)


def test_the_readme_says_how_to_run_the_demo_and_the_tests() -> None:
    lines = [line.split("#")[0].strip() for line in GUIDES[0].read_text("utf-8").splitlines()]
    assert {"python3 install.py --demo", "python3 install.py --test"} <= {*lines}


def test_the_readme_has_at_most_130_lines() -> None:
    assert len(GUIDES[0].read_text("utf-8").splitlines()) <= 130


def test_the_example_of_a_request_is_one_that_the_webui_takes() -> None:
    picture = base64.b64encode((ROOT / "demo/pictures/dog/0.png").read_bytes()).decode()
    text = (ROOT / "docs/webui.md").read_text("utf-8")
    bodies = [re.sub(r"\$\([^)]*\)", picture, body) for body in HERE_DOCUMENT.findall(text)]
    assert len(bodies) == text.count(" -d ")
    for body in bodies:
        assert ForgetRequest.from_json(json.loads(body)).pictures


def test_the_example_of_a_list_is_one_that_the_command_line_takes(tmp_path: Path) -> None:
    text = (ROOT / "docs/command-line.md").read_text("utf-8")
    [example] = [body for language, body in FENCE.findall(text) if language == "jsonl"]
    for folder in re.findall(r'"images": "([^"]+)"', example):
        shutil.copytree(ROOT / "demo/pictures/cat", tmp_path / folder)
    file = tmp_path / "concepts.jsonl"
    file.write_text(example, "utf-8")
    assert len(read_list(file, PRESETS["balanced"])) == len(example.splitlines())


def test_the_table_of_presets_has_their_settings() -> None:
    text = (ROOT / "docs/presets.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w:,]+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    said = {name: (layers, int(rank), int(steps)) for name, layers, rank, steps in rows}
    assert said == {name: (it.layers, it.rank, it.steps) for name, it in PRESETS.items()}
