"""The tab Unlearn, clicked in a headless Chromium, with real gradio 3.41.2 and 4.40.0."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from host_server import open_browser
from playwright.sync_api import Locator, Page, expect, sync_playwright
from webui_host import ROOT, WebuiServer

from unlearn_core.settings import PRESETS

pytestmark = pytest.mark.host
MINUTES = 60_000
SCREENSHOTS = ROOT / "out" / "webui"
expect.set_options(timeout=MINUTES)


@pytest.fixture(scope="module", params=["a1111", "forge"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebuiServer]:
    """A thin host of one shape."""
    server = WebuiServer(request.param, tmp_path_factory.mktemp(request.param))
    yield server
    server.stop()


@pytest.fixture
def theme() -> str:
    """light or dark; tests that look at both set it."""
    return "light"


@pytest.fixture
def page(server: WebuiServer, theme: str) -> Iterator[Page]:
    """The page with the tab Unlearn open."""
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        page = browser.new_page(viewport={"width": 1500, "height": 1200})
        page.set_default_timeout(MINUTES)
        page.goto(f"{server.address}/?__theme={theme}")
        page.get_by_role("tab", name="Unlearn").or_(
            page.get_by_role("button", name="Unlearn", exact=True)
        ).first.click()
        part(page, "generate").wait_for()
        yield page
        browser.close()


def part(page: Page, name: str) -> Locator:
    """A part of the tab; gradio 3 gives the id of HTML to two elements."""
    return page.locator(f"#unlearn_{name}").first


def fill(page: Page, name: str, text: str) -> None:
    """Write into a field."""
    part(page, name).locator("input, textarea").first.fill(text)


def keep_picture(page: Page, server: WebuiServer, name: str) -> None:
    """A screenshot, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{server.shape}-{name}.png", full_page=True)


def ask_for_little(page: Page, names: str, steps: int = 3) -> None:
    """A quick run of few steps that is not measured."""
    fill(page, "names", names)
    part(page, "preset").get_by_text("quick", exact=True).click()
    page.locator("#unlearn_more .label-wrap").first.click()
    fill(page, "steps", str(steps))
    part(page, "measure").locator("input").uncheck()


def forget(page: Page) -> None:
    part(page, "generate").click()


def test_the_checkpoint_is_named_at_once_and_every_preset_is_there(page: Page) -> None:
    expect(part(page, "checkpoint")).to_contain_text("demo can be used")
    for name in PRESETS:
        expect(part(page, "preset")).to_contain_text(name)


def test_a_checkpoint_that_can_not_be_used_is_named_with_the_reason(
    server: WebuiServer, page: Page
) -> None:
    server.call("/thin/checkpoint", {"name": "refiner"})
    try:
        part(page, "refresh").click()
        checkpoint = part(page, "checkpoint")
        expect(checkpoint).to_contain_text("sd_xl_refiner_1.0 can't be used. This is SDXL's")
        fill(page, "names", "dog")
        forget(page)
        expect(part(page, "log")).to_contain_text("Use the base checkpoint")
        keep_picture(page, server, "wrong-checkpoint")
    finally:
        server.call("/thin/checkpoint", {"name": "demo"})


def test_a_run_by_its_button_ends_with_a_tag_for_txt2img(server: WebuiServer, page: Page) -> None:
    ask_for_little(page, "dog, puppy")
    forget(page)
    tag = part(page, "tag").locator("input, textarea").first
    expect(tag).to_have_value(re.compile(r"^<lora:forget-dog(-\d+)?:1>$"))
    expect(part(page, "log")).to_contain_text("forgotten: dog, puppy")
    expect(part(page, "generate")).to_be_enabled()
    part(page, "send").click()
    prompt = page.locator("#txt2img_prompt textarea")
    expect(prompt).to_be_visible()
    expect(prompt).to_have_value(tag.input_value())


def test_pictures_are_uploaded_and_the_preview_is_live(server: WebuiServer, page: Page) -> None:
    ask_for_little(page, "dog", steps=40)
    part(page, "preset").get_by_text("balanced", exact=True).click()
    pictures = sorted((ROOT / "demo" / "pictures" / "dog").glob("*.png"))[:2]
    page.locator("#unlearn_pictures input[type=file]").set_input_files(pictures)
    expect(part(page, "pictures")).to_contain_text(re.compile(r"1\s*\.png"))
    forget(page)
    expect(page.locator("#unlearn_results .progressDiv")).to_contain_text("loss", timeout=MINUTES)
    page.locator("#unlearn_preview .livePreview img").wait_for(timeout=3 * MINUTES)
    part(page, "interrupt").click()
    expect(part(page, "log")).to_contain_text("Stopped as you asked")
    expect(page.locator("#unlearn_results .progressDiv")).to_have_count(0)


def test_stop_ends_a_run_and_a_second_one_works(server: WebuiServer, page: Page) -> None:
    before = server.names()
    ask_for_little(page, "owl", steps=5000)
    forget(page)
    expect(page.locator("#unlearn_results .progressDiv")).to_contain_text(
        re.compile(r"forgetting: \d+ of 5000, loss .* left"), timeout=MINUTES
    )
    part(page, "interrupt").click()
    expect(part(page, "log")).to_contain_text("Stopped as you asked")
    assert server.names() == before
    fill(page, "steps", "2")
    forget(page)
    tag = part(page, "tag").locator("input, textarea").first
    expect(tag).to_have_value(re.compile("forget-owl"))


def test_what_the_engine_refuses_is_said_in_the_tab(page: Page) -> None:
    ask_for_little(page, "dog")
    fill(page, "layers", "99")
    forget(page)
    expect(part(page, "log")).to_contain_text("layers 0 to")
    expect(part(page, "generate")).to_be_enabled()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_measured_run_shows_the_sheet_and_the_numbers(
    server: WebuiServer, page: Page, theme: str
) -> None:
    body = page.locator("body")
    assert ("dark" in (body.get_attribute("class") or "")) == (theme == "dark")
    ask_for_little(page, "car")
    part(page, "measure").locator("input").check()
    forget(page)
    page.locator("#unlearn_sheet img").wait_for(timeout=5 * MINUTES)
    expect(part(page, "numbers")).to_contain_text("strength: use")
    keep_picture(page, server, theme)
