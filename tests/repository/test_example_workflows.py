"""The ComfyUI templates as files: their wires fit together, and nothing is lost on the way."""

import json
from pathlib import Path
from typing import Any

import pytest

FILES = sorted((Path(__file__).resolve().parents[2] / "example_workflows").glob("*.json"))


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_both_ends_of_every_wire_name_it(file: Path) -> None:
    workflow = read(file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    at_inputs = {
        slot["link"]: (node["id"], number, slot["type"])
        for node in nodes.values()
        for number, slot in enumerate(node.get("inputs", []))
        if slot["link"] is not None
    }
    at_outputs = {
        link: (node["id"], number, slot["type"])
        for node in nodes.values()
        for number, slot in enumerate(node.get("outputs", []))
        for link in slot["links"] or []
    }
    assert at_inputs == {link: (to, slot, kind) for link, _, _, to, slot, kind in workflow["links"]}
    assert at_outputs == {
        link: (source, slot, kind) for link, source, slot, _, _, kind in workflow["links"]
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_lora_is_in_its_file_before_it_is_measured(file: Path) -> None:
    workflow = read(file)
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    sources = {link: kinds[source] for link, source, *_ in workflow["links"]}
    measured = [
        sources[slot["link"]]
        for node in workflow["nodes"]
        if node["type"] == "UnlearnMeasure"
        for slot in node["inputs"]
        if slot["name"] == "unlearn_lora"
    ]
    saves = "UnlearnSaveLora" in kinds.values()
    assert measured == ["UnlearnSaveLora"] * saves
