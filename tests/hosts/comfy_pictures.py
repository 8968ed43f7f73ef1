"""Takes the nodes' pictures for their help pages: a real ComfyUI, its page, a run of the nodes.

PYTHONPATH=. .venv/bin/python tests/hosts/comfy_pictures.py
"""

from __future__ import annotations

import io
import itertools
import sys
import tempfile
from pathlib import Path

from comfy_host import ROOT, ComfyServer
from comfy_page import READY
from host_server import open_browser
from PIL import Image
from playwright.sync_api import Page, sync_playwright

PAGES = ROOT / "web" / "docs"
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None", "Comfy.Graph.CanvasMenu": False,
}  # fmt: skip
LARGEST = 40_000
HALF_AN_HOUR = 1_800_000
EDGE = 8
NODES = {
    "UnlearnDemoModel": (260, 0, {}),
    "UnlearnConcept": (260, 0, {"synonyms": "puppy"}),
    "UnlearnSettings": (360, 0, {}),
    "UnlearnInvert": (360, 0, {}),
    "UnlearnForget": (360, 0, {}),
    "UnlearnSaveLora": (360, 0, {}),
    "UnlearnLoadLora": (360, 0, {}),
    "UnlearnMeasure": (420, 160, {}),
}
"""Each node's width, what its picture adds to its height, and its inputs that are no defaults."""
FEW_STEPS = {
    "steps": 60, "closed_form": True, "stand_in_pictures": 2, "use_pictures": False,
    "forget_prompts": 128, "keep_prompts": 128,
}  # fmt: skip
"""What a second Unlearning Settings, wired into Forget Concept, asks for."""
MODEL, CLIP, VAE, IMAGES = (["UnlearnDemoModel", slot] for slot in range(4))
CONCEPT = ["UnlearnConcept", 0]
WIRES = {
    "UnlearnForget": {
        "model": MODEL, "clip": CLIP, "vae": VAE, "images": IMAGES, "concept": CONCEPT,
        "settings": ["few steps", 0],
    },
    "UnlearnSaveLora": {"unlearn_lora": ["UnlearnForget", 1]},
    "UnlearnMeasure": {
        "model": MODEL, "vae": VAE, "concept": CONCEPT, "clip_before": CLIP,
        "clip_after": ["UnlearnForget", 0], "unlearn_lora": ["UnlearnSaveLora", 1],
    },
}  # fmt: skip
BUILD = """([nodes, fewSteps, wires]) => {
    app.graph.clear()
    app.canvas.links_render_mode = -1
    window.made = {}
    const add = (name, type, [width, , values]) => {
        const node = window.made[name] = LiteGraph.createNode(type)
        app.graph.add(node)
        node.setSize([width, node.computeSize()[1]])
        for (const widget of node.widgets ?? [])
            if (widget.name in values) widget.value = values[widget.name]
    }
    for (const [type, look] of Object.entries(nodes)) add(type, type, look)
    add("few steps", "UnlearnSettings", [360, 0, fewSteps])
    for (const [type, inputs] of Object.entries(wires))
        for (const [name, [from, slot]] of Object.entries(inputs))
            window.made[from].connect(slot, window.made[type], name)
}"""
LOAD_BACK = """async () => {
    await app.refreshComboInNodes()
    const preview = LiteGraph.createNode("PreviewAny")
    app.graph.add(preview)
    window.made.UnlearnDemoModel.connect(1, window.made.UnlearnLoadLora, "clip")
    window.made.UnlearnLoadLora.connect(0, preview, "source")
}"""
RUN = """async () => {
    window.ended = ""
    for (const kind of ["execution_success", "execution_error"])
        app.api.addEventListener(kind, () => { window.ended = kind }, {once: true})
    await app.queuePrompt(0)
}"""
SHOW_ALONE = """([type, added]) => {
    for (const other of app.graph.nodes) other.pos = [9999, 0]
    const node = window.made[type]
    node.pos = [0, 0]
    node.setSize([node.size[0], node.computeSize()[1] + added])
    app.canvas.deselectAll()
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [200, 200]
    app.canvas.setDirty(true, true)
    return [...node.size, LiteGraph.NODE_TITLE_HEIGHT]
}"""


def run(page: Page) -> None:
    """Run what is on the page, to its end."""
    page.evaluate(RUN)
    page.wait_for_function("() => window.ended")
    if page.evaluate("() => window.ended") != "execution_success":
        raise RuntimeError("a node failed")


def picture(page: Page, node_id: str) -> bytes:
    """The node alone as a PNG of few colours."""
    width, height, title = page.evaluate(SHOW_ALONE, [node_id, NODES[node_id][1]])
    page.wait_for_timeout(2000)
    box = page.locator("#graph-canvas").bounding_box()
    assert box is not None
    shot = page.screenshot(
        clip={
            "x": box["x"] + 200 - EDGE, "y": box["y"] + 200 - title - EDGE,
            "width": width + 2 * EDGE, "height": height + title + 2 * EDGE,
        }
    )  # fmt: skip
    return small(Image.open(io.BytesIO(shot)).convert("RGB"))


def small(image: Image.Image) -> bytes:
    """As a PNG below LARGEST, of fewer colours, and where that is not enough of fewer pixels."""
    for scale, colours in itertools.product((1, 2 / 3, 1 / 2), (256, 128, 64)):
        size = round(image.width * scale), round(image.height * scale)
        file = io.BytesIO()
        image.resize(size, Image.Resampling.BOX).quantize(colours, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
        if file.tell() < LARGEST:
            return file.getvalue()
    raise ValueError(f"a picture of {image.size} is too large")


def take(server: ComfyServer) -> None:
    """Run the nodes and write their pictures."""
    server.post("settings", SETTINGS)
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        page = browser.new_page(viewport={"width": 1200, "height": 1300}, device_scale_factor=1.5)
        page.set_default_timeout(HALF_AN_HOUR)
        page.goto(server.address)
        page.wait_for_function(READY)
        page.evaluate(BUILD, [NODES, FEW_STEPS, WIRES])
        run(page)
        page.evaluate(LOAD_BACK)
        run(page)
        for node_id in NODES:
            (PAGES / f"{node_id}.png").write_bytes(picture(page, node_id))
        browser.close()


def main() -> None:
    """Start a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(Path(folder))
        try:
            take(server)
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
