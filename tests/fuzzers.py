"""Throws damaged inputs at the readers and counts what must not happen.

    python tests/fuzzers.py KIND SEED COUNT FOLDER

prints a JSON object: how many inputs there were, those that crashed a reader (anything but an
UnlearnError) or held it for ten seconds of work, how much memory it took at most, and what appeared
in FOLDER beside the input.
"""

from __future__ import annotations

import base64
import io
import json
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save

from unlearn_core.cli.concepts import read_list
from unlearn_core.cli.generate import read_prompts
from unlearn_core.concept import Concept, as_typed
from unlearn_core.errors import UnlearnError
from unlearn_core.files.pictures import read_pictures
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.loaders.single_file import SingleFile
from unlearn_core.lora.file import load_lora, lora_bytes
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights
from unlearn_core.settings import PRESETS
from unlearn_core.text.embedding_file import load_embedding
from unlearn_webui.request import ForgetRequest

SECONDS, WAITING = 10, 60
"""Of work, and of waiting for what never comes; other processes may hold the machine."""
Case = tuple[str, Callable[[], object]]
"""What is tried, and how."""


class Held(BaseException):
    """A reader took SECONDS."""


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or put in."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        length = min(len(data) - at, draw.choice((1, 2, 4, 8, 64)))
        kind = draw.randrange(5)
        if kind == 0:
            data[at : at + length] = draw.randbytes(length)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at:at] = draw.randbytes(length)
        else:
            del data[at:]
    return bytes(data)


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 1e308, float("nan"), "", "x", "dog", [], [1, 2], {},
    {"a": [None]}, [["dog"]], "\udcff", "\0", "a" * 5000,
)  # fmt: skip


