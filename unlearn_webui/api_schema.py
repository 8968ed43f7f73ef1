"""What the host's page /docs says about the API's request, from the request itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from unlearn_core.files.pictures import MOST_PICTURES
from unlearn_core.settings import UnlearnSettings, bounds_of

from .api_body import MOST_BODY
from .request import MOST_TYPED, TUNABLE, ForgetRequest, help_for
from .uploads import MOST_BYTES

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


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
