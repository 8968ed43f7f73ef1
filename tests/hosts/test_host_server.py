"""The browser for the front ends: any that is made of Chromium, and what is done without one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host_server import BROWSERS, NO_BROWSER, open_browser
from playwright.sync_api import Error, Playwright, sync_playwright


@pytest.fixture
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def chromium() -> str:
    """A browser of this machine."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(NO_BROWSER)


def stub(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    file.chmod(0o755)


def test_a_browser_under_another_name_opens_where_a_broken_one_comes_first(
    playwright: Playwright, chromium: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, "chromium-browser", "echo please install the snap; exit 1")  # Ubuntu has that
    stub(tmp_path, "vivaldi", f'PATH=/usr/local/bin:/usr/bin:/bin exec "{chromium}" "$@"')
    monkeypatch.setenv("PATH", str(tmp_path))
    browser = open_browser(playwright)
    page = browser.new_page()
    page.set_content("<p>here</p>")
    assert page.inner_text("p") == "here"
    browser.close()


def no_browser() -> Any:
    """A playwright on a machine where none of the browsers starts."""

    def launch(**_: Any) -> None:
        raise Error("Executable doesn't exist")

    return SimpleNamespace(chromium=SimpleNamespace(launch=launch))


@pytest.mark.parametrize(
    ("setting", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)]
)
def test_without_a_browser_a_test_is_skipped_with_advice_and_fails_in_ci(
    setting: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", setting)
    with pytest.raises(outcome, match="install Chromium, Chrome or Edge") as caught:
        open_browser(no_browser())
    assert "\n" not in str(caught.value)
