"""Settings: bounds, types, presets, and the layers that a text means."""

import dataclasses
from typing import Any

import pytest

from unlearn_core.errors import BadSettings
from unlearn_core.lora.encoder_lora import chosen_layers
from unlearn_core.settings import (
    DEFAULT_PRESET,
    PRESET_HELP,
    PRESETS,
    REMOVED,
    UnlearnSettings,
    bounds_of,
    help_of,
    preset,
    presets_where,
    removed_in_words,
)

FIELDS = dataclasses.fields(UnlearnSettings)
NUMBERS = [item.name for item in FIELDS if "bounds" in item.metadata]
FLOATS = [item.name for item in FIELDS if isinstance(item.default, float)]
WHOLES = [name for name in NUMBERS if name not in FLOATS]
CHOICES = [item.name for item in FIELDS if "choices" in item.metadata]
SWITCHES = [item.name for item in FIELDS if isinstance(item.default, bool)]


def make(name: str, value: Any) -> UnlearnSettings:
    return UnlearnSettings(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_lie_on_its_bounds_and_not_beyond(name: str) -> None:
    low, high = bounds_of(name)
    for value in (low, high):
        assert getattr(make(name, value), name) == value
    step = 1 if name in WHOLES else 1e-9
    for value in (low - step, high + step):
        with pytest.raises(BadSettings, match=rf"^{name} is .* between {low} and {high}\.$"):
            make(name, value)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_finite_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(BadSettings, match=name):
        make(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, True) for name in NUMBERS),
        *((name, "1") for name in NUMBERS),
        *((name, None) for name in NUMBERS),
        *((name, 16.0) for name in WHOLES),
        *((name, 1) for name in SWITCHES),
        *((name, "yes") for name in SWITCHES),
        *((name, 0) for name in CHOICES),
        ("layers", 3),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadSettings, match=rf"^{name} is .* must be of type"):
        make(name, value)


def test_a_whole_number_is_good_enough_for_a_float() -> None:
    assert UnlearnSettings(forget_weight=2).forget_weight == 2


@pytest.mark.parametrize("name", CHOICES)
def test_only_listed_choices_are_taken(name: str) -> None:
    item = next(item for item in FIELDS if item.name == name)
    for choice in item.metadata["choices"]:
        make(name, choice)
    with pytest.raises(BadSettings, match="must be one of"):
        make(name, "something else")


def test_every_setting_has_an_explanation_and_bounds_choices_or_a_switch() -> None:
    for item in FIELDS:
        assert help_of(item.name).endswith(".")
    assert {*NUMBERS, *CHOICES, *SWITCHES, "layers"} == {item.name for item in FIELDS}


def test_unknown_names_are_refused_everywhere() -> None:
    calls = [
        lambda: UnlearnSettings().replace(stepz=1),
        lambda: UnlearnSettings.from_dict({"steps": 1, "stepz": 1}),
        lambda: preset("balanced", stepz=1),
        lambda: bounds_of("stepz"),
        lambda: help_of("stepz"),
    ]
    for call in calls:
        with pytest.raises(BadSettings, match="Unknown setting: stepz"):
            call()
    with pytest.raises(BadSettings, match="Unknown preset 'fast'"):
        preset("fast")


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UnlearnSettings().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_constructs_and_is_explained(name: str) -> None:
    assert preset(name) == PRESETS[name]
    assert preset(name, seed=5) == PRESETS[name].replace(seed=5)
    assert PRESET_HELP[name]
    assert UnlearnSettings.from_dict(PRESETS[name].as_dict()) == PRESETS[name]


