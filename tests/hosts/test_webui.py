"""The WebUI extension over its API, in the thin host of both shapes, with the demo model."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from webui_host import CANCEL, FORGET, PROGRESS, ROOT, Refused, WebuiServer, in_background, wait_for

from unlearn_core.lora.file import load_lora
from unlearn_core.settings import PRESETS
from unlearn_webui.request import ForgetRequest

pytestmark = pytest.mark.host
SMALL = {"preset": "quick", "steps": 3, "measure": False}


@pytest.fixture(scope="module", params=["a1111", "forge"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A thin host of one shape."""
    server = WebuiServer(request.param, tmp_path_factory.mktemp(request.param))
    yield server
    server.stop()


@pytest.fixture
def locked(server: WebuiServer) -> Iterator[None]:
    """With two logins for the API."""
    server.call("/thin/options", {"api_auth": "me:secret,you:other"})
    yield
    server.call("/thin/options", {"api_auth": None})


def pictures(count: int = 2) -> list[str]:
    files = sorted((ROOT / "demo" / "pictures" / "dog").glob("*.png"))[:count]
    return [base64.b64encode(file.read_bytes()).decode() for file in files]


def test_a_run_writes_lora_card_and_picture_that_the_host_sees(server: WebuiServer) -> None:
    answer = server.call(FORGET, {**SMALL, "names": "dog, puppy", "seed": 3})
    name = answer["name"]
    assert answer["tag"] == f"<lora:{name}:1>"
    assert {f"{name}{end}" for end in (".safetensors", ".json", ".png")} <= server.names()
    lora = load_lora(server.loras / f"{name}.safetensors")
    assert lora.metadata["unlearn_concept"] == "dog"
    card = json.loads((server.loras / f"{name}.json").read_text("utf-8"))
    assert card["sd version"] == "SD2"
    assert card["preferred weight"] == 1.0
    assert answer["lines"][0].startswith("forgotten: dog, puppy")


def test_a_second_run_is_the_same_under_another_name(server: WebuiServer) -> None:
    asked = {**SMALL, "names": "cat", "seed": 1}
    first, second = (server.call(FORGET, asked)["name"] for _ in range(2))
    assert (first, second) == ("forget-cat", "forget-cat-2")
    loras = [load_lora(server.loras / f"{name}.safetensors") for name in (first, second)]
    for key, pair in loras[0].pairs.items():
        assert pair.up.equal(loras[1].pairs[key].up)


def test_measuring_gives_sheet_numbers_and_a_strength(server: WebuiServer) -> None:
    answer = server.call(FORGET, {**SMALL, "names": "car", "measure": True})
    assert base64.b64decode(answer["contact_sheet"]).startswith(b"\x89PNG")
    assert [line.partition(":")[0] for line in answer["numbers"]] == [
        "forgotten", "kept", "strength",
    ]  # fmt: skip
    card = json.loads((server.loras / f"{answer['name']}.json").read_text("utf-8"))
    assert card["preferred weight"] == answer["recommended_strength"]
    assert answer["tag"].endswith(f":{answer['recommended_strength']:g}>")
    assert any(line in card["notes"] for line in answer["numbers"])
    assert f"use {answer['recommended_strength']:g}" in answer["numbers"][2]
    assert " seen by the unchanged model in " in answer["numbers"][0]
    page = (server.loras / f"{answer['name']}.html").read_text("utf-8")
    assert "car: <span" in page
    lora = load_lora(server.loras / f"{answer['name']}.safetensors")
    assert lora.metadata["unlearn_judged_by"] == "the unchanged model"


def test_pictures_are_learned_from_and_the_embedding_is_written(server: WebuiServer) -> None:
    asked = {"names": "dog", "pictures": pictures(), "steps": 40, "save_embedding": True}
    answer = server.call(FORGET, {**asked, "measure": False})
    file = server.folder / "embeddings" / f"{answer['embedding']}.safetensors"
    assert file.exists()
    content = (server.loras / f"{answer['name']}.safetensors").read_bytes()
    assert b"emb_params" not in content


