"""ComfyUI's page: what tests ask of it, and both node designs, in dark or light colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfy_host import ComfyServer

if TYPE_CHECKING:  # conftest.py loads this file where there may be no playwright
    from playwright.sync_api import Browser, Page

READY = "() => !!window.app?.graph && !!window.LiteGraph?.registered_node_types.UnlearnForget"
OPEN = "async (workflow) => { await app.loadGraphData(workflow) }"
AS_PROMPT = "async () => (await app.graphToPrompt()).output"


@dataclass(frozen=True)
class Look:
    """A node design."""

    vue: bool

    def __str__(self) -> str:
        """For messages."""
        return "Nodes 2.0" if self.vue else "classic"


LOOKS = [Look(vue) for vue in (False, True)]


def open_look(server: ComfyServer, browser: Browser, look: Look, colours: str = "dark") -> Page:
    """A page of 1600 x 900 with that look."""
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": look.vue,
        "Comfy.ColorPalette": colours,
        "LiteGraph.Canvas.MinFontSizeForLOD": 8,  # Nodes 2.0 sets it to 0 for all pages
    }
    server.post("settings", settings)
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(300_000)
    page.goto(server.address)
    page.wait_for_function(READY)
    page.wait_for_load_state("networkidle")  # what is opened earlier may be laid out wrongly
    return page


def press_run(page: Page) -> None:
    """Press Run: the first button of a group that has the test id, or in newer pages the one."""
    name = "[data-testid=queue-button]"
    page.locator(f"button{name}, {name} button").first.click()
