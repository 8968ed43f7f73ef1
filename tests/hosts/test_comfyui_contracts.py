"""ComfyModel in ComfyUI's own Python: what it lends is what ComfyUI uses, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import comfy_host
import pytest
from comfy_host import ROOT, SOURCE, install

from unlearn_core.settings import UnlearnSettings

pytestmark = pytest.mark.host
FAMILIES = ("sd1", "sd2", "sdxl")


def measured(script: str, *arguments: str) -> dict[str, Any]:
    """What a script of this folder prints."""
    python, file = install(), Path(comfy_host.__file__).with_name(script)
    command = [str(python), str(file), str(SOURCE), str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith("MEASURED ")), None)
    assert line, done.stderr[-3000:]
    return dict(json.loads(line.removeprefix("MEASURED ")))


LAYERS = {
    "sd1": ["3", "4", "5"],
    "sd2": ["3", "4", "5"],
    "sdxl": ["te1.2", "te1.3", "te1.4", "te2.3", "te2.4", "te2.5", "te2.6"],
}
CLIP_SKIP = {"sd1": [[5], [2]], "sd2": [[5], [3]], "sdxl": [[4, 5], [2, 3]]}


@pytest.mark.parametrize("family", FAMILIES)
def test_comfy_model_keeps_the_lent_models_contract(family: str) -> None:
    found = measured("comfy_contract.py", family)
    assert found["family"] == family
    assert found["text"] <= 1e-4
    assert found["unet"] <= 1e-3
    assert found["gradient"] <= 1e-3
    assert found["encode"] <= 1e-3
    assert found["decode"] <= 1e-3
    assert found["unchanged"] == {"success": True, "cancel": True, "error": True}
    assert found["lora"] <= 1e-4 < found["lora_moves"]
    assert UnlearnSettings().layers == "last:3"
    assert found["layers"] == LAYERS[family]
    assert found["alone"]
    assert found["clip_skip"] == CLIP_SKIP[family]
    assert found["told_skip"] == [None, -4]
    assert found["clip_skip_text"] <= 1e-4
    assert len(found["stored"]) == 3
    assert all(found["stored"].values())
    assert found["orders"]["same"] <= 1e-4
    assert found["orders"]["on_top"] <= 1e-4 < found["orders"]["moves"]
    assert found["orders"]["alone"]
    assert found["orders"]["told"] == [False, True]
    if family == "sd2":
        assert found["deep"]["not loaded"] == []
        assert found["deep"]["error"] <= 1e-3 < found["deep"]["moves"]
    for name, expected in (("epsilon", "epsilon"), ("ztsnr", "v")):
        prediction, difference, _ = found["sampling"][name]
        assert (prediction, difference <= 1e-3) == (expected, True), name
    assert 0 < found["sampling"]["ztsnr"][2] < 1e-7 < found["sampling"]["epsilon"][2]


FULL_SIZE = {
    "sd1": {"size": 512, "layers": [11], "clip_skip": [9], "parts": ["te"]},
    "sd2": {"size": 512, "layers": [22], "clip_skip": [21], "parts": ["te"]},
    "sdxl": {"size": 1024, "layers": [10, 30], "clip_skip": [9, 29], "parts": ["te1", "te2"]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_full_text_width_is_lent_as_comfyui_uses_it(
    family: str, tmp_path: Path
) -> None:
    found = measured("comfy_checkpoint.py", family, str(tmp_path))
    assert found["family"] == family
    assert {name: found[name] for name in FULL_SIZE[family]} == FULL_SIZE[family]
    assert max(found["text"]) <= 1e-4 < found["states"]
    assert found["clip_skip_text"] <= 1e-4
    assert found["unet"] <= 1e-3
    assert found["not_loaded"] == []
    assert found["loaded"][0] == found["loaded"][1] > 0
    assert found["same_picture"] == 0 < 1e-3 < found["moves"]
    assert found["unchanged"]


@pytest.fixture(scope="module")
def refused() -> dict[str, Any]:
    """What each user is told."""
    return measured("comfy_refusals.py")


CLIPS = {
    "refiner": "CLIP: this is SDXL's refiner: it lacks the first text encoder.",
    "cascade": "CLIP: this is of another model (StableCascadeClipModel); this pack needs",
    "sd3": "CLIP: this is of another model (SD3ClipModel); this pack needs",
    "flux": "CLIP: this is of another model (FluxClipModel); this pack needs",
    "t5": "CLIP: this is of another model (PixArtTEModel); this pack needs",
}
MODELS = {
    "sd2 inpainting": "MODEL: this is an inpainting model: its UNet takes 9 channels",
    "sd1 inpainting": "MODEL: this is an inpainting model: its UNet takes 9 channels",
    "sdxl inpainting": "MODEL: this is an inpainting model: its UNet takes 9 channels",
    "sd2 editing": "MODEL: this is an editing model: its UNet takes 8 channels",
    "sd1 editing": "MODEL: this is an editing model: its UNet takes 8 channels",
    "sdxl editing": "MODEL: this is an editing model: its UNet takes 8 channels",
    "sd2 unclip": "MODEL: its UNet takes other conditions than Stable Diffusion 2's",
    "sd1 unclip": "MODEL: its UNet takes other conditions than Stable Diffusion 1's",
    "sd1 beside sdxl": "MODEL: its text encoder is 192 wide and its UNet expects 384:",
    "sdxl beside sd2": "MODEL: its text encoders together are 384 wide and its UNet expects 192:",
    "flux": "MODEL: this is Flux; this pack needs",
    "lcm": "The UNet predicts LCM; this pack needs epsilon or v_prediction.",
    "edm": "The UNet predicts EDM; this pack needs epsilon or v_prediction.",
    "flow": "The UNet predicts CONST; this pack needs epsilon or v_prediction.",
}


@pytest.mark.parametrize(("kind", "sentences"), [("clips", CLIPS), ("models", MODELS)])
def test_what_is_of_no_known_family_is_refused(
    refused: dict[str, Any], kind: str, sentences: dict[str, str]
) -> None:
    said = refused[kind]
    assert set(said) == set(sentences)
    assert {name: text[: len(sentences[name])] for name, text in said.items()} == sentences


@pytest.mark.parametrize("made_for", FAMILIES)
@pytest.mark.parametrize("used_on", FAMILIES)
def test_a_lora_goes_on_the_clip_of_its_own_family_only(
    refused: dict[str, Any], made_for: str, used_on: str
) -> None:
    said = refused["loras"][f"{made_for} on {used_on}"]
    taken = made_for == used_on
    assert (said == "taken") is taken
    assert taken or names_both(said)


def names_both(said: str) -> bool:
    """Whether it is the one sentence that names both families."""
    return said.startswith("This LoRA was made for ") and said.endswith("that it was made for.")


def test_a_lora_that_does_not_say_its_family_needs_as_many_text_encoders(
    refused: dict[str, Any],
) -> None:
    said = {name: text for name, text in refused["loras"].items() if name.endswith(" unsaid")}
    for name, text in said.items():
        alike = ("sdxl" in name.split()[0]) == ("sdxl" in name.split()[2])
        assert (text == "taken") is alike, name


def test_a_demo_model_that_is_not_there_is_named(refused: dict[str, Any]) -> None:
    assert refused["missing"].startswith("The demo model nowhere/sdxl is missing:")


def test_numbers_that_are_not_finite_are_an_error_in_place_of_a_black_picture(
    refused: dict[str, Any],
) -> None:
    said = refused["broken"]
    assert said["UNet"].startswith("The model's UNet gives numbers that are not finite")
    assert said["VAE"].startswith("The VAE gave numbers that are not finite while drawing")
    assert said["UNet mended"] == said["VAE mended"] == "taken"


def test_lazy_weights_are_read_again_or_refused_with_the_flag_that_helps(
    refused: dict[str, Any],
) -> None:
    said = refused["lazy"]
    assert said["core loader"] == "taken"
    assert said["custom loader"].startswith("MODEL comes from a custom loader, and with dynamic")
    assert re.search(
        r"a second UNet into RAM .* takes 0\.0 GB, and 0\.0 GB are free", said["little RAM"]
    )
    assert all("--disable-dynamic-vram" in said[name] for name in ("custom loader", "little RAM"))


def test_the_demo_models_load_where_layers_are_built_without_weights(
    refused: dict[str, Any],
) -> None:
    assert refused["lazy demo"] in (
        "['taken', 'taken', 'taken'] True", "this host has no such layers",
    )  # fmt: skip


def test_a_last_layer_that_a_family_never_uses_is_refused_with_those_that_can_be_set(
    refused: dict[str, Any],
) -> None:
    said = refused["layers"]
    assert said["sd1 -1"] == said["sd1 -20"] == "taken"  # its usual layer, which -20 means too
    for last in (-1, -20):
        assert "of 7 makes" in said[f"sd2 {last}"]
        assert said[f"sd2 {last}"].endswith("set it between -2 and -7.")
        assert "of 6 makes" in said[f"sdxl {last}"]
        assert said[f"sdxl {last}"].endswith("set it between -2 and -6.")
