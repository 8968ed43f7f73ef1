"""The commands' flags, with defaults, bounds and help from the settings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from ..concept import COVERS, KINDS
from ..files.file_names import typed_path
from ..loaders.demo_model import DEMOS
from ..models.sampling import DEFAULT_GUIDANCE, DEFAULT_STEPS
from ..settings import DEFAULT_PRESET, UnlearnSettings, bounds_of, help_of
from ..unet_lora.settings import OFFERED, OFFERED_HELP

NewCommand = Callable[[str, str, str], argparse.ArgumentParser]
"""Its name, what it does and an example, to its parser."""
PROGRAM = "python -m unlearn_core"
_MODEL_HELP = f"the model: {', '.join(DEMOS)}, a diffusers folder or a .safetensors file"
_LIST_HELP = f"""many concepts:
  {PROGRAM} forget --model demo --list concepts.jsonl --out loras
each line of the list is a JSON object; all but "concept" may be left out, and the folder of
images is looked for from the list's own folder:
  {{"concept": "dog", "synonyms": ["puppy"], "stand_in": "cat", "keep": ["wolf"], "images": "dog"}}
"kind" and "covers" go there too. --out and --report are folders then, and forgotten.jsonl in
--out gets a line for each concept that is done: stopped or killed, the same command goes on.
  {PROGRAM} forget --model demo --list concepts.jsonl --together --out all.safetensors
