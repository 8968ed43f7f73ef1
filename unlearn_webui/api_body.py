"""The JSON that the API takes: what bounds it before it is parsed, and what /docs says of it.

A small body can unfold into hours and gigabytes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from unlearn_core.errors import UnlearnError
from unlearn_core.files.pictures import MOST_PICTURES
from unlearn_core.settings import UnlearnSettings, bounds_of

from .request import MOST_TYPED, TUNABLE, ForgetRequest, help_for
from .uploads import MOST_BYTES

MOST_BODY = 100 * 2**20
"""Bytes; 64 pictures of 1 MB in base64, or 4 of the largest."""
_MOST_MARKS = 2_000
"""Of the signs that begin a list or an object, or part their values; base64 has none of them."""
_MOST_DIGITS = 40
"""Of a whole number: older Pythons take seconds for a long one."""
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


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


def forget_body() -> dict[str, Any]:
    """OpenAPI's description of the JSON that `forget` takes."""
    fields = {item.name: _described(item) for item in dataclasses.fields(ForgetRequest)}
    schema = {
        "type": "object",
        "title": "ForgetRequest",
        "additionalProperties": False,
        "properties": fields,
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _described(item: dataclasses.Field[Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"description": help_for(item.name)}
    if item.name == "pictures":
        said["description"] += (
            f" Each a file in base64, {MOST_BYTES // 2**20} MB at most; the whole request "
            f"{MOST_BODY // 2**20} MB."
        )
        strings = {"type": "string", "format": "byte"}
        return {**said, "type": "array", "maxItems": MOST_PICTURES, "items": strings}
    if item.name in TUNABLE:
        kind = type(getattr(UnlearnSettings(), item.name))
        if kind in (int, float):
            said["minimum"], said["maximum"] = bounds_of(item.name)
        said["description"] += " Left out: the preset's."
        return {**said, "type": _TYPES[kind]}
    if "choices" in item.metadata:
        said["enum"] = list(item.metadata["choices"])
    elif isinstance(item.default, str):
        said["maxLength"] = MOST_TYPED
    return {**said, "type": _TYPES[type(item.default)], "default": item.default}
