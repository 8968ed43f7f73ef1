"""What the schemas of the ComfyUI nodes say, and the translations of it.

The nodes can't be imported without ComfyUI, so their schemas are read from the sources.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_core.settings import PRESET_HELP, UnlearnSettings, help_of

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
SETTINGS = tuple(item for item in dataclasses.fields(UnlearnSettings) if item.name != "seed")
NEVER_TRANSLATED = re.compile(r"-?\d+(?:\.\d+)?|models/\w+|%\w+%|SD2|LoRA|UNet|CLIP|Adam")


@dataclass(frozen=True)
class NodeTexts:
    """What a node's schema says, tooltips by input id and by the output's place."""

    display_name: str
    description: str
    inputs: dict[str, str | None]
    outputs: dict[str, str | None]
    output_names: tuple[str, ...]


def text_of(node: ast.expr, names: dict[str, str]) -> str:
    """A text in a source: a literal, an f-string, help_of("..."), or one of `names`."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return names[name]
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part, names) for part in parts)
        case ast.FormattedValue(value=value):
            return text_of(value, names)
        case ast.Call(func=ast.Name(id="help_of"), args=[ast.Constant(value=name)]):
            return help_of(name)
    raise AssertionError(f"a text that this test can't read: {ast.unparse(node)}")


def schemas(tree: ast.Module) -> Iterator[dict[str, ast.expr]]:
    """The arguments of each io.Schema(...)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "io.Schema":
            yield arguments(node)


def arguments(call: ast.expr) -> dict[str, ast.expr]:
    """The named arguments of a call."""
    assert isinstance(call, ast.Call)
    return {item.arg: item.value for item in call.keywords if item.arg}


def constants(tree: ast.Module) -> dict[str, str]:
    """The texts that a module names at its top, and the tooltip that Forget Concept joins."""
    found = {"presets": "\n".join(f"{name}: {text}" for name, text in PRESET_HELP.items())}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                found[name] = text
    return found


def read_inputs(node: ast.expr, names: dict[str, str]) -> dict[str, str | None]:
    """Input id to tooltip; Unlearning Settings makes its inputs from the engine's settings."""
    if isinstance(node, ast.ListComp):
        assert "dataclasses.fields(UnlearnSettings)" in ast.unparse(node)
        return {item.name: help_of(item.name) for item in SETTINGS}
    assert isinstance(node, ast.List)
    return {
        text_of(call.args[0], names): tooltip(call, names)
        for call in node.elts
        if isinstance(call, ast.Call)
    }


def tooltip(call: ast.expr, names: dict[str, str]) -> str | None:
    """The tooltip of an input or output, if it has one."""
    given = arguments(call).get("tooltip")
    return None if given is None else text_of(given, names)


def output_name(call: ast.expr, names: dict[str, str]) -> str:
    """What the node shows: the name that it gives, or the type as ComfyUI writes it."""
    assert isinstance(call, ast.Call)
    given = arguments(call).get("display_name")
    return text_of(given, names) if given else ast.unparse(call.func).split(".")[1].upper()


def read_nodes() -> dict[str, NodeTexts]:
    """Every node of the pack by its id."""
    found = {}
    shared = constants(ast.parse((ROOT / "nodes" / "values.py").read_text("utf-8")))
    for file in sorted((ROOT / "nodes").glob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        names = shared | constants(tree)
        for schema in schemas(tree):
            outputs = schema["outputs"]
            assert isinstance(outputs, ast.List)
            found[text_of(schema["node_id"], names)] = NodeTexts(
                text_of(schema["display_name"], names),
                text_of(schema["description"], names),
                read_inputs(schema["inputs"], names),
                {str(i): tooltip(call, names) for i, call in enumerate(outputs.elts)},
                tuple(output_name(call, names) for call in outputs.elts),
            )
    return found


NODES = read_nodes()


def translation(language: str) -> dict[str, Any]:
    """A language's nodeDefs.json."""
    return dict(json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8")))


def shown(value: object) -> str:
    """An input's value as the help pages write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"
