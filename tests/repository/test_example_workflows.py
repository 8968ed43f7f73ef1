"""The ComfyUI templates as files: their wires fit together, and nothing is lost on the way."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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
        sources.get(slot["link"])
        for node in workflow["nodes"]
        if node["type"] == "UnlearnMeasure"
        for slot in node["inputs"]
        if slot["name"] == "unlearn_lora"
    ]
    if "UnlearnSaveLora" in kinds.values():
        assert measured == ["UnlearnSaveLora"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_template_has_a_small_square_picture(file: Path) -> None:
    picture = file.with_suffix(".jpg")
    assert picture.stat().st_size < 60_000
    with Image.open(picture) as image:
        assert image.width == image.height


def test_the_guide_names_every_template() -> None:
    guide = (FILES[0].parents[1] / "docs" / "comfyui.md").read_text("utf-8")
    assert [file.stem for file in FILES if f"| {file.stem} |" not in guide] == []


@pytest.mark.parametrize("word", ["unlearn", "forget", "erase"])
def test_a_search_for_a_word_finds_a_template(word: str) -> None:
    assert any(word in file.stem.lower() for file in FILES)


def test_the_templates_of_other_families_differ_in_their_checkpoint_and_note_alone() -> None:
    own = [file for file in FILES if "your" in file.stem]
    assert len(own) == 3
    kept = []
    for file in own:
        nodes = read(file)["nodes"]
        for node in nodes:
            if node["type"] in ("CheckpointLoaderSimple", "MarkdownNote"):
                del node["widgets_values"]
        kept.append(nodes)
    assert kept[0] == kept[1] == kept[2]
