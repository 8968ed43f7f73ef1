"""Runs the command that was chosen, with its flags; what is wrong is said in one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from ..concept import Concept, Nameless
from ..errors import BadConcept, BadSettings, Cancelled, UnlearnError
from ..models.lent_model import build_encoder
from ..progress import RunMonitor
from ..settings import UnlearnSettings, preset
from ..unet_lora.settings import DEEP, TEXT_PRESET, DeepSettings
from ..words.neighbours import known_kinds
from . import commands
from .concepts import asked_concept, with_pictures
from .drawing import DrawSettings
from .forget_list import forget_list, forget_together
from .generate import ChosenLora, generate, read_prompts
from .parser import LIST_KINDS, build_parser
from .terminal import ProgressBar, shown
from .workers import RayWorker

FAILED, CANCELLED = 1, 130
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def run_command(arguments: Sequence[str] | None) -> int:
    """Run one command; returns 0, 1 after an error, or 130 after the first Ctrl-C."""
    chosen = build_parser().parse_args(arguments)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own error says it
    try:
        with ProgressBar() as monitor:
            COMMANDS[chosen.command](chosen, monitor)
    except Cancelled as error:
        return _fail(str(error), CANCELLED)
    except UnlearnError as error:
        return _fail(str(error), FAILED)
    except torch.cuda.OutOfMemoryError:
        return _fail("The GPU's memory is full: close what else uses it, or ask for less.", FAILED)
    return 0


def _fail(message: str, code: int) -> int:
    shown(sys.stderr).say(f"error: {' '.join(message.split())}")
    return code


def _say(line: str) -> None:
    shown(sys.stdout).say(line)


def _session(chosen: argparse.Namespace, monitor: RunMonitor) -> commands.Session:
    return commands.Session(_say, monitor, chosen.model, chosen.prediction)


def _forget(chosen: argparse.Namespace, monitor: RunMonitor) -> None:
    given = {name: getattr(chosen, name) for name in ("seed", "steps", "rank", "layers")}
    changes = {name: value for name, value in given.items() if value is not None}
    deep = None
    if chosen.preset == DEEP:
        deep = _deep(chosen)
        changes = {"seed": deep.seed}
    settings = preset(TEXT_PRESET if deep else chosen.preset, **changes)
    session = _session(chosen, monitor)
    if chosen.list is not None:
        _forget_list(chosen, session, settings)
        return
    for flag in ("ray", "together"):
        if getattr(chosen, flag) not in (None, False):
            raise BadSettings(f"--{flag} is about the concepts of a list: give --list.")
    asked = asked_concept(
        chosen.concept,
        chosen.kind or "object",
        chosen.images,
        chosen.synonyms,
        chosen.stand_in,
        chosen.keep,
        "word" if chosen.covers in (None, LIST_KINDS) else chosen.covers,
    )
    if chosen.covers == LIST_KINDS:
        _list_kinds(session, asked)
        return
    concept = with_pictures(asked, chosen.images, settings, session.say)
    inputs = [chosen.images] if chosen.images else []
    commands.forget(
        session, concept, settings, chosen.out, chosen.report, chosen.embedding, inputs, deep
    )


def _deep(chosen: argparse.Namespace) -> DeepSettings:
    """What --preset deep trains the UNet with; raises BadSettings."""
    if chosen.list is not None:
        raise BadSettings(
            "The preset deep forgets one object at a time: leave --list out, or choose another."
        )
    if chosen.layers is not None:
        raise BadSettings("--layers is of the text encoder, and deep trains the UNet: leave it.")
    given = {name: getattr(chosen, name) for name in ("seed", "steps", "rank")}
    return DeepSettings(**{name: value for name, value in given.items() if value is not None})


def _list_kinds(session: commands.Session, concept: Concept | Nameless) -> None:
    if isinstance(concept, Nameless):
        raise BadConcept("Kinds are those of a word: give --concept NAME.")
    kinds = known_kinds(build_encoder(session.load()), concept)
    session.say(f"kinds of {concept.name!r} that this model knows: {', '.join(kinds) or 'none'}")


def _forget_list(
    chosen: argparse.Namespace, session: commands.Session, settings: UnlearnSettings
) -> None:
    for name in ("images", "synonyms", "stand_in", "keep", "covers", "kind"):
        if getattr(chosen, name):
            raise BadSettings(
                f"--{name.replace('_', '-')} is of one concept: with --list it stands in each "
                "concept's line."
            )
    if chosen.embedding is not None:
        raise BadSettings("--embedding is of one concept and does not go with --list.")
    if chosen.together:
        if chosen.ray is not None or chosen.report is not None:
            raise BadSettings(
                "--together is one run for all concepts: leave --ray and --report out, and measure "
                "its LoRA with `measure --concept NAME`."
            )
        forget_together(session, chosen.list, settings, chosen.out)
        return
    worker = None if chosen.ray is None else RayWorker(chosen.ray or None)
    forget_list(session, chosen.list, chosen.preset, settings, chosen.out, chosen.report, worker)


def _invert(chosen: argparse.Namespace, monitor: RunMonitor) -> None:
    settings = UnlearnSettings(seed=chosen.seed, inversion_steps=chosen.steps)
    session = _session(chosen, monitor)
    named = Concept.from_text(chosen.concept, chosen.kind)
    concept = with_pictures(named, chosen.images, settings, session.say)
    commands.learn(session, concept, settings, chosen.out, [chosen.images])


def _generate(chosen: argparse.Namespace, monitor: RunMonitor) -> None:
    prompts = read_prompts(chosen.prompts) if chosen.prompts else [chosen.prompt]
    settings = DrawSettings(
        chosen.seed, chosen.count, chosen.size, chosen.steps, chosen.guidance, chosen.negative
    )
    loras = [ChosenLora.parse(text) for text in chosen.lora]
    session = _session(chosen, monitor)
    generate(session, prompts, settings, chosen.out, loras, chosen.embedding)


def _measure(chosen: argparse.Namespace, monitor: RunMonitor) -> None:
    commands.measure(
        _session(chosen, monitor),
        chosen.lora,
        chosen.report,
        chosen.seed,
        chosen.concept,
        chosen.kind,
        chosen.synonyms,
        chosen.stand_in,
        chosen.also,
    )


def _demo(chosen: argparse.Namespace, monitor: RunMonitor) -> None:
    commands.demo(commands.Session(_say, monitor), chosen.out)


COMMANDS: dict[str, Callable[[argparse.Namespace, RunMonitor], None]] = {
    "forget": _forget,
    "invert": _invert,
    "generate": _generate,
    "measure": _measure,
    "demo": _demo,
}
