"""What the tab says, and that nothing from outside is HTML in it."""

import pytest

from unlearn_core.settings import bounds_of
from unlearn_webui.host.chosen_checkpoint import Checkpoint
from unlearn_webui.request import TUNABLE
from unlearn_webui.tab_texts import checkpoint_html, error_html, lines_html, number_info

EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "html",
    [
        checkpoint_html(Checkpoint(EVIL)),
        checkpoint_html(Checkpoint("a", EVIL)),
        checkpoint_html(Checkpoint("a", refusal=EVIL)),
        checkpoint_html(Checkpoint("a", notes=(EVIL,))),
        checkpoint_html(Checkpoint(EVIL, loaded=False)),
        lines_html([EVIL]),
        error_html(EVIL),
    ],
)
def test_names_and_messages_are_escaped(html: str) -> None:
    assert "<img" not in html
    assert "&lt;img" in html


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        (Checkpoint("xl-base", "SDXL"), "xl-base</b> can be used: it is SDXL."),
        (Checkpoint("flux", refusal="This is Flux."), "can't be used. This is Flux."),
        (Checkpoint("v2-1", loaded=False), "not loaded yet"),
        (Checkpoint("", loaded=False), "No checkpoint is chosen"),
    ],
)
def test_the_checkpoint_is_named_with_what_it_is_good_for(
    checkpoint: Checkpoint, words: str
) -> None:
    assert words in checkpoint_html(checkpoint)


@pytest.mark.parametrize("name", [name for name in TUNABLE if name != "layers"])
def test_a_fields_explanation_has_the_engines_bounds_in_full(name: str) -> None:
    low, high = bounds_of(name)
    assert f"{int(low)} to {int(high)}" in number_info(name)
