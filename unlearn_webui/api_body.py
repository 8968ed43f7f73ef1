"""The API's JSON, bounded before it is parsed: a small body can unfold into hours and gigabytes."""

from __future__ import annotations

import json

from fastapi import HTTPException, Request

MOST_BODY = 100 * 2**20
"""Bytes; 64 pictures of 1 MB in base64, or 4 of the largest."""
_MOST_MARKS = 2_000
"""Of the signs that begin a list or an object, or part their values; base64 has none of them."""
_MOST_DIGITS = 40
"""Of a whole number: older Pythons take seconds for a long one."""


async def read_body(request: Request) -> bytearray:
    """The body; raises 413 for one that is too large."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise HTTPException(413, f"At most {MOST_BODY // 2**20} MB are read.")
    return body


def parse(body: bytearray) -> object:
    """The JSON in a body, whose bytes are let go; raises 400. Not for the event loop."""
    for mark in b"[{,":
        if body.count(mark) > _MOST_MARKS:
            raise HTTPException(400, f"The body has more than {_MOST_MARKS} times {chr(mark)!r}.")
    try:
        content: object = json.loads(body, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body must be JSON.") from error
    body.clear()
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
