"""Translations of the ComfyUI nodes say what the nodes' sources say."""

from typing import Any

import pytest
from node_texts import LOCALES, NEVER_TRANSLATED, NODES, ROOT, SETTINGS, translation

from unlearn_core.settings import PRESETS, help_of, presets_where

OPTIONS = {*PRESETS, *(c for item in SETTINGS for c in item.metadata.get("choices", ()))}
SPECIAL_IN_VUE_I18N = set("{}@|")


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


def test_the_sources_are_read_whole() -> None:
    files = {path.name for path in (ROOT / "nodes").glob("*_node.py")}
    assert len(NODES) == len(files) == 8
    assert all(node.inputs and node.outputs for node in NODES.values())
    assert "dog" not in NODES["UnlearnConcept"].inputs
    assert NODES["UnlearnForget"].inputs["seed"] == help_of("seed")
    assert "%concept%" in str(NODES["UnlearnSaveLora"].inputs["filename"])


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
