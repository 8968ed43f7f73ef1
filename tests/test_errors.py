"""Messages of errors."""

import pickle

import pytest

from unlearn_core.errors import MOST_LETTERS, BadConcept, UnlearnError


@pytest.mark.parametrize("letters", [0, 1, 1999, 2000])
def test_a_message_is_told_as_it_is(letters: int) -> None:
    assert str(BadConcept("x" * letters)) == "x" * letters


@pytest.mark.parametrize("letters", [2001, 10_000_000])
def test_of_a_long_message_the_beginning_and_the_end_are_told(letters: int) -> None:
    error = UnlearnError(f"The name {'x' * letters} is too long: shorten it.")
    assert len(str(error)) <= MOST_LETTERS
    assert str(error).startswith("The name xxx")
    assert str(error).endswith("xxx is too long: shorten it.")
    assert " ... " in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
