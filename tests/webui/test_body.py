"""What the API reads of a body, and what it refuses before it unfolds."""

import json
import time

import pytest

from unlearn_webui.api_body import BadBody, parse


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
