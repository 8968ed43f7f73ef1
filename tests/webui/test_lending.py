"""Both kinds of WebUI models over the demo model, in a thin host, against diffusers' own.

The real hosts are started by hand; here everything that they are asked for is there, and what
they leave behind (LoRAs in the weights, requires_grad, inference tensors) is there too.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import webui_demo_model
from torch import Tensor

from unlearn_core.errors import Cancelled, WrongModel
from unlearn_core.files.pictures import read_pictures
from unlearn_core.loaders.demo_model import demo_folder, load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.lora.file import load_lora
from unlearn_core.text.conditioning import Conditioning

THIN = "tests/hosts/webui_thin"
FRESH = ("modules", "networks", "backend", "unlearn_webui")
"""Packages whose state must not go from one test to the next."""


@pytest.fixture
def thin(root: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The thin host's modules, fresh, and the extension's files that name them."""
    _drop_fresh()
    monkeypatch.syspath_prepend(str(root / THIN))
    shared = importlib.import_module("modules.shared")
    shared.cmd_opts.lora_dir = str(tmp_path / "Lora")
    shared.cmd_opts.embeddings_dir = str(tmp_path / "embeddings")
    importlib.import_module("networks")
    importlib.import_module("backend.memory_management")
    yield SimpleNamespace(
        shared=shared,
        sd_models=importlib.import_module("modules.sd_models"),
        devices=importlib.import_module("modules.devices"),
        sd_unet=importlib.import_module("modules.sd_unet"),
        networks=sys.modules["networks"],
        host=importlib.import_module("unlearn_webui.host.checkpoint"),
        host_run=importlib.import_module("unlearn_webui.host.run"),
        run=importlib.import_module("unlearn_webui.run"),
        job=importlib.import_module("unlearn_webui.job"),
        request=importlib.import_module("unlearn_webui.request"),
    )
    _drop_fresh()


def _drop_fresh() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in FRESH]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def theirs() -> DiffusersModel:
    """diffusers' own over the same weights, in float32 as the thin host computes."""
    return DiffusersModel(load_demo_pipeline(), torch.float32)


@pytest.fixture(params=["LdmDemo", "ForgeDemo"])
def model(request: pytest.FixtureRequest, thin: Any) -> Any:
    """The demo model, loaded in the thin host."""
    made = getattr(webui_demo_model, request.param)()
    thin.sd_models.lend(made)
    return made


def parts(model: Any) -> dict[str, Tensor]:
    """Every weight of the host's model."""
    if isinstance(model, webui_demo_model.LdmDemo):
        modules = [model.model, model.cond_stage_model.wrapped.model]
    else:
        objects = model.forge_objects_original
        modules = [
            objects.unet.model.diffusion_model,
            objects.clip.cond_stage_model.clip_h.transformer,
        ]
    return {
        f"{number}.{name}": value
        for number, module in enumerate(modules)
        for name, value in module.named_parameters()
    }


def fingerprint(model: Any) -> tuple[str, dict[str, bool]]:
    """The weights' bytes, and which of them want a gradient."""
    digest = hashlib.sha256()
    for _, value in sorted(parts(model).items()):
        digest.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    wanting = {name: value.requires_grad for name, value in parts(model).items()}
    return digest.hexdigest(), wanting


