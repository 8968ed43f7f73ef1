"""Which checkpoints the WebUI's door takes, what it says of them, and which layer conditions."""

from __future__ import annotations

import importlib
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import webui_demo_model
from webui_slim_pipeline import lent_by_diffusers

from unlearn_core.errors import WrongModel
from unlearn_core.models.families import FAMILIES, SD1, SD2, SDXL, Family


@pytest.fixture(params=[webui_demo_model.LdmDemo, webui_demo_model.ForgeDemo])
def kind(request: pytest.FixtureRequest) -> Any:
    """How one of the two hosts holds a model."""
    return request.param


def test_the_checkpoint_is_named_before_a_run(thin: Any, kind: Any) -> None:
    thin.sd_models.lend(kind())
    seen = thin.host.checkpoint()
    assert (seen.name, seen.family, seen.refusal) == ("demo", SD2.name, "")
    assert seen.loaded


def test_a_checkpoint_that_is_not_loaded_yet_is_not_judged(thin: Any) -> None:
    thin.sd_models.lend(None)
    assert not thin.host.checkpoint().loaded
    thin.sd_models.model_data.forge_loading_parameters = {"checkpoint": "new"}
    thin.sd_models.model_data.forge_hash = "{'checkpoint': 'old'}"
    thin.sd_models.lend(webui_demo_model.LdmDemo())
    assert not thin.host.checkpoint().loaded


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda thin, model: setattr(thin.shared.cmd_opts, "lowvram", True), "--medvram instead"),
        (lambda thin, model: setattr(thin.devices, "fp8", True), "FP8"),
        (lambda thin, model: setattr(thin.sd_unet, "current_unet", object()), "TensorRT"),
        (lambda thin, model: setattr(model, "is_sd3", True), "Stable Diffusion 3"),
        (lambda thin, model: setattr(model, "parameterization", "x0"), "predicts x0"),
        (lambda thin, model: setattr(model.model, "conditioning_key", "hybrid"), "inpainting"),
        (lambda thin, model: setattr(model.model, "conditioning_key", "crossattn-adm"), "unCLIP"),
        (
            lambda thin, model: delattr(model.cond_stage_model.wrapped, "model"),
            "text encoder Simple",
        ),
        (lambda thin, model: setattr(model.cond_stage_model.wrapped, "layer_idx", 9), "layer -"),
        (lambda thin, model: delattr(model, "alphas_cumprod"), "unknown kind"),
    ],
)
def test_automatics_model_is_refused_with_a_reason(
    thin: Any, spoil: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thin.shared, "cmd_opts", SimpleNamespace(**vars(thin.shared.cmd_opts)))
    model = webui_demo_model.LdmDemo()
    thin.sd_models.lend(model)
    spoil(thin, model)
    seen = thin.host.checkpoint()
    assert seen.loaded
    assert re.search(words, seen.refusal)


@pytest.mark.parametrize("shape", ["a1111", "forge"])
def test_sdxls_refiner_is_refused_and_says_so(thin: Any, shape: str) -> None:
    thin.sd_models.lend(webui_demo_model.refiner(shape))
    assert "SDXL's refiner" in thin.host.checkpoint().refusal


@pytest.mark.parametrize(
    ("towers", "words"),
    [(("clip_l", "t5xxl"), "text encoder T5"), (("chatglm",), "text encoder SimpleNamespace")],
)
def test_forges_model_of_another_family_is_refused(
    thin: Any, towers: tuple[str, ...], words: str
) -> None:
    model = webui_demo_model.ForgeDemo()
    stage = SimpleNamespace(**dict.fromkeys(towers))
    model.forge_objects_original.clip.cond_stage_model = stage
    with pytest.raises(WrongModel, match=words):
        thin.host.lend(model)


def test_forges_stable_diffusion_3_is_refused_even_without_t5(thin: Any) -> None:
    model = webui_demo_model.ForgeDemo(SDXL)
    model.is_sd3 = True
    with pytest.raises(WrongModel, match="Stable Diffusion 3"):
        thin.host.lend(model)


