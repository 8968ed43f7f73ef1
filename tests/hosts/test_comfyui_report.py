"""What the nodes say, in ComfyUI's real front end: drawn, kept, and told to its user alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_host import ROOT, ComfyServer
from comfy_page import AS_PROMPT, OPEN, READY, press_run
from host_server import open_browser
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

pytestmark = pytest.mark.host
MINUTES = 300_000
AS_WORKFLOW = "() => JSON.stringify(app.graph.serialize())"
LISTEN = """() => {
    window.texts = []
    window.ended = false
    app.api.addEventListener("progress_text", ({detail}) => window.texts.push(detail.text))
    app.api.addEventListener("execution_success", () => { window.ended = true })
}"""
SAID = """() => Object.fromEntries([...document.querySelectorAll(".unlearn_said")].map((drawn) => {
    const node = app.graph.nodes.find((node) => node.widgets?.some((w) => w.element === drawn))
    return [node.type, drawn.getBoundingClientRect().height > 10 ? drawn.textContent : ""]
}))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A ComfyUI of its own for this file."""
    server = ComfyServer(tmp_path_factory.mktemp("comfyui"))
    server.post("settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium of the system."""
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        yield browser
        browser.close()


@pytest.fixture
def page(server: ComfyServer, browser: Browser) -> Iterator[Page]:
    """A user's front end."""
    page = open_page(server, browser)
    yield page
    page.close()


def open_page(server: ComfyServer, browser: Browser) -> Page:
    """Another user's front end."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(MINUTES)
    page.goto(server.address)
    page.wait_for_function(READY)
    page.evaluate(LISTEN)
    return page


def quick(kind: str = "object") -> dict[str, Any]:
    """The first template with the quick preset, without measuring."""
    file = ROOT / "example_workflows" / "Unlearn 1 - forget an object.json"
    workflow = dict(json.loads(file.read_text(encoding="utf-8")))
    nodes = {node["type"]: node for node in workflow["nodes"]}
    nodes["UnlearnConcept"]["widgets_values"][1] = kind
    nodes["UnlearnForget"]["widgets_values"][0] = "quick"
    nodes["UnlearnSaveLora"]["widgets_values"][0] = f"{kind}/forget-%concept%"
    for node in workflow["nodes"]:
        if node["type"] in ("UnlearnMeasure", "PreviewImage"):
            node["mode"] = 2  # muted
    return workflow


def run(page: Page) -> list[str]:
    """Press Run and wait for the end; the progress texts that the page was sent."""
    page.evaluate("() => { window.texts = []; window.ended = false }")
    press_run(page)
    page.wait_for_function("() => window.ended")
    return list(page.evaluate("() => window.texts"))


def reload(page: Page) -> None:
    """Load the page anew, with the workflow that it was left with."""
    page.reload()
    page.wait_for_function(READY)
    page.wait_for_function("() => app.graph.nodes.some((node) => node.type === 'UnlearnForget')")
    page.evaluate(LISTEN)


def test_what_nodes_say_stays_after_the_job_a_reload_and_a_run_from_the_cache(
    server: ComfyServer, browser: Browser, page: Page
) -> None:
    other = open_page(server, browser)
    page.evaluate(OPEN, quick())
    prompt = page.evaluate(AS_PROMPT)
    texts = run(page)
    assert texts[:2] == ["starting", "copying the text encoder"]
    assert "least squares" in texts
    assert other.evaluate("() => window.texts") == []
    other.close()
    page.wait_for_function("() => document.querySelectorAll('.unlearn_said').length === 2")
    said = page.evaluate(SAID)
    assert said["UnlearnForget"].startswith("forgotten: dog, puppy\n")
    assert said["UnlearnForget"].endswith(" s")
    assert said["UnlearnSaveLora"] == "models/loras/object/forget-dog.safetensors"
    reload(page)
    page.wait_for_function("() => document.querySelectorAll('.unlearn_said').length === 2")
    assert page.evaluate(SAID) == said
    assert page.evaluate(AS_PROMPT) == prompt
    assert run(page) == [], "nothing is trained again"
    assert page.evaluate(SAID) == said
    with Image.open(server.folder / "models" / "loras" / "object" / "forget-dog.png") as picture:
        assert json.loads(picture.info["prompt"]).keys() == prompt.keys()
        assert len(json.loads(picture.info["workflow"])["nodes"]) == len(quick()["nodes"])


def test_of_a_person_nothing_is_kept(server: ComfyServer, page: Page) -> None:
    page.evaluate(OPEN, quick("person"))
    run(page)
    page.wait_for_function("() => document.querySelectorAll('.unlearn_said').length === 2")
    assert page.evaluate(SAID)["UnlearnForget"].startswith("forgotten: dog")
    workflow = page.evaluate(AS_WORKFLOW)
    assert "forgotten:" not in workflow
    assert "forget-dog.safetensors" not in workflow
    with Image.open(server.folder / "models" / "loras" / "person" / "forget-dog.png") as picture:
        assert picture.info == {}


def test_a_node_draws_its_losses_and_takes_back_what_it_no_longer_says(page: Page) -> None:
    page.evaluate(OPEN, quick())
    page.evaluate(
        """() => {
            window.node = app.graph.nodes.find((node) => node.type === "UnlearnForget")
            window.say = (text) => node.onExecuted(
                {text: [text], unlearn: [{losses: [3, 1, 2], hidden: false}]})
            say("one\\ntwo <b>")
        }"""
    )
    page.wait_for_selector(".unlearn_said polyline")
    assert page.locator(".unlearn_said polyline").get_attribute("points") == "0,0 1,1 2,0.5"
    assert page.evaluate(SAID)["UnlearnForget"].startswith("one\ntwo <b>")
    assert page.evaluate("() => node.size[1] >= node.computeSize()[1]")
    page.evaluate("() => say('')")
    page.wait_for_function("() => document.querySelectorAll('.unlearn_said').length === 0")
    assert "unlearn_said" not in page.evaluate(AS_WORKFLOW)