def test_the_default_preset_is_the_default_settings() -> None:
    assert PRESETS[DEFAULT_PRESET] == UnlearnSettings()
    assert PRESET_HELP.keys() == PRESETS.keys()


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"needs_pictures": True}, "paper"),
        ({"needs_pictures": False}, "quick, balanced or robust"),
        ({"needs_unet": False}, "quick"),
        ({"learns_vectors": True}, "balanced or robust"),
        ({"needs_unet": True, "learns_vectors": False}, "paper"),
    ],
)
def test_presets_say_themselves_what_they_need(said: dict[str, bool], named: str) -> None:
    assert presets_where(**said) == named


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_setting_that_was_saved_is_named_and_left_out(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    read = UnlearnSettings.from_dict({"steps": 3, name: 1})
    assert read == UnlearnSettings(steps=3)
    assert caplog.messages == [f"{name} is no longer a setting and was left out."]


def test_several_removed_settings_are_named_in_one_line() -> None:
    assert removed_in_words(["templates", "steps", "keep_nearest"]) == (
        "templates is no longer a setting and was left out. "
        "keep_nearest is no longer a setting and was left out."
    )
    assert removed_in_words(UnlearnSettings().as_dict()) == ""


def test_a_removed_setting_that_is_asked_for_now_is_refused() -> None:
    with pytest.raises(BadSettings, match="No longer a setting: keep_nearest"):
        preset("balanced", keep_nearest=3)


def test_replacing_checks_bounds_again() -> None:
    with pytest.raises(BadSettings):
        UnlearnSettings().replace(rank=0)


@pytest.mark.parametrize(
    ("layers", "last_used", "expected"),
    [
        ("all", 22, range(23)),
        ("all", 0, [0]),
        ("last:3", 22, [20, 21, 22]),
        ("last:1", 2, [2]),
        ("last:3", 2, [0, 1, 2]),
        ("first:1", 22, [0]),
        ("first:3", 2, [0, 1, 2]),
        ("20-22", 22, [20, 21, 22]),
        ("7-7", 22, [7]),
        ("0", 22, [0]),
        ("22", 22, [22]),
        ("last:2,first:1", 22, [0, 21, 22]),
        ("0,0-1,5", 22, [0, 1, 5]),
    ],
)
def test_layers_are_counted_among_those_that_are_used(
    layers: str, last_used: int, expected: list[int]
) -> None:
    assert UnlearnSettings(layers=layers).layers == layers
    assert list(chosen_layers(layers, last_used)) == list(expected)


@pytest.mark.parametrize(
    ("layers", "last_used"),
    [
        ("last:4", 2),
        ("first:4", 2),
        ("20-23", 22),
        ("23", 22),
        ("23-24", 22),
        ("5-3", 22),
        ("0,5-3", 22),
        ("0,23", 22),
    ],
)
def test_layers_beyond_the_last_used_one_are_refused(layers: str, last_used: int) -> None:
    with pytest.raises(BadSettings, match=f"layers 0 to {last_used} can be chosen"):
        chosen_layers(layers, last_used)


@pytest.mark.parametrize(
    "layers",
    ["", "last", "last:", "last:0", "last:-1", "first:0", "-1", "1-", "1-2-3", "1,", ",1", "1, 2",
     "ALL", " all", "all\n", "3 ", "last:1.5", "x"],
)  # fmt: skip
def test_layers_that_can_not_be_read_are_refused(layers: str) -> None:
    with pytest.raises(BadSettings, match="layers is"):
        UnlearnSettings(layers=layers)


@pytest.mark.parametrize(
    "layers",
    [f"first:{10**20}", f"last:{10**20}", f"0-{10**20}", "9" * 5000, "first:" + "9" * 5000],
)
def test_absurdly_many_layers_are_refused_like_others(layers: str) -> None:
    with pytest.raises(BadSettings):
        chosen_layers(UnlearnSettings(layers=layers).layers, 22)


@pytest.mark.parametrize(
    ("name", "changes", "uses"),
    [
        ("quick", {}, False),
        ("balanced", {}, True),
        ("balanced", {"use_pictures": False}, False),
        ("balanced", {"inversion_steps": 0}, False),
        ("paper", {"use_pictures": False}, True),
        ("quick", {"objective": "ascent"}, True),
    ],
)
def test_pictures_are_used_where_vectors_are_learned_or_the_unet_is_asked(
    name: str, changes: dict[str, Any], uses: bool
) -> None:
    assert preset(name, **changes).uses_pictures is uses
