"""Help pages and translations of the ComfyUI nodes say what the nodes' sources say.

The nodes can't be imported without ComfyUI, so their schemas are read from the sources.
"""

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unlearn_core.settings import (
    DEFAULT_PRESET,
    PRESET_HELP,
    PRESETS,
    UnlearnSettings,
    help_of,
    presets_where,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "web" / "docs"
LOCALES = ROOT / "locales"
SETTINGS = tuple(item for item in dataclasses.fields(UnlearnSettings) if item.name != "seed")
OPTIONS = {*PRESETS, *(c for item in SETTINGS for c in item.metadata.get("choices", ()))}
NEVER_TRANSLATED = re.compile(r"-?\d+(?:\.\d+)?|models/\w+|%\w+%|SD2|LoRA|UNet|CLIP|Adam")
SPECIAL_IN_VUE_I18N = set("{}@|")


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


def page(node_id: str) -> str:
    """A node's help page."""
    return (PAGES / f"{node_id}.md").read_text("utf-8")


def translation(language: str) -> dict[str, Any]:
    """A language's nodeDefs.json."""
    return dict(json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8")))


def texts(value: Any, path: str = "") -> dict[str, str]:
    """Every text in a JSON, by the keys that lead to it."""
    if isinstance(value, str):
        return {path: value}
    assert isinstance(value, dict), path
    return {k: t for key, part in value.items() for k, t in texts(part, f"{path}/{key}").items()}


def from_the_sources() -> dict[str, str]:
    """What the English translation must say, names of inputs and outputs left out."""
    said: dict[str, str | None] = {}
    for key, node in NODES.items():
        said[f"/{key}/display_name"] = node.display_name
        said[f"/{key}/description"] = node.description
        for group, tooltips in (("inputs", node.inputs), ("outputs", node.outputs)):
            said |= {f"/{key}/{group}/{slot}/tooltip": text for slot, text in tooltips.items()}
    return {path: text for path, text in said.items() if text is not None}


def names_to_give() -> set[str]:
    """Where every language must name an input or output."""
    return {
        f"/{key}/{group}/{slot}/name"
        for key, node in NODES.items()
        for group, slots in (("inputs", node.inputs), ("outputs", node.outputs))
        for slot in slots
    }


def shown(value: Any) -> str:
    """A setting's value as the help pages write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_sources_are_read_whole() -> None:
    files = {path.name for path in (ROOT / "nodes").glob("*_node.py")}
    assert len(NODES) == len(files) == 8
    assert all(node.inputs and node.outputs for node in NODES.values())
    assert "dog" not in NODES["UnlearnConcept"].inputs
    assert NODES["UnlearnForget"].inputs["seed"] == help_of("seed")
    assert "%concept%" in str(NODES["UnlearnSaveLora"].inputs["filename"])


def test_each_node_has_a_help_page_and_each_page_a_node() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(NODES)


@pytest.mark.parametrize("node_id", NODES)
def test_a_help_page_has_its_nodes_name_as_heading_and_its_picture(node_id: str) -> None:
    assert page(node_id).startswith(f"# {NODES[node_id].display_name}\n")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page(node_id))
    # Relative, since ComfyUI serves it below the pack's folder, whatever the user calls that.
    assert pictures == [f"{node_id}.png"]


@pytest.mark.parametrize("node_id", NODES)
def test_a_help_page_mentions_every_input_and_output(node_id: str) -> None:
    node = NODES[node_id]
    mentioned = set(re.findall(r"`([^`]+)`", page(node_id)))
    assert {*node.inputs, *node.output_names} <= mentioned


def test_the_help_page_of_the_settings_has_the_engines_defaults() -> None:
    rows = re.findall(
        r"^\| (`[^|]+`) \| [^|]+ \| ([^|]+) \|$", page("UnlearnSettings"), re.MULTILINE
    )
    listed = {
        name.strip("`"): value
        for names, values in rows
        for name, value in zip(names.split(", "), values.split(", "), strict=True)
    }
    defaults = PRESETS[DEFAULT_PRESET]
    assert listed == {item.name: shown(getattr(defaults, item.name)) for item in SETTINGS}


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {DEFAULT_PRESET}))
def test_the_help_page_of_the_settings_lists_what_a_preset_changes(preset: str) -> None:
    line = re.search(rf"^- `{preset}`: (.+)\.$", page("UnlearnSettings"), re.MULTILINE)
    assert line is not None
    listed = re.findall(r"`(\w+)` ([^,]+)", line[1])
    before, after = PRESETS[DEFAULT_PRESET].as_dict(), PRESETS[preset].as_dict()
    changed = {name: shown(value) for name, value in after.items() if value != before[name]}
    assert dict(listed) == changed


def test_the_preset_that_a_tooltip_names_is_the_one_that_needs_no_unet() -> None:
    named = presets_where(needs_unet=False)
    assert f"The preset {named} can do without." in str(NODES["UnlearnForget"].inputs["model"])


def test_there_are_english_chinese_and_japanese() -> None:
    assert {path.parent.name for path in LOCALES.glob("*/nodeDefs.json")} == {"en", "zh", "ja"}


def test_english_says_what_the_nodes_say_word_for_word() -> None:
    said = {p: text for p, text in texts(translation("en")).items() if not p.endswith("/name")}
    assert said == from_the_sources()


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_a_language_has_every_node_input_and_output_and_no_others(language: str) -> None:
    assert set(texts(translation(language))) == {*from_the_sources(), *names_to_give()}


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_no_text_is_empty_or_means_something_to_the_front_ends_translator(language: str) -> None:
    for path, text in texts(translation(language)).items():
        assert text == text.strip() != "", path
        assert not SPECIAL_IN_VUE_I18N & set(text), path


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_sentences_are_translated_with_their_numbers_paths_and_options(language: str) -> None:
    translated = texts(translation(language))
    for path, english in from_the_sources().items():
        if not path.endswith("/display_name"):
            assert not translated[path].isascii(), path
        fixed = {*NEVER_TRANSLATED.findall(english), *(o for o in OPTIONS if f"{o}: " in english)}
        assert {word for word in fixed if word not in translated[path]} == set(), path
