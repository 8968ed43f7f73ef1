"""The engine's door: few names, each with a line, none loaded before it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

import unlearn_core

MOST_NAMES = 25


def test_every_name_of_the_door_has_a_line() -> None:
    text = inspect.getdoc(unlearn_core) or ""
    listed = [line.split()[0] for line in text.splitlines() if "  " in line.strip()]
    assert sorted(listed) == sorted(unlearn_core.__all__)
    assert len(unlearn_core.__all__) <= MOST_NAMES


@pytest.mark.parametrize("name", unlearn_core.__all__)
def test_every_name_of_the_door_leads_to_what_bears_it(name: str) -> None:
    found = getattr(unlearn_core, name)
    assert getattr(found, "__name__", name) == name
    assert not inspect.ismodule(found)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="nothing_such"):
        unlearn_core.nothing_such  # noqa: B018


def test_coming_in_loads_no_torch(in_fresh_process: Callable[..., str]) -> None:
    said = in_fresh_process("import sys, unlearn_core; print('torch' in sys.modules)")
    assert said.strip() == "False"
