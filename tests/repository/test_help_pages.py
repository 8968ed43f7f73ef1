"""The nodes' help pages: English ones say what the sources say, the others what English ones do.

ComfyUI takes web/docs/NODE/LANGUAGE.md, or else web/docs/NODE.md, and draws both in a panel of
about 400 pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest
from node_texts import NEVER_TRANSLATED, NODES, ROOT, SETTINGS, shown, translation

from unlearn_core.settings import DEFAULT_PRESET, PRESETS

PAGES = ROOT / "web" / "docs"
INPUT = re.compile(r"- `(\w+)` \((?:default (.+?)|(needed|optional))\): ")
OUTPUT = re.compile(r"- `(\w+)`: ")
KIND = re.compile(r" *- |#+ |!|")
FIXED = re.compile(r'`[^`]+`|"[^"]*"')


@dataclass(frozen=True)
class Language:
    """How a language writes what the English pages write as (default on)."""

    default: str
    comma: str
    words: dict[str, str]

    def start(self, name: str, *inside: str) -> str:
        """What an input's or output's item begins with; a label that is the name is left out."""
        said = self.comma.join(text for text in inside if text.lower() != name.lower())
        return f"- `{name}`（{said}）：" if said else f"- `{name}`："

    def default_of(self, match: re.Match[str]) -> str:
        """The default in an English item that INPUT matches."""
        _, default, need = match.groups()
        return self.words[need] if need else self.default + self.words.get(default, default)


LANGUAGES = {
    "zh": Language("默认：", "，", {
        "needed": "必需", "optional": "可选", "on": "开启", "off": "关闭", "empty": "空",
        "the first one": "第一个",
    }),
    "ja": Language("既定：", "、", {
        "needed": "必須", "optional": "省略可", "on": "オン", "off": "オフ", "empty": "空欄",
        "the first one": "最初のもの",
    }),
}  # fmt: skip
EVERY_PAGE = [(node_id, language) for node_id in NODES for language in ("en", *LANGUAGES)]
TRANSLATED = [(node_id, language) for node_id in NODES for language in LANGUAGES]


def page(node_id: str, language: str = "en") -> str:
    """A node's help page."""
    name = f"{node_id}.md" if language == "en" else f"{node_id}/{language}.md"
    return (PAGES / name).read_text("utf-8")


def blocks(text: str) -> list[str]:
    """Headings, paragraphs and items of lists, a line each; nested items keep their indent."""
    found = re.split(r"\n\n+|\n(?= *- )", text.strip("\n"))
    return [re.sub(r"\n *", " ", block) for block in found]


def items(node_id: str, heading: int, language: str = "en") -> list[str]:
    """The list below a heading of the second level; nested items are left out."""
    text = page(node_id, language).split("\n## ")[heading]
    return [block for block in blocks(text) if block.startswith("- ")]


def inputs_of(node_id: str) -> list[re.Match[str]]:
    """The name, the default, and else whether it is needed, of each input of an English page."""
    matches = [INPUT.match(item) for item in items(node_id, 1)]
    assert None not in matches
    return [match for match in matches if match]


def fixed(block: str) -> tuple[str, Counter[str]]:
    """What every language has alike: the kind of block, its code, and what it quotes."""
    kind = KIND.match(block)
    assert kind is not None
    return kind[0], Counter(FIXED.findall(block))


def test_each_node_has_a_help_page_in_each_language_and_each_page_a_node() -> None:
    found = {path.relative_to(PAGES).with_suffix("").as_posix() for path in PAGES.rglob("*.md")}
    assert found == {*NODES, *(f"{node_id}/{language}" for node_id, language in TRANSLATED)}