def inputs(width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    return latents, torch.tensor([10, 700]), torch.randn(2, 77, width, generator=generator)


def test_what_is_lent_is_what_diffusers_lends(
    thin: Any, model: Any, theirs: DiffusersModel
) -> None:
    with thin.host_run.borrowed() as lent:
        assert lent.prediction == theirs.prediction
        assert lent.native_size == theirs.native_size
        assert lent.conditioning_layers == theirs.conditioning_layers
        assert torch.allclose(lent.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6)
        own, known = lent.text_encoder_weights(), theirs.text_encoder_weights()
        assert known.keys() <= own.keys()
        assert all(torch.equal(own[name], value) for name, value in known.items())
        latents, steps, text = inputs(known["text_model.final_layer_norm.weight"].shape[0])
        gradients = []
        for each in (lent, theirs):
            given = text.clone().requires_grad_(True)
            each.predict(latents, steps, Conditioning(given)).square().sum().backward()
            gradients.append(given.grad)
        assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            outputs = [each.predict(latents, steps, Conditioning(text)) for each in (lent, theirs)]
        assert torch.equal(*outputs)
        pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        assert torch.allclose(
            lent.encode_image(pixels), theirs.encode_image(pixels), rtol=1e-4, atol=1e-5
        )
        assert torch.allclose(
            lent.decode_latents(latents), theirs.decode_latents(latents), rtol=1e-4, atol=1e-5
        )


def test_loras_of_the_last_picture_are_taken_out_first(thin: Any) -> None:
    model = webui_demo_model.LdmDemo()
    before = fingerprint(model)
    model.patch()
    thin.shared.loaded_hypernetworks.append("other")
    thin.sd_models.lend(model)
    with thin.host_run.borrowed():
        assert thin.networks.loaded_networks == []
        assert thin.shared.loaded_hypernetworks == []
        assert fingerprint(model)[0] == before[0]
    assert fingerprint(model) == before


def test_forge_looks_at_the_next_prompt_anew(thin: Any) -> None:
    model = webui_demo_model.ForgeDemo()
    model.forge_objects = webui_demo_model.ForgeObjects("patched", "patched", "patched")
    thin.sd_models.lend(model)
    with thin.host_run.borrowed():
        assert model.forge_objects.clip is model.forge_objects_original.clip
        assert model.forge_objects_original.clip.patcher.refreshed > 0
    assert model.current_lora_hash == ""
    assert "model_vae_regulation" not in model.forge_objects.vae.patcher.model_options


@pytest.mark.parametrize("ending", ["success", "cancel", "error"])
def test_the_hosts_model_is_as_it_was_however_a_run_ends(
    thin: Any, model: Any, ending: str
) -> None:
    digest, wanting = fingerprint(model)
    job = thin.job.Job("task(test)")
    asked = thin.request.ForgetRequest(
        "dog", preset="quick", steps=2, private=True, measure=False, seed=3
    )
    if ending == "cancel":
        job.stop()
        with pytest.raises(Cancelled):
            thin.run.run(asked, job)
    elif ending == "error":
        with pytest.raises(ZeroDivisionError):
            fail_inside(thin)
    else:
        outcome = thin.run.run(asked, job)
        assert outcome.tag == "<lora:unlearned:1>"
        assert list(thin.networks.available_networks) == ["unlearned"]
    after, wanting_after = fingerprint(model)
    assert after == digest
    if isinstance(model, webui_demo_model.LdmDemo):
        assert wanting_after == wanting


def test_the_private_mode_tells_a_found_word_to_the_user_alone(
    thin: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn_core.models.denoising.ROUNDS", (1, 1, 4))
    pictures = read_pictures(demo_folder() / "pictures" / "dog")[:2]
    asked = thin.request.ForgetRequest(
        "", pictures, preset="quick", steps=2, private=True, measure=False
    )
    job = thin.job.Job("task(test)")
    outcome = thin.run.run(asked, job)
    assert outcome.lines[0].startswith("the model's words for these pictures: dog (")
    assert outcome.name.startswith("unlearned")
    file = Path(thin.networks.available_networks[outcome.name])
    assert load_lora(file).metadata["unlearn_private"] == "True"
    assert "dog" not in str(load_lora(file).metadata)
    assert "dog" not in file.with_suffix(".json").read_text("utf-8")


def fail_inside(thin: Any) -> None:
    with thin.host_run.borrowed():
        _ = 1 / 0


def test_a_second_run_gives_the_same_lora_under_another_name(thin: Any, model: Any) -> None:
    asked = thin.request.ForgetRequest("dog", preset="quick", steps=2, measure=False)
    names = [thin.run.run(asked, thin.job.Job("task(x)")).name for _ in range(2)]
    assert names == ["forget-dog", "forget-dog-2"]
    first, second = (load_lora(thin.networks.available_networks[name]) for name in names)
    assert first.metadata.pop("ss_output_name") == "forget-dog"
    assert second.metadata.pop("ss_output_name") == "forget-dog-2"
    assert first.metadata == second.metadata
    assert all(
        torch.equal(pair.down, second.pairs[key].down)
        and torch.equal(pair.up, second.pairs[key].up)
        for key, pair in first.pairs.items()
    )
    endings = {
        path.name for path in thin.networks.available_networks["forget-dog"].parent.iterdir()
    }
    assert {"forget-dog.json", "forget-dog.png", "forget-dog-2.png"} <= endings


@pytest.mark.parametrize("kind", ["person", "unsafe"])
def test_no_picture_is_written_or_shown_for_hidden_kinds(thin: Any, model: Any, kind: str) -> None:
    asked = thin.request.ForgetRequest(
        "dog", kind=kind, preset="quick", steps=2, stand_in="cat", measure=False
    )
    outcome = thin.run.run(asked, thin.job.Job("task(x)"))
    folder = thin.networks.available_networks[outcome.name].parent
    assert not list(folder.glob("*.png"))
    assert thin.shared.state.current_image is None


def test_interrupt_anywhere_in_the_host_stops_within_one_step(
    thin: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = thin.job.Job("task(x)")
    asked = thin.request.ForgetRequest("dog", preset="quick", steps=500, measure=False)
    told: list[str] = []
    state = thin.shared.state
    report = thin.host_run.WebuiMonitor.report

    def interrupt_at_three(monitor: Any, progress: Any) -> None:
        report(monitor, progress)
        told.append(state.textinfo)
        state.interrupted = progress.step == 3

    monkeypatch.setattr(thin.host_run.WebuiMonitor, "report", interrupt_at_three)
    with pytest.raises(Cancelled):
        thin.run.run(asked, job)
    assert told[-1].startswith("forgetting: 3 of 500, loss ")
    assert thin.networks.available_networks == {}
    assert state.sampling_step == 3
    assert (state.job_count, state.job_no) == (3, 1)  # the card's picture would come next


def test_the_checkpoint_is_named_before_a_run(thin: Any, model: Any) -> None:
    seen = thin.host.checkpoint()
    assert (seen.name, seen.refusal, seen.loaded) == ("demo", "", True)


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
        (lambda thin, model: setattr(model, "conditioner", object()), "SDXL"),
        (lambda thin, model: setattr(model, "parameterization", "x0"), "predicts x0"),
        (lambda thin, model: setattr(model.model, "conditioning_key", "hybrid"), "inpainting"),
        (lambda thin, model: setattr(model.model, "conditioning_key", "crossattn-adm"), "unCLIP"),
        (
            lambda thin, model: delattr(model.cond_stage_model.wrapped, "model"),
            "text encoder Simple",
        ),
        (lambda thin, model: make_sd1(model), r"SD 1\.x"),
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


def make_sd1(model: Any) -> None:
    config = SimpleNamespace(hidden_size=768, num_hidden_layers=12)
    model.cond_stage_model.wrapped = SimpleNamespace(transformer=SimpleNamespace(config=config))


@pytest.mark.parametrize(
    ("towers", "words"),
    [(("clip_l",), "SD 1"), (("clip_l", "clip_g"), "2 text encoders"), (("t5xxl",), "t5xxl")],
)
def test_forges_model_of_another_family_is_refused(
    thin: Any, towers: tuple[str, ...], words: str
) -> None:
    model = webui_demo_model.ForgeDemo()
    stage = SimpleNamespace(**dict.fromkeys(towers))
    model.forge_objects_original.clip.cond_stage_model = stage
    with pytest.raises(WrongModel, match=words):
        thin.host.lend(model)


@pytest.mark.parametrize(
    ("skip", "minimal", "fewer"), [(1, 1, 0), (2, 1, 1), (2, 2, 1), (5, None, 1)]
)
def test_clip_skip_counts_as_the_host_counts_it(
    thin: Any, skip: int, minimal: int | None, fewer: int, theirs: DiffusersModel
) -> None:
    model = webui_demo_model.ForgeDemo()
    thin.shared.opts.data["CLIP_stop_at_last_layers"] = skip
    model.text_processing_engine.minimal_clip_skip = minimal
    (layer,) = theirs.conditioning_layers
    assert thin.host.lend(model).conditioning_layers == (layer - fewer,)


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