trains one LoRA for all of them in one run."""
LIST_KINDS = "list"
_KIND_HELP = "what sort of thing it is (person and unsafe are little measured)"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` of what it parses is the one that was chosen."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Makes Stable Diffusion 1, 2 or XL forget a concept and writes a LoRA file, "
        "which ComfyUI, the WebUI and diffusers load.",
        epilog="Begin with the demo, which needs no model and no GPU:  " + PROGRAM + " demo",
        allow_abbrev=False,
    )
    adding = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = adding.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {PROGRAM} {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        return made

    for add in (_add_forget, _add_invert, _add_generate, _add_measure, _add_demo):
        add(command)
    return parser


def _add_forget(command: NewCommand) -> None:
    presets = "".join(f"\n  {name:10}{text}" for name, text in OFFERED_HELP.items())
    parser = command(
        "forget",
        "make a model forget a concept, or one after the other those of a list",
        "--model demo --concept dog --synonyms puppy \\\n"
        f"      --images demo/pictures/dog --out forget-dog.safetensors --report report\n\n"
        f"{_LIST_HELP}\n\npresets:{presets}",
    )
    _add_model(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--concept", metavar="NAME",
        help="what prompts call it: dog (default: the model's own word for the pictures)",
    )  # fmt: skip
    _add_list(parser, what)
    parser.add_argument(
        "--images", type=typed_path, metavar="DIR",
        help="a folder with 4 or 5 pictures of it; needed without --concept",
    )  # fmt: skip
    _add_words(parser)
    parser.add_argument("--keep", default="", metavar="A,B", help="what stays beside near words")
    parser.add_argument(
        "--covers", choices=(*COVERS, LIST_KINDS),
        help="forget the word alone, or its kinds too (of fruit the apples); list: only say which "
        "kinds the model knows (default: word)",
    )  # fmt: skip
    parser.add_argument("--kind", choices=KINDS, help=f"{_KIND_HELP} (default: object)")
    parser.add_argument("--preset", choices=OFFERED, default=DEFAULT_PRESET, help="how (see below)")
    for name in ("seed", "steps", "rank"):
        _add_number(parser, f"--{name}", name, None)
    parser.add_argument("--layers", help=f"{help_of('layers')} (default: the preset's)")
    parser.add_argument(
        "--out", required=True, type=typed_path, metavar="FILE.safetensors",
        help="the LoRA to write; an existing file is replaced (with --list: a folder)",
    )  # fmt: skip
    parser.add_argument(
        "--report", type=typed_path, metavar="DIR", help="also measure it: numbers and pictures"
    )
    parser.add_argument(
        "--embedding", type=typed_path, metavar="FILE.safetensors",
        help="also save the vectors learned from the pictures; they are a recipe for the concept",
    )  # fmt: skip


def _add_list(parser: argparse.ArgumentParser, what: argparse._MutuallyExclusiveGroup) -> None:
    what.add_argument(
        "--list", type=typed_path, metavar="FILE",
        help="many concepts, one a line, each into its own LoRA (see below)",
    )  # fmt: skip
    parser.add_argument(
        "--together", action="store_true",
        help="with --list: one run and one LoRA for all concepts; --out is its file",
    )  # fmt: skip
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="with --list: share the work among a Ray cluster (default: the one that Ray finds, "
        "or a new one on this machine)",
    )  # fmt: skip


def _add_invert(command: NewCommand) -> None:
    parser = command(
        "invert",
        "learn the word vectors that mean what some pictures show (textual inversion)",
        "--model demo --images demo/pictures/cat --concept cat --out my-cat-1.safetensors",
    )
    _add_model(parser)
    parser.add_argument(
        "--images", required=True, type=typed_path, metavar="DIR", help="a folder of pictures"
    )
    parser.add_argument(
        "--concept", required=True, metavar="NAME", help="the word to begin with: cat"
    )
    parser.add_argument("--kind", choices=KINDS, default="object", help="what sort of thing it is")
    defaults = UnlearnSettings()
    _add_number(parser, "--steps", "inversion_steps", defaults.inversion_steps)
    _add_number(parser, "--seed", "seed", defaults.seed)
    parser.add_argument(
        "--out", required=True, type=typed_path, metavar="FILE.safetensors",
        help="the embedding to write; prompts use its name without .safetensors",
    )  # fmt: skip


def _add_generate(command: NewCommand) -> None:
    parser = command(
        "generate",
        "draw pictures from prompts, with or without LoRAs, from the same noise",
        '--model demo --prompt "a photo of a dog" --count 4 \\\n'
        "      --lora forget-dog.safetensors:0.8 --out pictures",
    )
    _add_model(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prompt", metavar="TEXT", help="one prompt; a weight such as (word:1.4) is drawn as word"
    )
    what.add_argument(
        "--prompts", type=typed_path, metavar="FILE", help="a text file, one prompt a line"
    )
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE[:STRENGTH]",
        help="a LoRA to add, strength 1 if not given; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--embedding", action="append", default=[], type=typed_path, metavar="FILE",
        help="an embedding; its name without ending is its word in a prompt; may be repeated",
    )  # fmt: skip
    _add_number(parser, "--seed", "seed", 0)
    parser.add_argument("--count", type=int, default=1, help="pictures of each prompt (default: 1)")
    parser.add_argument(
        "--size", type=_size, metavar="WxH", help="pixels, such as 768x512 (default: the model's)"
    )
    for flag, sort, usual in (("steps", int, DEFAULT_STEPS), ("guidance", float, DEFAULT_GUIDANCE)):
        parser.add_argument(f"--{flag}", type=sort, default=usual, help="(default: %(default)s)")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what should not be drawn")
    parser.add_argument(
        "--out", required=True, type=typed_path, metavar="DIR",
        help="a folder without PNG files: gets 0000-0.png, ... (line of the file from 0, picture)",
    )  # fmt: skip


def _add_measure(command: NewCommand) -> None:
    parser = command(
        "measure",
        "measure how well a LoRA forgets and what else it changes",
        "--model demo --lora forget-dog.safetensors --concept dog --report report",
    )
    _add_model(parser)
    parser.add_argument(
        "--lora", required=True, type=typed_path, metavar="FILE", help="the LoRA to measure"
    )
    parser.add_argument("--concept", metavar="NAME", help="what it forgets (default: what it says)")
    parser.add_argument("--kind", choices=KINDS, help="(default: what the LoRA says, or object)")
    _add_words(parser)
    parser.add_argument(
        "--also", action="append", default=[], metavar="TEXT",
        help="words that mean it without its name, such as 'a pet that barks'; may be repeated",
    )  # fmt: skip
    _add_number(parser, "--seed", "seed", 0)
    parser.add_argument(
        "--report", required=True, type=typed_path, metavar="DIR", help="folder to write to"
    )


def _add_demo(command: NewCommand) -> None:
    parser = command(
        "demo",
        "make the small model that ships with this pack forget its dog (2 to 4 minutes)",
        "--out out/demo",
    )
    parser.add_argument(
        "--out", type=typed_path, default=Path("out", "demo"), metavar="DIR",
        help="(default: %(default)s)",
    )  # fmt: skip


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, type=_model, metavar="MODEL", help=_MODEL_HELP)
    parser.add_argument(
        "--prediction", choices=("auto", "epsilon", "v"), default="auto",
        help="what the UNet predicts; auto finds out and says why (default: auto)",
    )  # fmt: skip


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--synonyms", default="", metavar="A,B", help="other names of it")
    parser.add_argument(
        "--stand-in", metavar="WORD", help="what is drawn in its place (default: chosen for you)"
    )


def _add_number(
    parser: argparse.ArgumentParser, flag: str, setting: str, default: int | None
) -> None:
    low, high = bounds_of(setting)
    shown = "the preset's" if default is None else default
    text = f"{help_of(setting)} ({low} to {high}; default: {shown})".replace("%", "%%")
    parser.add_argument(flag, type=int, default=default, metavar="N", help=text)


def _model(text: str) -> str:
    return str(typed_path(text)) if text.startswith("~") else text


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 768x512, for example")
    return int(found[1]), int(found[2])