def test_an_sdxl_checkpoint_gives_a_lora_and_an_embedding_of_both_text_encoders(
    server: WebuiServer,
) -> None:
    server.call("/thin/checkpoint", {"name": "sdxl"})
    asked = {"names": "dog", "stand_in": "cat", "pictures": pictures(), "save_embedding": True}
    try:
        answer = server.call(FORGET, {**asked, "preset": "balanced", "steps": 40, "measure": False})
    finally:
        server.call("/thin/checkpoint", {"name": "demo"})
    lora = load_lora(server.loras / f"{answer['name']}.safetensors")
    assert {key.part for key in lora.pairs} == {"te1", "te2"}
    card = json.loads((server.loras / f"{answer['name']}.json").read_text("utf-8"))
    assert card["sd version"] == "SDXL"
    embedding = load_file(server.folder / "embeddings" / f"{answer['embedding']}.safetensors")
    assert {name: tensor.shape[1] for name, tensor in embedding.items()} == {
        "clip_l": 64,
        "clip_g": 128,
    }


def test_cancel_stops_a_run_and_nothing_is_written(server: WebuiServer) -> None:
    before = server.names()
    thread, answers = in_background(server, {**SMALL, "names": "owl", "steps": 5000})
    report = wait_for(server, "forgetting")
    assert report["active"]
    assert report["total"] == 5000
    assert report["loss"] > 0
    assert "owl" not in json.dumps(report)
    assert server.call(CANCEL, {}) == {"cancelled": 1}
    thread.join(60)
    assert answers[0].status == 409
    assert "Stopped as you asked" in answers[0].detail
    assert server.names() == before
    assert server.call(PROGRESS) == {"active": False, "waiting": 0}


def test_cancel_after_the_lora_was_written_keeps_it(server: WebuiServer) -> None:
    thread, answers = in_background(server, {**SMALL, "names": "bee", "measure": True})
    wait_for(server, "drawing before and after")
    server.call(CANCEL, {})
    thread.join(60)
    assert any("stopped after the LoRA was written" in line for line in answers[0]["lines"])
    assert f"{answers[0]['name']}.safetensors" in server.names()
    assert answers[0]["contact_sheet"] is None


def test_the_hosts_interrupt_stops_it_too_and_the_next_run_works(server: WebuiServer) -> None:
    thread, answers = in_background(server, {**SMALL, "names": "owl", "steps": 5000})
    wait_for(server, "forgetting")
    server.call("/sdapi/v1/interrupt", {})
    thread.join(60)
    assert answers[0].status == 409
    assert server.call(FORGET, {**SMALL, "names": "owl"})["name"] == "forget-owl"