def changed(value: Any, draw: random.Random) -> Any:
    """JSON with one of its values replaced, left out or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice([*value])
        kind = draw.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.25:
            return {**value, str(draw.choice(ODD)): value[key]}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], changed(value[at], draw), *value[at + draw.randint(0, 1) :]]
    return draw.choice(ODD)


def tensor_files(draw: random.Random, count: int, folder: Path) -> Iterator[Case]:
    """LoRA files, embeddings and checkpoints, their headers most of all."""
    pairs = {text_module(1, "fc2"): LoraPair(torch.ones(2, 16), torch.ones(64, 2), 2.0)}
    notes = {"unlearn_concept": "dog", "unlearn_names": '["dog"]', "unlearn_kept": "[]"}
    names = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x")
    originals: list[tuple[bytes, Callable[[Path], object]]] = [
        (lora_bytes(LoraWeights(pairs, notes)), load_lora),
        (save({"emb_params": torch.ones(2, 16)}, {"a": "b"}), load_embedding),
        (save({name: torch.ones(4, 4, 3, 3) for name in names}), SingleFile),
    ]
    file = folder / "input.safetensors"
    for _ in range(count):
        content, read = draw.choice(originals)
        end = 8 + int.from_bytes(content[:8], "little")
        if draw.random() < 0.6:
            header = json.dumps(changed(json.loads(content[8:end]), draw)).encode("utf-8")
            content = len(header).to_bytes(8, "little") + header + content[end:]
        else:
            content = damaged(content[:end], draw) + content[end:]
        file.write_bytes(content)
        yield repr(content[:300]), lambda read=read: read(file)  # type: ignore[misc]


def model_configs(draw: random.Random, count: int, folder: Path) -> Iterator[Case]:
    """Folders of the demo model with a config that is not as expected."""
    model = folder / "input"
    configs = sorted((demo_folder() / "model").rglob("*.json"))
    for path in sorted((demo_folder() / "model").rglob("*")):
        if path.is_file():
            copy = model / path.relative_to(demo_folder() / "model")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    load_model(str(model))  # what is imported for it takes its own seconds
    for _ in range(count):
        config = draw.choice(configs)
        copy = model / config.relative_to(demo_folder() / "model")
        said = changed(json.loads(config.read_text("utf-8")), draw)
        copy.unlink()
        copy.write_text(json.dumps(said), encoding="utf-8")
        yield f"{config.name}: {json.dumps(said)[:300]}", lambda: load_model(str(model))
        copy.unlink()
        copy.symlink_to(config)


def picture_files(draw: random.Random, count: int, folder: Path) -> Iterator[Case]:
    """Pictures of every usual kind, damaged at their beginning, where headers and EXIF are."""
    image = Image.effect_noise((48, 40), 60).convert("RGB")
    exif = image.getexif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a dog", (72, 1)
    originals = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        image.save(buffer, kind, **({} if kind in ("GIF", "BMP") else {"exif": exif.tobytes()}))
        originals.append((f"0.{kind.lower()}", buffer.getvalue()))
    for _ in range(count):
        name, content = draw.choice(originals)
        some = draw.choice((64, 300, len(content)))
        content = damaged(content[:some], draw) + content[some:]
        file = folder / "input" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        yield f"{name}: {content[:200]!r}", lambda: read_pictures(folder / "input")
        file.unlink()


PIECES = (
    "dog", "cat ", "owl", "x", "the ", " a ", ",", ";", ".", '"', "!", "/", "-", "_", "(", ")",
    "[", "]", ":1.4", "\\", "\u202e", "\u200d", "\ufeff", "\n", "🐶", "犬", "é", "e\u0301", "0",
    "'",
)  # fmt: skip
RARE = ("\0", "\x1f", "\udcff", "<lora:x:1>", " " * 50, "x" * 500, "dog," * 70, "x " * 30)


def names(draw: random.Random, count: int, folder: Path) -> Iterator[Case]:
    """Names, stand-ins and kept words of signs and pieces; what is taken must stay as it is."""

    def typed() -> str:
        pieces = draw.choices(PIECES, k=draw.randint(0, 8))
        return "".join((*pieces, draw.choice(RARE) if draw.random() < 0.03 else ""))

    def again(fields: tuple[str, str, str, str]) -> None:
        name, synonyms, stand_in, keep = fields
        asked = as_typed(name, "object", synonyms, stand_in, keep)
        if isinstance(asked, Concept):
            assert asked == Concept(
                asked.name, asked.synonyms, "object", asked.stand_in, asked.keep
            )

    for _ in range(count):
        fields = (typed(), typed(), typed(), typed())
        yield repr(fields), lambda fields=fields: again(fields)  # type: ignore[misc]


def texts(draw: random.Random, count: int, folder: Path) -> Iterator[Case]:
    """Lists of concepts and files of prompts."""
    line = {"concept": "dog", "synonyms": ["puppy"], "kind": "object", "stand_in": "cat"}
    file = folder / "input.jsonl"
    for _ in range(count):
        said = json.dumps(changed(line, draw)).encode("utf-8")
        content = damaged(said, draw) if draw.random() < 0.5 else said
        file.write_bytes(content + b"\n" + json.dumps(line).encode())
        yield repr(content[:300]), lambda: read_list(file, PRESETS["quick"])
        yield repr(content[:300]), lambda: read_prompts(file)


def requests(draw: random.Random, count: int, folder: Path) -> Iterator[Case]:
    """What the WebUI's API may be sent."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    body: dict[str, Any] = {
        "names": "dog, puppy", "kind": "object", "stand_in": "cat", "keep": "wolf, fox",
        "preset": "quick", "seed": 1, "steps": 3, "rank": 4, "layers": "last:1",
        "forget_weight": 1.0, "private": True, "measure": False, "pictures": [picture],
    }  # fmt: skip
    for _ in range(count):
        said = changed(body, draw)
        yield repr(said)[:300], lambda said=said: ForgetRequest.from_json(said)  # type: ignore[misc]


KINDS: dict[str, Callable[[random.Random, int, Path], Iterator[Case]]] = {
    "tensor_files": tensor_files,
    "model_configs": model_configs,
    "picture_files": picture_files,
    "names": names,
    "texts": texts,
    "requests": requests,
}


def run(kind: str, seed: int, count: int, folder: Path) -> dict[str, Any]:
    """Try them all."""

    def hold(number: int, frame: FrameType | None) -> None:
        raise Held

    signal.signal(signal.SIGALRM, hold)
    signal.signal(signal.SIGPROF, hold)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried, refused = 0, 0
    crashes: list[str] = []
    hangs: list[str] = []
    for label, attempt in KINDS[kind](random.Random(seed), count, folder):
        tried += 1
        signal.alarm(WAITING)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            attempt()
        except UnlearnError as error:
            refused += 1
            if len(str(error)) > 2000:
                crashes.append(f"{label}: a message of {len(str(error))} letters")
        except Held:
            hangs.append(label)
        except (Exception, SystemExit):
            crashes.append(f"{label}: {traceback.format_exc(limit=-3)}")
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
    appeared = [path.name for path in folder.iterdir() if not path.name.startswith("input")]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "tried": tried,
        "refused": refused,
        "crashes": crashes,
        "hangs": hangs,
        "megabytes": used // 1024,
        "appeared": appeared,
    }


if __name__ == "__main__":
    chosen, seed, count, folder = sys.argv[1:]
    sys.stdout.write(json.dumps(run(chosen, int(seed), int(count), Path(folder))))
