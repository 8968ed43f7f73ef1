"""Runs the thin host: `webui_launcher.py EXTENSION FOLDER PORT SHAPE`, SHAPE a1111 or forge.

Real gradio and fastapi around the thin package `modules`; the extension's scripts are loaded as the
hosts' load_scripts does it, from a folder whose name has a dash.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import time
from pathlib import Path
from typing import Any

EXTENSION, FOLDER, PORT, SHAPE = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE / "webui_thin")
logging.basicConfig(level=logging.INFO)

import gradio as gr  # noqa: E402
import networks  # noqa: E402, F401  (the Lora extension is loaded before ours)
from fastapi import Body, FastAPI  # noqa: E402
from modules import progress, script_callbacks, sd_models, shared  # noqa: E402

JAVASCRIPT = (HERE / "webui_front_end.js", EXTENSION / "javascript" / "unlearn.js")
GRADIO_4 = gr.__version__.startswith("4")


def teach_old_names() -> None:
    """gradio 4 calls `_js` js; Forge lets extensions go on with the old name."""
    plain = gr.Button.click

    @functools.wraps(plain)
    def click(*given: Any, _js: str | None = None, **named: Any) -> Any:
        return plain(*given, **({"js": _js} if _js else {}), **named)

    gr.Button.click = click


def load_script() -> None:
    """Execute the extension's script; its root is on sys.path meanwhile, in Forge for good."""
    script_callbacks.clear()
    before = sys.path
    sys.path = [str(EXTENSION), *sys.path]
    path = EXTENSION / "scripts" / "unlearn_tab.py"
    spec = importlib.util.spec_from_file_location(path.name, path)
    assert spec
    assert spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    if SHAPE == "a1111":
        sys.path = before


def build_page() -> gr.Blocks:
    """txt2img, as little as is needed, and the extension's tabs."""
    for callback in script_callbacks.callbacks["ui_settings"]:
        callback()
    tabs = [tab for callback in script_callbacks.callbacks["ui_tabs"] for tab in callback()]
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs(elem_id="tabs"):
        with gr.TabItem("txt2img", id="txt2img", elem_id="tab_txt2img"):
            gr.Textbox(label="Prompt", lines=3, elem_id="txt2img_prompt")
        for interface, label, name in tabs:
            with gr.TabItem(label, id=name, elem_id=f"tab_{name}"):
                interface.render()
    return page


def put_scripts_into_the_page() -> None:
    """As the hosts do it: scripts and styles go into the head of gradio's own page."""
    plain = gr.routes.templates.TemplateResponse
    style = (EXTENSION / "style.css").read_text("utf-8")
    script = "\n".join(file.read_text("utf-8") for file in JAVASCRIPT)
    head = f"<script>{script}</script><style>{style}</style></head>".encode()

    def response(*args: Any, **kwargs: Any) -> Any:
        page = plain(*args, **kwargs)
        page.body = page.body.replace(b"</head>", head)
        page.init_headers()
        return page

    gr.routes.templates.TemplateResponse = response


def add_host_routes(app: FastAPI, checkpoints: dict[str, Any]) -> None:
    """What the page and the tests ask the host for."""

    def ask(question: dict[str, Any] = Body(...)) -> dict[str, Any]:  # noqa: B008
        return progress.answer(question)

    def interrupt() -> None:
        shared.state.interrupt()

    def set_options(options: dict[str, Any] = Body(...)) -> None:  # noqa: B008
        """Options of the command line that started the host."""
        for name, value in options.items():
            setattr(shared.cmd_opts, name, value)

    def load(name: str = Body(..., embed=True)) -> None:
        """Another checkpoint, as the user chooses it at the top of the page."""
        sd_models.lend(checkpoints[name])

    app.add_api_route("/internal/progress", ask, methods=["POST"])
    app.add_api_route("/sdapi/v1/interrupt", interrupt, methods=["POST"])
    app.add_api_route("/thin/options", set_options, methods=["POST"])
    app.add_api_route("/thin/checkpoint", load, methods=["POST"])


def main() -> None:
    """Start, and stay until the process is ended."""
    shared.cmd_opts.lora_dir = str(FOLDER / "models" / "Lora")
    shared.cmd_opts.embeddings_dir = str(FOLDER / "embeddings")
    shared.cmd_opts.api_auth = None
    if GRADIO_4:
        teach_old_names()
    if SHAPE == "forge":
        import backend.memory_management  # noqa: F401
    load_script()
    for callback in script_callbacks.callbacks["script_unloaded"]:
        callback()
    load_script()  # as Reload UI does it: nothing old may be in the way
    sys.path.append(str(HERE))
    import webui_demo_model

    kind = webui_demo_model.LdmDemo if SHAPE == "a1111" else webui_demo_model.ForgeDemo
    checkpoints = {
        "demo": kind(),
        "sdxl": kind(webui_demo_model.SDXL),
        "refiner": webui_demo_model.refiner(SHAPE),
    }
    sd_models.lend(checkpoints["demo"])
    put_scripts_into_the_page()
    page = build_page()
    page.queue()
    app, _, _ = page.launch(
        server_name="127.0.0.1", server_port=int(PORT), prevent_thread_lock=True, quiet=True
    )
    add_host_routes(app, checkpoints)
    for callback in script_callbacks.callbacks["app_started"]:
        callback(page, app)
    print("READY", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
