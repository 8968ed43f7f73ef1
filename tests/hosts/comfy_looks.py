"""ComfyUI's page as users may have it: the oldest and the newest front end, both node designs."""

from __future__ import annotations

import mimetypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from comfy_host import ROOT, ComfyServer
from host_install import install_once, pip_install

if TYPE_CHECKING:  # conftest.py loads this file where there may be no playwright
    from playwright.sync_api import Browser, Page, Route

NEWEST = "comfyui-frontend-package==1.58.1"
HOME = ROOT / ".hosts" / "comfyui-frontend"
STATIC = HOME / "comfyui_frontend_package" / "static"
READY = "() => !!window.app?.graph && !!window.LiteGraph?.registered_node_types.UnlearnForget"


@dataclass(frozen=True)
class Look:
    """A front end and a node design."""

    newest: bool
    vue: bool

    def __str__(self) -> str:
        """For messages."""
        return f"{'newest' if self.newest else 'own'}, {'Nodes 2.0' if self.vue else 'classic'}"


LOOKS = [Look(newest, vue) for newest in (False, True) for vue in (False, True)]


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
    if look.newest:
        install_once(HOME, NEWEST, NEWEST, _fill, 60)
        page.route("**/*", _serve)
    page.goto(server.address)
    page.wait_for_function(READY)
    page.wait_for_load_state("networkidle")  # what is opened earlier may be laid out wrongly
    return page


def _fill() -> None:
    pip_install(Path(sys.executable), "--no-deps", "--target", str(HOME), NEWEST)


def _serve(route: Route) -> None:
    """A file of the newest front end, or what the server says."""
    file = STATIC / (unquote(urlparse(route.request.url).path).lstrip("/") or "index.html")
    if file.is_file():
        route.fulfill(path=file, content_type=mimetypes.guess_type(file)[0] or "")
    else:
        route.continue_()
