"""The benchmark of the repository: our presets and their rivals, measured and attacked."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from unlearn_core.errors import UnlearnError

Words = Sequence[str]


def run(words: Words) -> None:
    """Every method on every concept: do the jobs that are not done yet, then report."""
    from bench.jobs import command
    from bench.report.report import write_report

    out = command.run(words)
    if out is not None:
        print(f"report: {write_report(out)}")


def report(words: Words) -> None:
    """Tables, plots and sheets of a run's rows, written anew."""
    from bench.report import report

    report.main(words)


def ablate(words: Words) -> None:
    """Vary one thing of our presets at a time, on the tuning concepts."""
    from bench.trials import ablations

    ablations.main(words)


def trial(words: Words) -> None:
    """Answer one question: the command lists them."""
    helps = {
        "found_words": "Are the words found for pictures the right ones?",
        "typed_names": "Is a concept gone however its name is typed?",
        "what_is_meant": "What does a general word take with it, and a name of two words leave?",
        "self_judge": "Does the model itself read pictures as a trained judge does?",
        "self_judge_cost": "What does it cost that a model reads its own pictures?",
        "stand_in_floor": "What is the stand-in's doing, not the training's?",
    }
    name, rest = choose("python -m bench trial", "Answer one question.", helps, words)
    importlib.import_module(f"bench.trials.{name}").main(rest)


def cost(words: Words) -> None:
    """What a run costs, held against its aims."""
    from bench.cost import cost_aims

    cost_aims.main(words)


def full_size(words: Words) -> None:
    """Seconds and memory of one preset at SD2's size, on random weights."""
    from bench.cost import full_size

    full_size.main(words)


def gpu(words: Words) -> None:
    """All that a CUDA device has to show, in one go of about 8 minutes."""
    from bench.cost import on_gpu

    on_gpu.main(words)


def memory(words: Words) -> None:
    """The estimate of memory beside counted bytes, at SD2's size."""
    from bench.cost import memory

    memory.main(words)


def verify(words: Words) -> None:
    """What a LoRA does to a model, on one page to hand on with it."""
    from bench.verify import command

    command.main(words)


def world(words: Words) -> None:
    """Make the demo's world, model and judges anew."""
    helps = {
        "rebuild": "Train the demo model and its judges.",
        "families": "Train the SD1 and the SDXL model around the demo model.",
        "strips": "Paint the pictures that methods and attacks see.",
    }
    name, rest = choose("python -m bench world", "Make the demo's world.", helps, words)
    if name == "families":
        from bench.emoji_canvas.families import command

        command.main(rest)
        return
    from bench.emoji_canvas.training import rebuild

    rebuild.main(words)


COMMANDS: dict[str, Callable[[Words], None]] = {
    "run": run,
    "report": report,
    "ablate": ablate,
    "trial": trial,
    "cost": cost,
    "full-size": full_size,
    "gpu": gpu,
    "memory": memory,
    "verify": verify,
    "world": world,
}


def choose(prog: str, about: str, helps: dict[str, str], words: Words) -> tuple[str, Words]:
    """One of some commands, and the words that are its own to parse."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    for name, help_text in helps.items():
        commands.add_parser(name, help=help_text, add_help=False)
    chosen, rest = parser.parse_known_args(words)
    return chosen.name, rest


def main(words: Words | None = None) -> None:
    """Run one command; an error that the user can mend is said without a trace."""
    helps = {name: command.__doc__ or "" for name, command in COMMANDS.items()}
    name, rest = choose(
        "python -m bench", __doc__ or "", helps, sys.argv[1:] if words is None else words
    )

    import torch  # here, since the help needs none

    torch.set_flush_denormal(True)
    try:
        COMMANDS[name](rest)
    except UnlearnError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
