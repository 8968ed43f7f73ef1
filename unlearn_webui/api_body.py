"""The API's JSON, bounded before it is parsed: a small body can unfold into hours and gigabytes."""

from __future__ import annotations

import json

from unlearn_core.errors import UnlearnError

MOST_BODY = 100 * 2**20
"""Bytes; 64 pictures of 1 MB in base64, or 4 of the largest."""
_MOST_MARKS = 2_000
"""Of the signs that begin a list or an object, or part their values; base64 has none of them."""
_MOST_DIGITS = 40
"""Of a whole number: older Pythons take seconds for a long one."""


class BadBody(UnlearnError):
    """What was sent is no JSON, or more of it than any request needs."""


def parse(body: bytearray) -> object:
    """The JSON in a body, whose bytes are let go; raises BadBody. Not for the event loop."""
    for mark in b"[{,":
        if body.count(mark) > _MOST_MARKS:
            raise BadBody(f"The body has more than {_MOST_MARKS} times {chr(mark)!r}.")
    try:
        content: object = json.loads(body, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"The body must be JSON: {error}.") from error
    body.clear()
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
