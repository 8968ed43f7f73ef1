"""Both kinds of WebUI models over slim ones, in a thin host, against what diffusers lends.

The real hosts are started by hand; here everything that they are asked for is there, and what
they leave behind (LoRAs in the weights, requires_grad, inference tensors) is there too.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import webui_demo_model
from safetensors.torch import load_file
from torch import Tensor
from webui_slim_pipeline import lent_by_diffusers

from unlearn_core.errors import Cancelled
from unlearn_core.files.pictures import read_pictures
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.lora.file import load_lora
from unlearn_core.models.families import FAMILIES, SD2
from unlearn_core.text.conditioning import Conditioning

KINDS = (webui_demo_model.LdmDemo, webui_demo_model.ForgeDemo)
of_every_family = pytest.mark.parametrize(
    "model", [(kind, family) for kind in KINDS for family in FAMILIES], indirect=True,
    ids=lambda both: f"{both[0].__name__}-{both[1].key}",
)  # fmt: skip


@pytest.fixture(params=[(kind, SD2) for kind in KINDS], ids=["ldm", "forge"])
def model(request: pytest.FixtureRequest, thin: Any) -> Any:
    """A model, the demo one unless a test asks for every family, loaded in the thin host."""
    kind, family = request.param
    made = kind(family)
    thin.sd_models.lend(made)
    return made


def parts(model: Any) -> dict[str, Tensor]:
    """Every weight of the host's model."""
    return {
        f"{number}.{name}": value
        for number, module in enumerate(model.parts())
        for name, value in module.named_parameters()
    }


def fingerprint(model: Any) -> tuple[str, dict[str, bool]]:
    """The weights' bytes, and which of them want a gradient."""
    digest = hashlib.sha256()
    for _, value in sorted(parts(model).items()):
        digest.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    wanting = {name: value.requires_grad for name, value in parts(model).items()}
    return digest.hexdigest(), wanting


def inputs(theirs: DiffusersModel) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 16, generator=generator)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(2, *like.shape[1:], generator=generator)

    return latents, torch.tensor([10, 700]), theirs.ramp().map(drawn)


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@of_every_family
def test_what_is_lent_is_what_diffusers_lends(thin: Any, model: Any) -> None:
    with thin.host_run.borrowed() as lent:
        theirs = lent_by_diffusers(lent.family)
        assert lent.family is theirs.family
        assert lent.prediction == theirs.prediction
        assert lent.native_size == theirs.native_size
        assert lent.conditioning_layers == theirs.conditioning_layers
        assert torch.allclose(lent.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6)
        own, known = lent.text_encoder_weights(), theirs.text_encoder_weights()
        assert known.keys() <= own.keys()
        assert all(torch.equal(own[name], value) for name, value in known.items())
        latents, steps, text = inputs(theirs)
        gradients = []
        for each in (lent, theirs):
            given = text.map(lambda tensor: tensor.clone().requires_grad_(True))
            each.predict(latents, steps, given).square().sum().backward()
            gradients.append(Conditioning(*[tensor.grad for tensor in given.tensors]))
        for own_gradient, known_gradient in zip(*[each.tensors for each in gradients], strict=True):
            assert torch.allclose(own_gradient, known_gradient, rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            outputs = [each.predict(latents, steps, text) for each in (lent, theirs)]
        assert close(*outputs)
        pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        assert close(lent.encode_image(pixels), theirs.encode_image(pixels))
        assert close(lent.decode_latents(latents), theirs.decode_latents(latents))


@of_every_family
def test_a_lora_of_each_family_is_written_and_the_model_stays_as_it_was(
    thin: Any, model: Any
) -> None:
    before = fingerprint(model)
    asked = thin.request.ForgetRequest(
        "dog", stand_in="cat", keep="owl", preset="quick", steps=2, measure=False
    )
    outcome = thin.run.run(asked, thin.job.Job("task(x)"))
    file = Path(thin.networks.available_networks[outcome.name])
    family = thin.host.lend(model).family
    assert load_lora(file).family is family
    card = json.loads(file.with_suffix(".json").read_text("utf-8"))
    assert card["sd version"] == family.key.upper()
    assert fingerprint(model)[0] == before[0]
    if isinstance(model, webui_demo_model.ForgeDemo):
        modules = {name.partition(".")[0] for name in load_file(file)}
        assert modules <= forge_names(model.forge_objects_original.clip.cond_stage_model)


def forge_names(stage: Any) -> set[str]:
    """Modules of a LoRA file that Forge knows for its text encoders; it counts all others."""
    return {
        f"lora_{part}_{name.removesuffix('.weight').replace('.', '_')}"
        for clip, parts in (("clip_l", "te te1"), ("clip_h", "te te1"), ("clip_g", "te2"))
        if hasattr(stage, clip)
        for name in getattr(stage, clip).transformer.state_dict()
        for part in parts.split()
    }


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


def test_a_host_without_hypernetworks_hijack_and_cache_is_served_too(
    thin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Forge Neo."""
    monkeypatch.delattr(thin.shared, "loaded_hypernetworks")
    monkeypatch.setitem(sys.modules, "modules.sd_hijack", None)
    monkeypatch.delattr(sys.modules["modules"], "sd_hijack")
    monkeypatch.delitem(sys.modules, "unlearn_webui.host.files")
    reader = functools.partial(dict)
    monkeypatch.setattr(thin.networks, "load_lora_state_dict", reader, raising=False)
    thin.networks.loaded_networks[:] = ["other"]
    model = webui_demo_model.ForgeDemo()
    thin.sd_models.lend(model)
    with thin.host_run.borrowed():
        assert thin.networks.loaded_networks == []
    files = importlib.import_module("unlearn_webui.host.files")
    files.reload_embeddings(model)
    assert model.reloads == 1
    lora = Path(thin.shared.cmd_opts.lora_dir) / "new.safetensors"
    lora.parent.mkdir(parents=True, exist_ok=True)
    lora.touch()
    files.reload_loras()
    assert thin.networks.available_networks == {"new": lora}


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
