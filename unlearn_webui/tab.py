"""The tab Unlearn: one screen, the run's result on its right side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import gradio as gr

from unlearn_core.concept import COVERS, KINDS, Covers, Kind
from unlearn_core.errors import UnlearnError
from unlearn_core.files.pictures import MOST_PICTURES
from unlearn_core.settings import PRESET_HELP, PRESETS

from .host.checkpoint import checkpoint
from .host.files import name_uploads_only, uploaded
from .host.run import queued_from_tab
from .host.settings import default_preset
from .job import JOBS
from .request import ForgetRequest, help_for, typed_number
from .run import run
from .tab_texts import checkpoint_html, error_html, layers_info, lines_html, number_info
from .uploads import pictures_from_files

logger = logging.getLogger(__name__)

_NOTHING = (None, "", "")
"""The picture, the numbers and the tag of a run that gave none."""


def build_tab() -> gr.Blocks:
    """The tab, for the host to show."""
    with gr.Blocks(analytics_enabled=False) as tab:
        with gr.Row(elem_id="unlearn_head"):
            state = gr.HTML(value=_checkpoint, elem_id="unlearn_checkpoint")
            refresh = gr.Button("Check again", elem_id="unlearn_refresh", size="sm")
        with gr.Row(equal_height=False):
            with gr.Column():
                asked = _first_fields()
                with gr.Row():
                    forget = gr.Button("Forget", variant="primary", elem_id="unlearn_generate")
                    stop = gr.Button("Stop", variant="stop", elem_id="unlearn_interrupt")
                asked += _more_fields()
            with gr.Column(elem_id="unlearn_results"):
                shown = _result_fields()
                send = gr.Button("Send to txt2img", elem_id="unlearn_send")
                log = gr.HTML(elem_id="unlearn_log")
        # The task's id comes from the page; gr.Label would hang in Forge.
        task = gr.Textbox(visible=False, elem_id="unlearn_task")
        inputs = [task, *asked]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_name": False}
        refresh.click(_checkpoint, [], [state], queue=False, **quiet)
        forget.click(
            queued_from_tab(_forget, on_error=list(_NOTHING)),
            inputs,
            [*shown, log],
            _js=f"(...values) => unlearnForget(values, {len(inputs)})",
            **quiet,
        )
        stop.click(JOBS.stop, [task], [], _js="unlearnStop", queue=False, **quiet)
        send.click(None, [shown[-1]], [], _js="unlearnSend")
    _keep_out_of_the_hosts_defaults([*inputs, *shown])
    return tab


def _first_fields() -> list[Any]:
    presets = " ".join(f"{name}: {text}" for name, text in PRESET_HELP.items())
    return [
        gr.Textbox(
            label="Forget",
            placeholder="dog, puppy",
            info=help_for("names"),
            elem_id="unlearn_names",
        ),
        name_uploads_only(
            gr.File(
                label=f"Pictures of it (0 to {MOST_PICTURES}; 4 or 5 are enough)",
                file_count="multiple",
                file_types=["image"],
                elem_id="unlearn_pictures",
            )
        ),
        gr.Radio(
            list(PRESETS),
            value=default_preset(),
            label="Preset",
            info=presets,
            elem_id="unlearn_preset",
        ),
    ]


def _more_fields() -> list[Any]:
    with gr.Accordion("More", open=False, elem_id="unlearn_more"):
        words = [
            _text("stand_in", "Stand-in", help_for("stand_in")),
            _text("keep", "Keep", help_for("keep")),
            gr.Radio(
                list(KINDS),
                value=KINDS[0],
                label="Kind",
                info=help_for("kind"),
                elem_id="unlearn_kind",
            ),
            gr.Radio(
                list(COVERS),
                value=COVERS[0],
                label="Covers",
                info=help_for("covers"),
                elem_id="unlearn_covers",
            ),
        ]
        with gr.Row():
            numbers = [
                _number("seed", "Seed"), _number("steps", "Steps"), _number("rank", "Rank"),
            ]  # fmt: skip
        with gr.Row():
            weights = [
                _text("layers", "Layers", layers_info()),
                _number("forget_weight", "Strength of forgetting"),
            ]
        switches = [
            _switch("measure", "Measure at the end"),
            _switch("private", "Private"),
            _switch("save_embedding", "Save the embedding too"),
        ]
        return [*words, *numbers, *weights, *switches]


def _text(name: str, label: str, info: str) -> Any:
    return gr.Textbox(label=label, info=info, elem_id=f"unlearn_{name}")


def _switch(name: str, label: str) -> Any:
    start = getattr(ForgetRequest, name)
    return gr.Checkbox(label=label, info=help_for(name), value=start, elem_id=f"unlearn_{name}")


def _number(name: str, label: str) -> Any:
    # Not gr.Number: gradio 3 sends 0 for an empty one, and an empty field means the preset's value.
    return _text(name, label, number_info(name))


def _result_fields() -> list[Any]:
    gr.HTML(elem_id="unlearn_progress")  # the host's progress bar is put before it
    gr.HTML(elem_id="unlearn_preview")  # and its live preview into this one
    sheet = gr.Image(show_label=False, type="pil", interactive=False, elem_id="unlearn_sheet")
    numbers = gr.HTML(elem_id="unlearn_numbers")
    tag = gr.Textbox(
        label="Put this into prompts",
        interactive=False,
        show_copy_button=True,
        elem_id="unlearn_tag",
    )
    return [sheet, numbers, tag]


def _keep_out_of_the_hosts_defaults(components: Sequence[Any]) -> None:
    """The host would store today's defaults in ui-config.json and prefer them to tomorrow's."""
    for component in components:
        component.do_not_save_to_config = True


def _checkpoint() -> str:
    return checkpoint_html(checkpoint())


def _forget(
    task: str,
    names: str,
    files: list[str],
    preset: str,
    stand_in: str,
    keep: str,
    kind: Kind,
    covers: Covers,
    seed: str,
    steps: str,
    rank: str,
    layers: str,
    forget_weight: str,
    measure: bool,
    private: bool,
    save_embedding: bool,
) -> tuple[Any, str, str, str]:
    """The button Forget: picture, numbers, tag and log. Never raises: the host prints arguments."""
    try:
        paths = [uploaded(file) for file in files]
        request = ForgetRequest.decoding_last(
            len(paths),
            lambda used: pictures_from_files(paths, used),
            names=names,
            kind=kind,
            covers=covers,
            stand_in=stand_in,
            keep=keep,
            preset=preset,
            seed=typed_number("seed", seed),
            steps=typed_number("steps", steps),
            rank=typed_number("rank", rank),
            layers=layers.strip() or None,
            forget_weight=typed_number("forget_weight", forget_weight),
            save_embedding=save_embedding,
            private=private,
            measure=measure,
        )
        with JOBS.enter(task) as job:
            outcome = run(request, job)
    except UnlearnError as error:
        return (*_NOTHING, error_html(str(error)))
    except Exception as error:
        logger.exception("SD Unlearn failed")
        text = f"An error inside SD Unlearn: {type(error).__name__}. The console tells where."
        return (*_NOTHING, error_html(text))
    numbers = list(outcome.numbers)
    lines = list(outcome.lines)
    if outcome.embedding is not None:
        lines.append(f"embedding: {outcome.embedding}")
    return outcome.sheet, lines_html(numbers), outcome.tag, lines_html(lines)
