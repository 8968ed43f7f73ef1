"""What the API reads of a body, what it refuses before it unfolds, and what /docs says of it."""

import dataclasses
import json
import time

import pytest

from unlearn_core.settings import bounds_of
from unlearn_webui.api_body import BadBody, forget_body, parse
from unlearn_webui.request import ForgetRequest, help_for


def test_json_is_parsed_and_its_bytes_are_let_go() -> None:
    body = bytearray(json.dumps({"names": "dog", "pictures": ["AAAA"] * 64}).encode())
    assert parse(body) == {"names": "dog", "pictures": ["AAAA"] * 64}
    assert not body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe{",
        b"\x80",
        b"[" * 20_000_000,
        b"[" * 1_500,
        b"[" + b"[]," * 5_000_000 + b"[]]",
        b'{"a":' * 4_000_000,
        b"[" + b"1," * 10_000_000 + b"1]",
        b"1" * 10_000_000,
        b"-" + b"9" * 5_000,
        b'"' + b"x" * 1000,
    ],
    ids=lambda body: f"{body[:8]!r} {len(body)}",
)
def test_what_is_no_json_or_unfolds_is_refused_at_once(body: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(BadBody, match="The body"):
        parse(bytearray(body))
    assert time.monotonic() - started < 1


def test_docs_says_what_each_field_takes() -> None:
    content = forget_body()["requestBody"]["content"]["application/json"]
    fields = content["schema"]["properties"]
    assert list(fields) == [item.name for item in dataclasses.fields(ForgetRequest)]
    for name, said in fields.items():
        assert said["description"].startswith(help_for(name))
    assert (fields["seed"]["minimum"], fields["seed"]["maximum"]) == bounds_of("seed")
    assert fields["preset"]["enum"]
