"""Requests that mean no good, to the API and to the tab, in the thin host of both shapes."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from webui_host import CANCEL, FORGET, PROGRESS, ROOT, Refused, WebuiServer, in_background, wait_for

pytestmark = pytest.mark.host
SMALL = {"preset": "quick", "steps": 3, "measure": False}
PICTURE = (ROOT / "demo" / "pictures" / "dog" / "0.png").read_bytes()


@pytest.fixture(scope="module", params=["a1111", "forge"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A thin host of one shape."""
    server = WebuiServer(request.param, tmp_path_factory.mktemp(request.param))
    yield server
    server.stop()


def unfolding() -> dict[str, Any]:
    """A picture of 64 megapixels in a few kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "PNG")
    return {"names": "dog", "pictures": [base64.b64encode(buffer.getvalue()).decode()] * 2}


@pytest.mark.parametrize(
    "content",
    [
        {"names": ",".join(f"n{i}" for i in range(8000)), "keep": "a," * 8000},
        {"names": "x" * 2_000_000},
        {"names": "dog", "layers": [[]] * 5_000_000},
        {**unfolding(), "preset": "paper", "steps": -1},
        {**unfolding(), "kind": "person", "names": ""},
    ],
    ids=["names", "letters", "nesting", "pixels unread", "pixels"],
)
def test_no_request_keeps_the_others_waiting(server: WebuiServer, content: dict[str, Any]) -> None:
    threads = [in_background(server, content) for _ in range(3)]
    longest = 0.0
    while any(thread.is_alive() for thread, _ in threads):
        started = time.monotonic()
        server.call(PROGRESS)
        longest = max(longest, time.monotonic() - started)
        time.sleep(0.02)
    assert {answers[0].status for _, answers in threads} <= {400, 422}
    assert longest < 3  # where other work keeps all cores busy; alone 0.3


def test_more_runs_than_a_few_are_refused_and_not_stored(server: WebuiServer) -> None:
    first, _ = in_background(server, {**SMALL, "names": "owl", "steps": 5000})
    wait_for(server, "forgetting")
    others = [in_background(server, {**SMALL, "names": "apple"}) for _ in range(7)]
    while server.call(PROGRESS)["waiting"] < 7:
        time.sleep(0.05)
    with pytest.raises(Refused, match="8 runs work or wait already") as refused:
        server.call(FORGET, {**SMALL, "names": "pear"})
    assert refused.value.status == 503
    assert server.call(CANCEL, {}) == {"cancelled": 8}
    for thread, _ in [(first, None), *others]:
        thread.join(60)
    with pytest.raises(Refused, match="JSON object"):
        server.call(FORGET, [])


def click_forget(server: WebuiServer, *files: str) -> str:
    """What the tab's button answers when a request names these files, as HTML or an error."""
    config = server.call("/config")
    identity = next(
        part["id"]
        for part in config["components"]
        if part["props"].get("elem_id") == "unlearn_pictures"
    )
    number = next(i for i, d in enumerate(config["dependencies"]) if identity in d["inputs"])
    named = [
        {
            "name": file, "data": None, "is_file": True, "orig_name": "a.png",
            "path": file, "meta": {"_type": "gradio.FileData"},
        }
        for file in files
    ]  # fmt: skip
    data = [
        "", "dog", named, "quick", "", "", "object", "word", "", "3", "", "", "", False, False,
        False,
    ]  # fmt: skip
    asked = {"fn_index": number, "data": data, "session_hash": "a", "event_data": None}
    try:
        return str(server.call("/run/predict", asked)["data"])
    except Refused as error:
        return f"refused: {error}"


def upload(server: WebuiServer, content: bytes) -> str:
    """Upload a file as the page does it; where it lies then."""
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = part + content + b"\r\n--x--\r\n"
    request = urllib.request.Request(f"{server.address}/upload", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.loads(answer.read())[0])


def test_the_tab_reads_what_was_uploaded(server: WebuiServer) -> None:

    answer = click_forget(server, *(upload(server, PICTURE) for _ in range(2)))
    assert "forgotten: dog" in answer
    assert "can&#x27;t be read as a picture" in click_forget(server, upload(server, b"no picture"))


@pytest.mark.parametrize(
    "place", ["outside", "up", "link", "linked folder", "up from a link", "address", "odd"]
)
def test_a_request_to_the_tab_reads_nothing_else(
    server: WebuiServer, place: str, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.png"
    foreign.write_bytes(PICTURE + bytes(7))
    (tmp_path / "inner").mkdir()
    uploads = Path(upload(server, b"x")).parents[1]
    link = uploads / f"link-{tmp_path.name}"
    link.symlink_to(foreign if place == "link" else tmp_path / "inner")
    (tmp_path / "inner" / "foreign.png").symlink_to(foreign)
    (uploads.parent / "foreign.png").write_bytes(foreign.read_bytes())
    named = {
        "outside": str(foreign),
        "up": f"{uploads}/../foreign.png",
        "link": str(link),
        "linked folder": f"{link}/foreign.png",
        "up from a link": f"{link}/../foreign.png",
        "address": f"{server.address}/file={server.folder}/foreign.png",
        "odd": "a\0b",
    }[place]
    before = contents(uploads)
    try:
        answer = click_forget(server, named)
    finally:
        link.unlink()
    assert "forgotten" not in answer
    assert "not uploaded here" in answer or "refused" in answer
    assert foreign.read_bytes() not in contents(uploads).values()
    assert contents(uploads) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
