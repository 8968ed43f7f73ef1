"""The preset deep on the demo model, in small: what it hands back, and that it lends only."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import unlearn_core.unet_lora.deepen as deepening
from unlearn_core.__main__ import main
from unlearn_core.concept import Concept
from unlearn_core.errors import BadConcept, BadSettings, Cancelled, NotEnoughMemory, WrongModel
from unlearn_core.forgetting.unlearn import UnlearnResult, unlearn
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.lora.file import load_lora, lora_bytes
from unlearn_core.progress import Progress, SilentMonitor
from unlearn_core.settings import preset
from unlearn_core.unet_lora.deepen import FORGETTING_IN_THE_UNET, check_deep, deepen
from unlearn_core.unet_lora.settings import DeepSettings

SMALL = DeepSettings(
    steps=3, rank=2, words=1, fours=1, states=1, forget_rows=2, keep_rows=4, age=1, pictures=2,
    kept_pictures=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepening, "FORGET_PROMPTS", 8)
    monkeypatch.setattr(deepening, "FORGET_EXAMPLES", 8)


@pytest.fixture(scope="module")
def lent() -> tuple[DiffusersModel, UnlearnResult]:
    model, _ = load_model("demo")
    settings = preset("quick", forget_prompts=8, keep_prompts=8)
    return model, unlearn(model, Concept("dog", stand_in="cat"), settings)


class Stopping(SilentMonitor):
    """Asks to stop once the UNet has taken a step."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)

    def should_stop(self) -> bool:
        last = self.reports[-1] if self.reports else None
        return last is not None and last.stage == FORGETTING_IN_THE_UNET and last.step >= 1


def is_untouched(model: DiffusersModel, before: dict[str, torch.Tensor]) -> bool:
    same = all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())
    bare = not any(module._forward_hooks for module in model.unet.modules())
    return same and bare and not any(p.requires_grad for p in model.unet.parameters())


def test_the_unet_gets_a_lora_and_is_lent_only(
    lent: tuple[DiffusersModel, UnlearnResult],
) -> None:
    model, quick = lent
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    result = deepen(model, quick, SMALL, SilentMonitor())
    assert is_untouched(model, before)
    assert all(bool(pair.up.any()) for pair in result.lora.unet.values())
    assert result.lora.pairs is quick.lora.pairs
    assert len(result.losses) == len(quick.losses) + 3
    said = json.loads(result.lora.metadata["unlearn_unet_settings"])
    assert said == dataclasses.asdict(SMALL)
    again = deepen(model, quick, SMALL, SilentMonitor())
    assert lora_bytes(again.lora) == lora_bytes(result.lora)


def test_a_stop_leaves_nothing_behind(lent: tuple[DiffusersModel, UnlearnResult]) -> None:
    model, quick = lent
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    monitor = Stopping()
    with pytest.raises(Cancelled):
        deepen(model, quick, SMALL, monitor)
    assert is_untouched(model, before)
    assert monitor.reports[-1].step < SMALL.steps


def test_blocks_that_run_again_change_little(
    lent: tuple[DiffusersModel, UnlearnResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, quick = lent
    found = []
    for again in (False, True):
        monkeypatch.setattr(deepening, "_needs_checkpointing", lambda *_, again=again: again)
        found.append(deepen(model, quick, dataclasses.replace(SMALL, steps=1), SilentMonitor()))
        assert model.checkpointing is False
    plain, checkpointed = (result.lora.unet for result in found)
    for name, pair in plain.items():
        torch.testing.assert_close(checkpointed[name].up, pair.up, rtol=0.1, atol=1e-4)


def test_what_it_is_not_made_for_is_refused(
    lent: tuple[DiffusersModel, UnlearnResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, quick = lent
    with pytest.raises(BadConcept, match="forgets objects"):
        check_deep(model, "style")
    with pytest.raises(WrongModel, match="one text encoder"):
        check_deep(load_model("demo-xl")[0], "object")
    monkeypatch.setattr(model, "free_memory", lambda: 1000)
    with pytest.raises(NotEnoughMemory, match="deep needs about"):
        deepen(model, quick, SMALL, SilentMonitor())
    with pytest.raises(BadSettings, match="adversary"):
        DeepSettings(words=0, fours=0, states=0)
    with pytest.raises(BadSettings, match="rank is 0"):
        DeepSettings(rank=0)


def test_the_command_line_writes_it_and_draws_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unlearn_core.cli.main.DeepSettings", lambda **_: SMALL)
    out = tmp_path / "deep.safetensors"
    asked = ["--model", "demo", "--concept", "dog", "--preset", "deep"]
    assert main(["forget", *asked, "--out", str(out)]) == 0
    assert load_lora(out, with_unet=True).unet
    drawn = ["generate", "--model", "demo", "--prompt", "a photo of a cat", "--steps", "2"]
    for name, lora in (("with", ["--lora", f"{out}:9"]), ("without", [])):
        assert main([*drawn, *lora, "--out", str(tmp_path / name)]) == 0
    pictures = [(tmp_path / name / "0000-0.png").read_bytes() for name in ("with", "without")]
    assert pictures[0] != pictures[1]
    capsys.readouterr()
    (tmp_path / "list.jsonl").write_text('{"concept": "dog"}\n', "utf-8")
    listed = ["--model", "demo", "--preset", "deep", "--list", str(tmp_path / "list.jsonl")]
    assert main(["forget", *listed, "--out", str(tmp_path / "loras")]) == 1
    assert "one object at a time" in capsys.readouterr().err
