"""Templates in ComfyUI's real front end: the button, an interruption, full text width."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_host import ROOT, ComfyServer, Graph, error_of
from comfy_page import AS_PROMPT, OPEN, READY, press_run
from host_server import open_browser
from playwright.sync_api import Page, sync_playwright

from bench.cost.full_size_checkpoint import write_checkpoint

pytestmark = pytest.mark.host
TEMPLATES = ROOT / "example_workflows"
FIRST = "Unlearn 1 - forget an object"
OWN = "Unlearn 3 - erase a concept from your SD2 checkpoint"
BAKE = "Unlearn 8 - bake the forgetting into a checkpoint"
CHECKPOINT = "v2-1_512-ema-pruned.safetensors"
LORA = "unlearn/forget-dog.safetensors"
SMALL = {
    "steps": 3, "forget_prompts": 8, "keep_prompts": 8, "batch_size": 2, "stand_in_pictures": 0,
    "inversion_steps": 2, "inversion_batch": 1, "caption_styles": 1, "closed_form": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with a slim SD2 checkpoint of full text width, and a picture in its input folder."""
    server = ComfyServer(tmp_path_factory.mktemp("comfyui"))
    checkpoints = server.folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    write_checkpoint(checkpoints / CHECKPOINT, slim=True)
    shutil.copytree(ROOT / "demo" / "pictures" / "cat", server.folder / "input" / "grumpy-cat")
    server.post("settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def page(server: ComfyServer) -> Iterator[Page]:
    """The front end in a headless Chromium of the system."""
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(server.address)
        page.wait_for_function(READY, timeout=120_000)
        yield page
        browser.close()


def workflow(name: str) -> dict[str, Any]:
    """A template's UI-format JSON."""
    return dict(json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8")))


def as_prompt(page: Page, name: str) -> Graph:
    """A template as the front end would send it."""
    page.evaluate(OPEN, workflow(name))
    return dict(page.evaluate(AS_PROMPT))


def with_few_steps(graph: Graph) -> Graph:
    """The same graph with an Unlearning Settings node that asks for next to nothing."""
    for key, node in list(graph.items()):
        if node["class_type"] == "UnlearnForget":
            small = dict(SMALL)
            graph[f"{key}-settings"] = {"class_type": "UnlearnSettings", "inputs": small}
            node["inputs"]["settings"] = [f"{key}-settings", 0]
    return graph


def filled(server: ComfyServer, graph: Graph) -> Graph:
    """With every setting that `with_few_steps` did not name at its default."""
    known = server.get("object_info/UnlearnSettings")["UnlearnSettings"]["input"]["required"]
    defaults = {key: options["default"] for key, (_, options) in known.items()}
    for node in graph.values():
        if node["class_type"] == "UnlearnSettings":
            node["inputs"] = {**defaults, **node["inputs"]}
    return graph


def test_the_server_offers_every_template_with_its_picture(server: ComfyServer) -> None:
    names = {path.stem for path in TEMPLATES.glob("*.json")}
    assert set(server.get("workflow_templates")["sd-unlearn"]) == names
    assert {path.stem for path in TEMPLATES.glob("*.jpg")} == names


def test_a_template_runs_by_its_button_with_progress_preview_and_result(
    server: ComfyServer, page: Page, tmp_path: Path
) -> None:
    page.evaluate(OPEN, workflow(FIRST))
    page.evaluate(
        """() => {
            window.seen = {progress: 0, previews: 0, texts: 0};
            app.api.addEventListener("progress", () => window.seen.progress++);
            app.api.addEventListener("b_preview", () => window.seen.previews++);
            app.api.addEventListener("progress_text", () => window.seen.texts++);
        }"""
    )
    press_run(page)
    page.wait_for_function("() => window.seen.previews > 0", timeout=300_000)
    prompt_id = server.newest_prompt()
    entry = server.wait(prompt_id)
    assert entry["status"]["status_str"] == "success"
    page.wait_for_function(
        "() => window.seen.progress > 50 && window.seen.texts > 10", timeout=60_000
    )
    page.wait_for_function(
        "() => app.graph.nodes.find(n => n.type === 'UnlearnMeasure').imgs?.length > 0",
        timeout=30_000,
    )
    page.screenshot(path=tmp_path / "first.png")
    assert (server.folder / "models" / "loras" / LORA).exists()


def test_an_interrupt_while_measuring_leaves_the_lora(server: ComfyServer, page: Page) -> None:
    template = workflow(FIRST)
    nodes = {node["type"]: node for node in template["nodes"]}
    nodes["UnlearnForget"]["widgets_values"][0] = "quick"
    nodes["UnlearnSaveLora"]["widgets_values"][0] = "interrupted/forget-%concept%"
    page.evaluate(OPEN, template)
    page.evaluate(
        """() => {
            window.running = [];
            app.api.addEventListener("executing", ({detail}) => window.running.push(detail));
        }"""
    )
    press_run(page)
    measure = str(nodes["UnlearnMeasure"]["id"])
    page.wait_for_function(f"() => window.running.at(-1) === {measure!r}", timeout=300_000)
    prompt_id = server.newest_prompt()
    server.post("interrupt", {})
    entry = server.wait(prompt_id)
    assert error_of(entry) == "interrupted"
    assert dict(entry["status"]["messages"])["execution_interrupted"]["node_id"] == measure
    assert (server.folder / "models" / "loras" / "interrupted" / "forget-dog.safetensors").exists()


def test_the_templates_for_ones_own_checkpoint_run_at_full_text_width(
    server: ComfyServer, page: Page
) -> None:
    graph = as_prompt(page, OWN)
    measure = next(k for k, node in graph.items() if node["class_type"] == "UnlearnMeasure")
    for key in [k for k, node in graph.items() if [measure, 1] in node["inputs"].values()]:
        del graph[key]
    del graph[measure]  # its 100 pictures of 512 pixels would take a CPU an hour
    for node in graph.values():
        if node["class_type"] == "UnlearnForget":
            node["inputs"]["preset"] = "quick"
            del node["inputs"]["vae"]  # no previews, for the same reason
            del node["inputs"]["images"]
    small = filled(server, with_few_steps(graph))
    shown = server.run(small)
    name = "unlearn/forget-grumpy-cat.safetensors"
    assert [f"models/loras/{name}"] in [node.get("text") for node in shown.values()]
    load = {
        "checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "lora": {
            "class_type": "LoraLoader",
            "inputs": {
                "model": ["checkpoint", 0], "clip": ["checkpoint", 1], "lora_name": name,
                "strength_model": 1.0, "strength_clip": 1.0,
            },
        },
        "prompt": {
            "class_type": "CLIPTextEncode",
            "inputs": {"clip": ["lora", 1], "text": "a grumpy cat"},
        },
        "shown": {"class_type": "PreviewAny", "inputs": {"source": ["prompt", 0]}},
    }  # fmt: skip
    server.run(load)
    assert "not loaded" not in server.log.lower()


def test_baking_into_a_checkpoint_writes_a_file(server: ComfyServer, page: Page) -> None:
    graph = filled(server, with_few_steps(as_prompt(page, BAKE)))
    server.run(graph)
    baked = list((server.folder / "output" / "checkpoints").glob("forget-grumpy-cat*.safetensors"))
    assert len(baked) == 1