@pytest.mark.parametrize(("node_id", "language"), EVERY_PAGE)
def test_a_help_page_has_its_nodes_name_as_heading_and_its_picture(
    node_id: str, language: str
) -> None:
    text, name = page(node_id, language), translation(language)[node_id]["display_name"]
    assert text.startswith(f"# {name}\n")
    # In every language relative to web/docs, since ComfyUI serves that below the pack's folder,
    # whatever the user calls it.
    assert re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", text) == [(name, f"{node_id}.png")]


@pytest.mark.parametrize(("node_id", "language"), EVERY_PAGE)
def test_a_help_page_has_no_table_as_the_panel_is_narrow(node_id: str, language: str) -> None:
    assert re.findall(r"^ *\|.*", page(node_id, language), re.MULTILINE) == []


@pytest.mark.parametrize("node_id", NODES)
def test_a_help_page_lists_every_input_and_output_in_the_nodes_order(node_id: str) -> None:
    assert [match[1] for match in inputs_of(node_id)] == list(NODES[node_id].inputs)
    outputs = [OUTPUT.match(item) for item in items(node_id, 2)]
    assert tuple(match and match[1] for match in outputs) == NODES[node_id].output_names


def test_the_help_page_of_the_settings_has_the_engines_defaults() -> None:
    listed = {match[1]: match[2] for match in inputs_of("UnlearnSettings")}
    defaults = PRESETS[DEFAULT_PRESET]
    assert listed == {item.name: shown(getattr(defaults, item.name)) for item in SETTINGS}


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {DEFAULT_PRESET}))
@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_help_page_of_the_settings_lists_what_a_preset_changes(
    preset: str, language: str
) -> None:
    line = re.search(
        rf"^- `{preset}`(?:: |：)(.+)[.。]$", page("UnlearnSettings", language), re.MULTILINE
    )
    assert line is not None
    listed = re.findall(r"`(\w+)` ([^,，、]+)", line[1])
    before, after = PRESETS[DEFAULT_PRESET].as_dict(), PRESETS[preset].as_dict()
    words = LANGUAGES[language].words if language in LANGUAGES else {}
    changed = {name: shown(value) for name, value in after.items() if value != before[name]}
    assert dict(listed) == {name: words.get(value, value) for name, value in changed.items()}


@pytest.mark.parametrize(("node_id", "language"), TRANSLATED)
def test_a_translated_page_has_the_code_and_quoted_messages_of_the_english_one_in_the_same_places(
    node_id: str, language: str
) -> None:
    english, translated = blocks(page(node_id)), blocks(page(node_id, language))
    assert list(map(fixed, translated)) == list(map(fixed, english))


@pytest.mark.parametrize(("node_id", "language"), TRANSLATED)
def test_a_translated_page_names_inputs_and_defaults_as_the_node_shows_them(
    node_id: str, language: str
) -> None:
    way, texts = LANGUAGES[language], translation(language)[node_id]
    labels = [slot["name"] for group in ("inputs", "outputs") for slot in texts[group].values()]
    matches, outputs = inputs_of(node_id), NODES[node_id].output_names
    said = [(match[1], way.default_of(match)) for match in matches]
    slots = [*said, *((name,) for name in outputs)]
    found = items(node_id, 1, language) + items(node_id, 2, language)
    for (name, *default), label, item in zip(slots, labels, found, strict=True):
        assert item.startswith(way.start(name, label, *default))


@pytest.mark.parametrize(("node_id", "language"), TRANSLATED)
def test_a_translated_page_has_the_numbers_and_nodes_of_the_english_one(
    node_id: str, language: str
) -> None:
    names = {node.display_name: key for key, node in NODES.items()}
    texts = translation(language)
    pairs = zip(blocks(page(node_id)), blocks(page(node_id, language)), strict=True)
    for item, text in pairs:
        assert text != item
        missing = {word for word in NEVER_TRANSLATED.findall(item) if word not in text}
        assert missing == set(), text
        for name in re.findall(r"\*([^*]+)\*", item):
            assert name not in names or texts[names[name]]["display_name"] in text, (name, text)
