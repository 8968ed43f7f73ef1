"""Where peft is missing or broken, every door says which command puts it right."""

import importlib.metadata
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyModel, pictures

import install
from unlearn_core.concept import Concept, Nameless
from unlearn_core.errors import MissingPackage
from unlearn_core.forgetting.unlearn import unlearn, unlearn_together
from unlearn_core.lora import peft_package
from unlearn_core.settings import preset

ROOT = Path(__file__).resolve().parents[2]
SAFE = ["-m", "pip", "install", "--no-deps", f"peft=={install.SAFE_PEFT}"]
PIP = shlex.join([sys.executable, "-m", "pip", "install", "-r", str(ROOT / "requirements.txt")])


class Refusing:
    """In front of all other finders: peft can't be imported, for this reason."""

    def __init__(self, error: ImportError) -> None:
        self.error = error

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "peft":
            raise self.error


def hide_peft(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing(error), *sys.meta_path])


def missing(package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {package!r}", name=package)


@pytest.mark.parametrize("concept", [Concept("dog"), Nameless(images=pictures())])
def test_without_peft_a_run_is_refused_before_any_work(
    concept: Concept | Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_peft(monkeypatch, missing("peft"))
    model = TinyModel()
    monkeypatch.setattr(model, "text_encoder_weights", None)  # a call would raise TypeError
    with pytest.raises(MissingPackage) as caught:
        unlearn(model, concept, preset("quick"))
    assert str(caught.value) == (
        "The package peft is not installed, and nothing can be forgotten without it. Run this, "
        f"then start again: {PIP}"
    )


def test_without_peft_several_concepts_are_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_peft(monkeypatch, missing("peft"))
    with pytest.raises(MissingPackage, match="peft is not installed"):
        unlearn_together(TinyModel(), [Concept("dog"), Concept("cat")], preset("quick"))


@pytest.mark.parametrize(
    ("error", "said", "command"),
    [
        (missing("accelerate"), "peft lacks the package accelerate.", PIP),
        (
            ImportError("cannot import name 'HybridCache' from 'transformers'"),
            "peft can't be imported: cannot import name 'HybridCache' from 'transformers'.",
            shlex.join([sys.executable, *SAFE]),
        ),
    ],
)
def test_a_broken_peft_is_told_from_a_missing_one(
    error: ImportError,
    said: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide_peft(monkeypatch, error)
    with pytest.raises(MissingPackage) as caught:
        peft_package.require_peft()
    assert str(caught.value) == f"{said} Run this, then start again: {command}"


def test_a_look_at_the_start_imports_nothing_and_finds_peft() -> None:
    code = (
        "import sys; from unlearn_core.lora.peft_package import what_peft_lacks;"
        "print(what_peft_lacks(), 'peft' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.stdout.split() == ["None", "False", "False"], done.stderr


def refuse(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_a_look_at_the_start_tells_where_peft_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", refuse)
    assert PIP in str(peft_package.what_peft_lacks())


def test_without_pip_the_command_is_uvs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", {"pip": None}.get)
    wish = ["--python", sys.executable, "-r", str(ROOT / "requirements.txt")]
    assert shlex.join(["uv", "pip", "install", *wish]) in str(peft_package.what_peft_lacks())
