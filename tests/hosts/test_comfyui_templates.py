"""Every template as users may see it: laid out, readable, and run to its end by its button."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from comfy_host import ROOT, ComfyServer, error_of, newest_front_end
from comfy_page import AS_PROMPT, LOOKS, OPEN, Look, open_look, press_run
from host_server import open_browser
from playwright.sync_api import Page, sync_playwright

pytestmark = pytest.mark.host
TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
CHECKPOINTS = (
    "v2-1_512-ema-pruned.safetensors", "v1-5-pruned-emaonly.safetensors",
    "sd_xl_base_1.0.safetensors",
)  # fmt: skip
BOXES = """() => {
    const { left, top } = app.canvas.canvas.getBoundingClientRect()
    const { scale, offset } = app.canvas.ds
    return app.graph.nodes.map((node) => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect()
        if (drawn?.width) return [node.type, drawn.left, drawn.top, drawn.right, drawn.bottom]
        const [x, y, width, height] = node.boundingRect
        const [atX, atY] = [(x + offset[0]) * scale + left, (y + offset[1]) * scale + top]
        return [node.type, atX, atY, atX + width * scale, atY + height * scale]
    })
}"""
TEXT_BOXES = """() => [...document.querySelectorAll(
    ".comfy-markdown, .widget-markdown, textarea:not(.comfy-markdown *, .widget-markdown *)"
)].filter((box) => box.checkVisibility() && box.getBoundingClientRect().height > 20).length"""
SAID = "() => Object.fromEntries(app.graph.nodes.map((n) => [n.id, n.properties.unlearn_said]))"
LISTEN = """() => {
    window.ended = false
    app.api.addEventListener("execution_success", () => { window.ended = true })
    app.api.addEventListener("execution_error", () => { window.ended = true })
}"""
WITHOUT_PICTURE = """() => app.graph.nodes.filter(({ type, id }) =>
    type === "PreviewImage" && !app.nodeOutputs[id]?.images?.length).length"""


@pytest.fixture(scope="module", params=["own front end", "newest front end"])
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ComfyServer]:
    """ComfyUI with the demo models as checkpoints and a folder of pictures."""
    folder = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(ROOT / "demo" / "pictures" / "cat", folder / "input" / "grumpy-cat")
    checkpoints = folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in CHECKPOINTS:
        (checkpoints / name).touch()
    (folder / "custom_nodes").mkdir()
    shutil.copy(Path(__file__).with_name("comfy_demo_checkpoints.py"), folder / "custom_nodes")
    newest = newest_front_end() if request.param == "newest front end" else None
    server = ComfyServer(folder, front_end=newest)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def pages(server: ComfyServer) -> Iterator[dict[Look, Page]]:
    """A page of every look."""
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        yield {look: open_look(server, browser, look) for look in LOOKS}
        browser.close()


def workflow(file: Path) -> dict[str, Any]:
    """A template with the preset that takes seconds."""
    read = dict(json.loads(file.read_text("utf-8")))
    for node in read["nodes"]:
        if node["type"] == "UnlearnForget":
            node["widgets_values"][0] = "quick"
    return read


def check_layout(look: Look, page: Page, texts: int) -> None:
    """All in the window, nothing over another thing, every text drawn."""
    page.wait_for_function(f"() => ({TEXT_BOXES})() === {texts}", timeout=30_000)
    assert not page.evaluate("() => app.canvas.low_quality"), str(look)
    boxes = page.evaluate(BOXES)
    for name, left, top, right, bottom in boxes:
        inside = left >= 0 and top >= 0 and right <= 1600 and bottom <= 900
        assert inside, f"{look}: {name} is not in the window"
    for (one, left, top, right, bottom), (other, *box) in combinations(boxes, 2):
        apart = right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top
        assert apart, f"{look}: {one} and {other} overlap"


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_a_template_fits_is_readable_and_runs_in_every_look(
    server: ComfyServer, pages: dict[Look, Page], file: Path
) -> None:
    """In order: the templates that load a LoRA take that of the first."""
    shown = workflow(file)
    known = server.get("object_info")
    kinds = {node["type"] for node in shown["nodes"]} & known.keys()
    assert [kind for kind in kinds if known[kind].get("deprecated")] == []
    texts = sum(node["type"] in ("MarkdownNote", "CLIPTextEncode") for node in shown["nodes"])
    for look, page in pages.items():
        page.evaluate("async () => { await app.refreshComboInNodes() }")
        page.evaluate(OPEN, shown)
        check_layout(look, page, texts)
        page.evaluate(LISTEN)
        press_run(page)
        page.wait_for_function("() => window.ended")
        entry = server.wait(server.newest_prompt())
        assert entry["status"]["status_str"] == "success", error_of(entry)
        page.wait_for_function(f"() => ({WITHOUT_PICTURE})() === 0")
        check_layout(look, page, texts)
        for node in shown["nodes"]:  # the next look finds the run in ComfyUI's cache
            if said := page.evaluate(SAID).get(str(node["id"])):
                node["properties"]["unlearn_said"] = said
    assert "not loaded" not in server.log.lower()


def wired_blueprint(server: ComfyServer, name: str) -> dict[str, Any]:
    """The blueprint as the server offers it, at the demo model, with the preset of seconds."""
    [key] = [
        key
        for key, entry in server.get("global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.sd-unlearn"
    ]
    graph = dict(json.loads(server.get(f"global_subgraphs/{key}")["data"]))
    [blueprint] = graph["nodes"]
    blueprint["widgets_values"] = [name, "object", "quick"]
    kinds = ["MODEL", "CLIP", "VAE"]
    for slot in range(len(kinds)):
        blueprint["inputs"][slot]["link"] = slot + 1
    outputs = [{"name": kind, "type": kind, "links": [slot + 1]} for slot, kind in enumerate(kinds)]
    demo = {
        "id": 2, "type": "UnlearnDemoModel", "pos": [-400, 0], "size": [320, 150], "flags": {},
        "order": 0, "mode": 0, "inputs": [], "outputs": outputs, "properties": {},
        "widgets_values": ["dog", "sd2"],
    }  # fmt: skip
    links = [[slot + 1, 2, slot, blueprint["id"], slot, kind] for slot, kind in enumerate(kinds)]
    return graph | {"nodes": [blueprint, demo], "links": links, "last_node_id": 2}


def test_the_blueprint_gives_clip_and_a_file(server: ComfyServer, pages: dict[Look, Page]) -> None:
    # Each its own concept: ComfyUI 0.3.75 shows nothing of a run that it has in its cache.
    for name, (look, page) in zip(("cat", "owl"), pages.items(), strict=True):
        page.evaluate(OPEN, wired_blueprint(server, name))
        prompt = page.evaluate(AS_PROMPT)
        inputs = {node["class_type"]: node["inputs"] for node in prompt.values()}
        assert inputs["UnlearnConcept"]["name"] == name, str(look)
        assert inputs["UnlearnForget"]["preset"] == "quick", str(look)
        texts = [shown.get("text") for shown in server.run(prompt).values()]
        assert [f"models/loras/unlearn/forget-{name}.safetensors"] in texts, str(look)