def test_a_second_run_waits_for_the_first(server: WebuiServer) -> None:
    first, _ = in_background(server, {**SMALL, "names": "owl", "steps": 5000})
    wait_for(server, "forgetting")
    second, answers = in_background(server, {**SMALL, "names": "apple"})
    while server.call(PROGRESS)["waiting"] == 0:
        time.sleep(0.05)
    assert server.call(CANCEL, {}) == {"cancelled": 2}
    first.join(60)
    second.join(60)
    assert answers[0].status == 409


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ({"names": "dog", "out": "../x"}, 422, "Unknown: out"),
        ({"names": "dog", "steps": -1}, 422, "steps is -1"),
        ({"names": "dog", "pictures": ["/etc/passwd"]}, 422, "Picture 1"),
        ({"names": "dog", "pictures": [""] * 65}, 422, "65 pictures"),
        ({"names": "dog", "preset": "paper"}, 422, "need pictures"),
        ([], 422, "JSON object"),
        ({"names": "dog", "pictures": ["\u00e9"]}, 422, "not base64"),
        ({"names": "dog \udcff"}, 422, "half of a character"),
        ({"\udcff": 1}, 422, "Unknown"),
        ([[]] * 3000, 400, "more than 2000 times"),
    ],
)
def test_what_is_wrong_is_refused_in_words(
    server: WebuiServer, content: Any, status: int, words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        server.call(FORGET, content, method="POST")
    assert refused.value.status == status


def test_the_hosts_api_page_describes_the_request(server: WebuiServer) -> None:
    paths = server.call("/openapi.json")["paths"]
    assert {PROGRESS, CANCEL} < set(paths)
    asked = paths[FORGET]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "required" not in asked
    fields = asked["properties"]
    assert set(fields) == {item.name for item in dataclasses.fields(ForgetRequest)}
    assert all(field["description"] for field in fields.values())
    assert fields["pictures"]["maxItems"] == 64
    assert fields["preset"]["enum"] == list(PRESETS)


def test_a_name_that_looks_like_a_path_stays_in_the_folder(server: WebuiServer) -> None:
    answer = server.call(FORGET, {**SMALL, "names": "../../dog"})
    assert answer["name"].startswith("forget-dog")
    assert (server.loras / f"{answer['name']}.safetensors").exists()


def test_a_model_that_can_not_be_used_is_a_conflict(server: WebuiServer) -> None:
    if server.shape == "forge":
        pytest.skip("Forge takes --lowvram and does as it likes")
    server.call("/thin/options", {"lowvram": True})
    try:
        with pytest.raises(Refused, match="--medvram instead") as refused:
            server.call(FORGET, {**SMALL, "names": "dog"})
    finally:
        server.call("/thin/options", {"lowvram": False})
    assert refused.value.status == 409


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("login", [None, "me:wrong", "me:other", "nobody:secret", ":"])
@pytest.mark.parametrize("path", [FORGET, CANCEL, PROGRESS])
def test_without_the_hosts_login_nothing_is_answered(
    server: WebuiServer, path: str, login: str | None
) -> None:
    content = None if path == PROGRESS else {"names": "dog"}
    with pytest.raises(Refused) as refused:
        server.call(path, content, login)
    assert refused.value.status == 401


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("login", ["me:secret", "you:other"])
def test_with_a_login_it_is(server: WebuiServer, login: str) -> None:
    assert server.call(PROGRESS, login=login) == {"active": False, "waiting": 0}


def test_the_private_mode_leaves_no_word_behind(server: WebuiServer) -> None:
    asked = {**SMALL, "names": "strawberry", "stand_in": "sunflower", "private": True}
    answer = server.call(FORGET, asked)
    assert answer["name"].startswith("unlearned")
    written = list(server.loras.rglob(f"{answer['name']}.*"))
    assert {path.suffix for path in written} == {".safetensors", ".json"}
    for path in written:
        for word in (b"strawberry", b"sunflower"):
            assert word not in path.read_bytes()
    assert "strawberry" not in server.log


@pytest.mark.parametrize("kind", ["person", "unsafe"])
def test_hidden_kinds_leave_no_picture(server: WebuiServer, kind: str) -> None:
    answer = server.call(FORGET, {**SMALL, "names": "pizza", "kind": kind, "stand_in": "apple"})
    assert f"{answer['name']}.png" not in server.names()


def test_reload_ui_reads_the_code_again_and_nothing_failed(server: WebuiServer) -> None:
    assert "Traceback" not in server.log
    assert "does not start" not in server.log


def test_uploads_of_the_api_never_touch_the_disk(server: WebuiServer) -> None:
    folder = server.uploads
    before = list(folder.rglob("*")) if folder.exists() else []
    server.call(FORGET, {**SMALL, "names": "dog", "pictures": pictures()})
    after = list(folder.rglob("*")) if folder.exists() else []
    assert after == before
    assert not list(Path(server.folder).rglob("*.part"))