@pytest.mark.parametrize(
    ("family", "skip", "fewer"),
    [(SD1, 1, 0), (SD1, 2, 1), (SD2, 1, 0), (SD2, 2, 1), (SDXL, 1, 0), (SDXL, 2, 0), (SDXL, 3, 1)],
)
def test_clip_skip_counts_as_forge_counts_it(
    thin: Any, family: Family, skip: int, fewer: int
) -> None:
    thin.shared.opts.data["CLIP_stop_at_last_layers"] = skip
    lent = thin.host.lend(webui_demo_model.ForgeDemo(family))
    expected = lent_by_diffusers(family).conditioning_layers
    assert lent.conditioning_layers == tuple(layer - fewer for layer in expected)
    assert [f"Clip skip {skip}" in note for note in lent.notes] == [True] * (fewer > 0)


def test_classic_looks_at_clip_skip_for_stable_diffusion_1_alone(thin: Any) -> None:
    thin.shared.opts.data["CLIP_stop_at_last_layers"] = 2
    layers = {}
    for family in FAMILIES:
        model = webui_demo_model.ForgeDemo(family)
        model.is_sd1 = family is SD1
        for name in [name for name in vars(model) if name.startswith("text_processing_engine")]:
            delattr(model, name)
        layers[family.key] = thin.host.lend(model).conditioning_layers
    assert layers["sd1"] == (lent_by_diffusers(SD1).conditioning_layers[0] - 1,)
    assert layers["sdxl"] == lent_by_diffusers(SDXL).conditioning_layers


@pytest.mark.parametrize(
    ("family", "skip", "first_of_two", "fewer"),
    [
        (SD1, 1, False, (0,)),
        (SD1, 2, False, (1,)),
        (SD2, 2, False, (0,)),
        (SDXL, 3, False, (0, 0)),
        (SDXL, 2, True, (0, 0)),
        (SDXL, 3, True, (1, 0)),
    ],
)
def test_clip_skip_counts_as_automatic_counts_it(
    thin: Any, family: Family, skip: int, first_of_two: bool, fewer: tuple[int, ...]
) -> None:
    thin.shared.opts.data |= {"CLIP_stop_at_last_layers": skip, "sdxl_clip_l_skip": first_of_two}
    lent = thin.host.lend(webui_demo_model.LdmDemo(family))
    expected = lent_by_diffusers(family).conditioning_layers
    found = zip(expected, lent.conditioning_layers, strict=True)
    assert tuple(without - skipped for without, skipped in found) == fewer
    matters = any(fewer) or first_of_two
    assert [f"Clip skip {skip}" in note for note in lent.notes] == [True] * matters


@pytest.mark.parametrize(("family", "edge"), [(SD1, 512), (SD2, 768), (SDXL, 1024)])
def test_pictures_are_as_large_as_the_family_draws_them(
    thin: Any, family: Family, edge: int
) -> None:
    automatic, forge = webui_demo_model.LdmDemo(family), webui_demo_model.ForgeDemo(family)
    del automatic.image_size
    forge.forge_objects_original.unet.model.config.unet_config.clear()
    assert [thin.host.lend(model).native_size for model in (automatic, forge)] == [edge, edge]


@pytest.mark.parametrize(("name", "turbo"), [("sd_xl_turbo_1.0", True), ("turbocharger", False)])
def test_a_turbo_model_is_known_by_its_name_and_the_tab_says_so(
    thin: Any, kind: Any, name: str, turbo: bool
) -> None:
    model = kind()
    thin.sd_models.lend(model)
    model.sd_checkpoint_info.name_for_extra = name
    assert thin.host.lend(model).is_distilled is turbo
    notes = thin.host.checkpoint().notes
    assert any("Turbo model" in note for note in notes) is turbo


def test_new_embeddings_are_read_by_both_of_forges_engines(thin: Any) -> None:
    model = webui_demo_model.ForgeDemo(SDXL)
    importlib.import_module("unlearn_webui.host.files").reload_embeddings(model)
    assert model.reloads == 2


def test_reforges_names_are_understood(thin: Any) -> None:
    model = webui_demo_model.ForgeDemo()
    core = model.forge_objects_original.unet.model
    sigmas = core.predictor.sigmas
    del core.predictor, core.computation_dtype

    class V_PREDICTION:  # noqa: N801
        def __init__(self) -> None:
            self.sigmas = sigmas

    core.model_sampling, core.manual_cast_dtype = V_PREDICTION(), None
    core.get_dtype = lambda: torch.float32
    assert thin.host.lend(model).prediction == "v"
