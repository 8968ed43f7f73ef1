"""The ComfyUI pack in a real ComfyUI, on the CPU, with the demo model."""

from __future__ import annotations

import json
import re
import shlex
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_host import ROOT, VERSION, ComfyServer, Failed, Graph, error_of, install
from node_texts import shown
from PIL import Image

from unlearn_core.lora.file import load_lora
from unlearn_core.settings import PRESETS

pytestmark = pytest.mark.host
NODES = {
    "UnlearnConcept", "UnlearnDemoModel", "UnlearnForget", "UnlearnInvert", "UnlearnLoadLora",
    "UnlearnMeasure", "UnlearnSaveLora", "UnlearnSettings",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A ComfyUI of its own for this file."""
    server = ComfyServer(tmp_path_factory.mktemp("comfyui"))
    yield server
    server.stop()


def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
    """One node of a graph."""
    return {"class_type": class_type, "inputs": inputs}


def forget_graph(preset: str = "quick", family: str = "sd2", **concept: str) -> Graph:
    """Load a demo model and forget, with few steps from a solution that forgets already."""
    words = {"name": "dog", "kind": "object", "synonyms": "", "stand_in": "", "keep": ""}
    small = PRESETS[preset].replace(
        steps=4, forget_prompts=16, keep_prompts=16, batch_size=4, stand_in_pictures=0,
        inversion_steps=2, inversion_batch=2, caption_styles=2, closed_form=True,
    ).as_dict()  # fmt: skip
    small.pop("seed")
    return {
        "demo": node("UnlearnDemoModel", pictures="dog", family=family),
        "concept": node("UnlearnConcept", **{**words, **concept}),
        "settings": node("UnlearnSettings", **small),
        "forget": node(
            "UnlearnForget", clip=["demo", 1], concept=["concept", 0], preset=preset, seed=0,
            ignore_other_loras=False, model=["demo", 0], vae=["demo", 2], settings=["settings", 0],
        ),
        "save": node(
            "UnlearnSaveLora", unlearn_lora=["forget", 1], filename="test/forget-%concept%",
            save_embedding=False,
        ),
    }  # fmt: skip


def test_the_pack_is_loaded_without_heavy_packages_and_every_input_is_explained(
    server: ComfyServer,
) -> None:
    assert "is imported by the pack" not in server.log
    info = server.get("object_info")
    assert {name for name in info if name.startswith("Unlearn")} == NODES
    for name in NODES:
        inputs = info[name]["input"]
        for group in ("required", "optional"):
            for key, (_, options) in inputs.get(group, {}).items():
                assert options.get("tooltip"), f"{name}.{key} has no tooltip"
        assert info[name]["category"] in ("unlearn", "unlearn/advanced", "unlearn/demo")
        assert info[name]["description"]


def default_said(key: str, group: str, options: dict[str, Any]) -> str:
    """What a help page says in brackets behind an input."""
    if "default" in options:
        return shown(options["default"])
    if group == "optional":
        return "optional"
    return "the first one" if key == "lora_name" else "needed"


def test_help_pages_have_the_defaults_that_the_nodes_have(server: ComfyServer) -> None:
    for name, node in server.get("object_info").items():
        if name not in NODES:
            continue
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text("utf-8")
        listed = dict(re.findall(r"^- `(\w+)` \((?:default )?(.+?)\): ", page, re.MULTILINE))
        assert listed == {
            key: default_said(key, group, options)
            for group in ("required", "optional")
            for key, (_, options) in node["input"].get(group, {}).items()
        }


@pytest.mark.parametrize("name", ["UnlearnForget.md", "UnlearnForget/zh.md", "UnlearnForget.png"])
def test_the_help_is_where_the_page_looks_for_it(server: ComfyServer, name: str) -> None:
    address = f"{server.address}/extensions/sd-unlearn/docs/{name}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.read() == (ROOT / "web" / "docs" / name).read_bytes()


@pytest.mark.skipif(
    tuple(map(int, VERSION.split("."))) < (0, 11), reason="ComfyUI 0.11 is the first that knows it"
)
def test_every_node_is_found_by_other_words_and_rare_inputs_are_folded_away(
    server: ComfyServer,
) -> None:
    info = server.get("object_info")
    assert all(info[name]["search_aliases"] for name in NODES)
    rows = info["UnlearnForget"]["input"]["required"]
    folded = {key for key, (_, options) in rows.items() if options.get("advanced")}
    assert folded == {"ignore_other_loras"}


def test_the_time_said_is_that_of_the_whole_node(server: ComfyServer) -> None:
    graph = forget_graph(name="fox")
    server.run(
        {"demo": graph["demo"], "shown": node("PreviewImage", images=["demo", 3])}
    )  # so that the demo model is loaded, and Forget Concept the first to import what it needs
    entry = server.wait(server.queue(graph))
    times = {kind: said["timestamp"] / 1000 for kind, said in entry["status"]["messages"]}
    said = re.search(r"took (?:(\d+) min )?(\d+) s$", entry["outputs"]["forget"]["text"][0])
    assert said
    assert 60 * int(said[1] or 0) + int(said[2]) == pytest.approx(
        times["execution_success"] - times["execution_start"], abs=2.0
    )


def test_the_settings_node_offers_the_engines_settings(server: ComfyServer) -> None:
    inputs = server.get("object_info")["UnlearnSettings"]["input"]["required"]
    defaults = PRESETS["balanced"].as_dict()
    assert set(inputs) == set(defaults) - {"seed"}
    assert {key: options["default"] for key, (_, options) in inputs.items()} == {
        key: value for key, value in defaults.items() if key != "seed"
    }


def test_a_saved_lora_loads_with_the_stock_loader_and_all_its_keys(server: ComfyServer) -> None:
    shown = server.run(forget_graph())
    assert shown["save"]["text"] == ["models/loras/test/forget-dog.safetensors"]
    file = server.folder / "models" / "loras" / "test" / "forget-dog.safetensors"
    lora = load_lora(file)
    assert lora.metadata["unlearn_concept"] == "dog"
    assert file.with_suffix(".png").exists()
    assert "test/forget-dog.safetensors" in str(server.get("object_info/LoraLoader"))
    pictures = [server.run(drawing_graph(strength)) for strength in (0.0, 1.0)]
    assert "not loaded" not in server.log.lower()
    first, second = (output_bytes(server, shown["save"]) for shown in pictures)
    assert first != second


@pytest.mark.parametrize(
    ("family", "version", "said"),
    [
        ("sd1", "sd_v1", "changes 6 projections in layers 5 to 5"),
        (
            "sdxl",
            "sdxl_base_v1-0",
            "changes 6 projections in layers 4 to 4 of the first text encoder\n"
            "changes 12 projections in layers 5 to 6 of the second text encoder",
        ),
    ],
)
def test_another_family_forgets_and_its_lora_and_vectors_load_with_the_stock_nodes(
    server: ComfyServer, family: str, version: str, said: str
) -> None:
    graph = forget_graph("balanced", family=family)
    graph["settings"]["inputs"]["layers"] = "last:1"
    graph["invert"] = invert_node()
    graph["forget"]["inputs"]["concept"] = ["invert", 0]
    name = f"{family}/forget-dog"
    graph["save"]["inputs"] |= {"save_embedding": True, "filename": name}
    lines = server.run(graph)["save"]["text"][0].splitlines()
    assert lines[0] == f"models/loras/{name}.safetensors"
    assert load_lora(server.folder / lines[0]).metadata["ss_base_model_version"] == version
    word = lines[1].partition("in prompts: ")[2]
    graphs = [
        drawing_graph(strength, family, f"{name}.safetensors", text)
        for strength, text in ((0.0, "a dog"), (1.0, "a dog"), (0.0, f"a {word}"))
    ]
    shown = [server.run(graph) for graph in graphs]
    assert shown[0]["again"]["text"] == [said]
    assert len({output_bytes(server, each["save"]) for each in shown}) == 3
    assert "not loaded" not in server.log.lower()
    assert "shape mismatch" not in server.log


def test_a_turbo_model_is_drawn_in_another_way_and_forgets_the_same(server: ComfyServer) -> None:
    files = []
    for folder, turbo in (("guided", False), ("turbo", True)):
        graph = forget_graph()
        graph["forget"]["inputs"]["turbo"] = turbo
        graph["save"]["inputs"]["filename"] = f"{folder}/forget-dog"
        server.run(graph)
        files.append(server.folder / "models" / "loras" / folder / "forget-dog.safetensors")
    assert len({file.read_bytes() for file in files}) == 1
    assert len({file.with_suffix(".png").read_bytes() for file in files}) == 2


def test_a_picture_that_is_there_already_is_left_alone(server: ComfyServer) -> None:
    folder = server.folder / "models" / "loras" / "other"
    folder.mkdir(parents=True)
    (folder / "forget-dog.png").write_bytes(b"somebody's picture")
    graph = forget_graph()
    graph["save"]["inputs"]["filename"] = "other/forget-dog"
    shown = server.run(graph)
    assert shown["save"]["text"] == ["models/loras/other/forget-dog-2.safetensors"]
    assert (folder / "forget-dog.png").read_bytes() == b"somebody's picture"
    assert {path.name for path in folder.iterdir()} == {
        "forget-dog.png", "forget-dog-2.png", "forget-dog-2.safetensors",
    }  # fmt: skip


def drawing_graph(
    strength: float,
    family: str = "sd2",
    lora: str = "test/forget-dog.safetensors",
    text: str = "a photo of a dog",
) -> Graph:
    """A picture of the concept with the saved LoRA on both loaders, one after the other."""
    return {
        "demo": node("UnlearnDemoModel", pictures="dog", family=family),
        "lora": node(
            "LoraLoader", model=["demo", 0], clip=["demo", 1], strength_model=1.0,
            lora_name=lora, strength_clip=strength,
        ),
        "again": node(
            "UnlearnLoadLora", clip=["lora", 1], lora_name=lora, strength=0.0,
        ),
        "prompt": node("CLIPTextEncode", text=text, clip=["again", 0]),
        "empty": node("CLIPTextEncode", text="", clip=["again", 0]),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler", model=["lora", 0], seed=1, steps=4, cfg=5.0, sampler_name="ddim",
            scheduler="normal", positive=["prompt", 0], negative=["empty", 0],
            latent_image=["latent", 0], denoise=1.0,
        ),
        "pixels": node("VAEDecode", samples=["sampler", 0], vae=["demo", 2]),
        "save": node("SaveImage", images=["pixels", 0], filename_prefix="drawn"),
    }  # fmt: skip


def output_bytes(server: ComfyServer, shown: dict[str, Any]) -> bytes:
    """The pixels of a saved picture."""
    from PIL import Image

    image = shown["images"][0]
    with Image.open(server.folder / "output" / image["subfolder"] / image["filename"]) as picture:
        return picture.tobytes()


def test_an_unchanged_graph_is_not_trained_again(server: ComfyServer) -> None:
    server.run(forget_graph())
    entry = server.wait(server.queue(forget_graph()))
    messages = dict(entry["status"]["messages"])
    assert "forget" in messages["execution_cached"]["nodes"]
    folder = server.folder / "models" / "loras" / "test"
    assert [path.name for path in folder.glob("*dog*.safetensors")] == ["forget-dog.safetensors"]


def test_what_follows_saving_runs_again_only_where_the_file_is_gone(server: ComfyServer) -> None:
    graph = forget_graph()
    graph["save"]["inputs"]["filename"] = "test/passed-on"
    graph["next"] = node("PreviewAny", source=["save", 1])
    file = server.folder / "models" / "loras" / "test" / "passed-on.safetensors"
    server.run(graph)
    content = file.read_bytes()
    assert cached(server, graph) >= {"forget", "save", "next"}
    for each in (file, file.with_suffix(".png")):
        each.unlink()
    assert cached(server, graph) & {"forget", "save", "next"} == {"forget"}
    assert file.read_bytes() == content
    assert cached(server, graph) >= {"forget", "save", "next"}


def cached(server: ComfyServer, graph: Graph) -> set[str]:
    """Run a graph; which nodes' results were still there."""
    entry = server.wait(server.queue(graph))
    assert entry["status"]["status_str"] == "success", error_of(entry)
    return set(dict(entry["status"]["messages"])["execution_cached"]["nodes"])


def test_what_the_packs_wires_carry_is_short_as_text(server: ComfyServer) -> None:
    graph = forget_graph("balanced", synonyms="puppy")
    graph["invert"] = invert_node()
    graph["forget"]["inputs"] |= {"concept": ["invert", 0], "images": ["demo", 3]}
    wires = ("concept", "invert", "settings", "forget")
    for wire in wires:
        graph[f"{wire} as text"] = node("PreviewAny", source=[wire, int(wire == "forget")])
    shown = server.run(graph)
    texts = {wire: shown[f"{wire} as text"]["text"][0] for wire in wires}
    assert texts["concept"].startswith("to forget: dog, puppy (object)\n")
    assert texts["invert"] == f"{texts['concept']}\nlearned from 5 pictures"
    assert texts["settings"].startswith("the preset balanced, but\nsteps: 4\n")
    assert texts["forget"].startswith("forgotten: dog, puppy")
    assert max(map(len, texts.values())) < 2000
    assert all("tensor" not in text for text in texts.values())


def test_pictures_are_inverted_and_the_vectors_never_enter_the_lora(server: ComfyServer) -> None:
    graph = forget_graph("balanced")
    graph["invert"] = invert_node()
    graph["forget"]["inputs"]["concept"] = ["invert", 0]
    graph["save"]["inputs"] |= {"save_embedding": True, "filename": "test/with-pictures"}
    shown = server.run(graph)
    assert "embedding:forget-dog-concept" in shown["save"]["text"][0]
    assert (server.folder / "models" / "embeddings" / "forget-dog-concept.safetensors").exists()
    file = server.folder / "models" / "loras" / "test" / "with-pictures.safetensors"
    assert all("lora_te" in name for name in tensor_names(file))


def tensor_names(file: Path) -> list[str]:
    """Names in a safetensors file."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def test_invert_concept_hands_its_vectors_on(server: ComfyServer) -> None:
    graph = forget_graph("balanced", name="cat")
    graph["invert"] = invert_node()
    graph["forget"]["inputs"]["concept"] = ["invert", 0]
    del graph["forget"]["inputs"]["vae"]  # the pictures are not read a second time
    graph["curve"] = node("PreviewImage", images=["invert", 1])
    shown = server.run(graph)
    assert "the vectors draw" in shown["invert"]["text"][0]
    assert shown["curve"]["images"]


def invert_node() -> dict[str, Any]:
    """Two steps on the demo model's five pictures."""
    return node(
        "UnlearnInvert", model=["demo", 0], clip=["demo", 1], vae=["demo", 2], images=["demo", 3],
        concept=["concept", 0], steps=2, seed=0, settings=["settings", 0],
    )  # fmt: skip


def test_cancel_stops_at_once_and_the_next_prompt_runs(server: ComfyServer) -> None:
    graph = forget_graph(name="owl")
    graph["settings"]["inputs"]["steps"] = 5000
    prompt = server.queue(graph)
    while not server.get("queue")["queue_running"]:
        time.sleep(0.1)
    time.sleep(3)
    server.post("interrupt", {})
    entry = server.wait(prompt, 30)
    assert error_of(entry) == "interrupted"
    assert not list((server.folder / "models" / "loras" / "test").glob("*owl*"))
    assert server.run(forget_graph(name="owl"))


HOSTILE = [
    ({"name": ""}, "no name"),
    ({"name": "dog " * 50}, "tokens long"),
    ({"name": "the"}, "stands in nearly every prompt"),
    ({"name": "dog", "stand_in": "dog"}, "is the concept itself"),
    ({"name": "dog, pig", "stand_in": "pig"}, "is the concept itself"),
    ({"name": "dog", "stand_in": "pig, cat"}, "the stand-in names 2: pig, cat"),
    ({"name": "dog", "stand_in": "zzyzx"}, "no word vector"),
]


@pytest.mark.parametrize(("words", "said"), HOSTILE)
def test_bad_words_get_a_clear_sentence(
    server: ComfyServer, words: dict[str, str], said: str
) -> None:
    with pytest.raises(Failed, match=said):
        server.run(forget_graph(**words))


def test_every_name_between_commas_is_forgotten(server: ComfyServer) -> None:
    shown = server.run(forget_graph(name='"dog", (puppy:1.2)', synonyms="hound"))
    assert shown["forget"]["text"][0].startswith("forgotten: dog, puppy, hound")
    assert shown["save"]["text"][0].startswith("models/loras/test/forget-dog")


@pytest.mark.parametrize(
    ("name", "stem"), [("cat/../../dog", "forget-cat-dog"), ("🐶", "forget-dog-face")]
)
def test_odd_names_become_safe_file_names(server: ComfyServer, name: str, stem: str) -> None:
    shown = server.run(forget_graph(name=name))
    assert shown["save"]["text"] == [f"models/loras/test/{stem}.safetensors"]


def test_a_file_name_cannot_leave_the_folder(server: ComfyServer) -> None:
    graph = forget_graph()
    graph["save"]["inputs"]["filename"] = "../../outside"
    with pytest.raises(Failed, match=r"The file name '../../outside' can't be used: its part '..'"):
        server.run(graph)


@pytest.mark.parametrize("last", [-1, -24])
def test_a_last_layer_that_sd2_never_uses_is_refused_with_those_that_can_be_set(
    server: ComfyServer, last: int
) -> None:
    graph = forget_graph()
    graph["layer"] = node("CLIPSetLastLayer", clip=["demo", 1], stop_at_clip_layer=last)
    graph["forget"]["inputs"]["clip"] = ["layer", 0]
    with pytest.raises(Failed, match=r"its last layer of 7 makes.* between -2 and -7\."):
        server.run(graph)


def test_a_folder_of_pictures_of_any_sizes_is_one_concept(server: ComfyServer) -> None:
    """ComfyUI's node gives a list, for which it would run most nodes once a picture."""
    folder = server.folder / "input" / "dogs"
    folder.mkdir(parents=True)
    for number, size in enumerate(((64, 64), (96, 80))):
        with Image.open(ROOT / f"demo/pictures/dog/{number}.png") as picture:
            picture.resize(size).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("dog", "utf-8")
    graph = forget_graph("balanced")
    graph["folder"] = node("LoadImageDataSetFromFolder", folder="dogs")
    graph["forget"]["inputs"]["images"] = ["folder", 0]
    graph["invert"] = node(
        "UnlearnInvert", model=["demo", 0], clip=["demo", 1], vae=["demo", 2],
        images=["folder", 0], concept=["concept", 0], steps=2, seed=0,
    )  # fmt: skip
    graph["curve"] = node("PreviewImage", images=["invert", 1])
    shown = server.run(graph)
    assert [len(shown[name]["text"]) for name in ("forget", "invert", "save")] == [1, 1, 1]
    graph["names"] = node("LoadImageTextDataSetFromFolder", folder="dogs")
    graph["concept"]["inputs"]["name"] = ["names", 1]
    with pytest.raises(Failed, match="concept is a list of 2; wire one"):
        server.run(graph)


def test_overwriting_keeps_the_name_and_replaces_the_picture(server: ComfyServer) -> None:
    graph = forget_graph()
    graph["save"]["inputs"] |= {"filename": "over/forget-dog", "overwrite": True}
    server.run(graph)
    folder = server.folder / "models" / "loras" / "over"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    graph["forget"]["inputs"]["seed"] = 1
    assert server.run(graph)["save"]["text"] == ["models/loras/over/forget-dog.safetensors"]
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys() == {"forget-dog.safetensors", "forget-dog.png"}
    assert all(after[name] != before[name] for name in before)


def test_a_picture_of_one_pixel_and_no_picture_get_a_clear_sentence(server: ComfyServer) -> None:
    graph = forget_graph("balanced")
    graph["pixel"] = node("EmptyImage", width=1, height=1, batch_size=1, color=0)
    graph["forget"]["inputs"]["images"] = ["pixel", 0]
    with pytest.raises(Failed, match="1x1 pixels; at least 32"):
        server.run(graph)
    graph = forget_graph("paper")
    with pytest.raises(Failed, match="need pictures of the concept"):
        server.run(graph)


def test_without_model_the_quick_preset_runs_and_the_others_say_what_is_missing(
    server: ComfyServer,
) -> None:
    graph = forget_graph(name="bus")
    for wire in ("model", "vae"):
        del graph["forget"]["inputs"][wire]
    assert server.run(graph)
    graph["forget"]["inputs"]["preset"] = "balanced"
    del graph["forget"]["inputs"]["settings"]
    with pytest.raises(Failed, match="MODEL is not connected"):
        server.queue(graph)  # before anything is loaded
    graph["forget"]["inputs"]["model"] = ["demo", 0]
    assert server.queue(graph)
    server.post("interrupt", {})
    graph["forget"]["inputs"]["preset"] = "paper"
    with pytest.raises(Failed, match="VAE is not connected"):
        server.queue(graph)
    graph["forget"]["inputs"]["preset"] = "fast"
    with pytest.raises(Failed, match="There is no preset 'fast': choose quick, balanced"):
        server.queue(graph)


def test_a_second_run_equals_the_first_whatever_was_sampled_between_them(
    server: ComfyServer,
) -> None:
    graph = forget_graph("balanced")
    graph["invert"] = invert_node()  # learns through the UNet
    graph["forget"]["inputs"]["concept"] = ["invert", 0]
    graph["save"]["inputs"]["save_embedding"] = True
    files, embeddings = set(), set()
    for number, blanks in (("first", ""), ("second", " "), ("third", "  ")):
        if number == "third":
            server.run(other_sampling())
        # Blanks make it another graph with the same concept, on the demo model that is there.
        graph["concept"]["inputs"]["synonyms"] = blanks
        graph["save"]["inputs"]["filename"] = f"{number}/forget-dog"
        entry = server.wait(server.queue(graph))
        assert entry["status"]["status_str"] == "success", error_of(entry)
        kept = dict(entry["status"]["messages"])["execution_cached"]["nodes"]
        assert "forget" not in kept
        assert "demo" in kept or number == "first"
        file, embedding = entry["outputs"]["save"]["text"][0].splitlines()
        files.add((server.folder / file).read_bytes())
        embeddings.add(embedding)  # the same vectors are not written twice
    assert len(files) == len(embeddings) == 1


def other_sampling() -> Graph:
    """A picture on another noise schedule and prediction than the demo model's own."""
    graph = drawing_graph(0.0)
    for name in ("lora", "again", "save"):
        del graph[name]
    for name in ("prompt", "empty"):
        graph[name]["inputs"]["clip"] = ["demo", 1]
    graph["schedule"] = node("ModelSamplingDiscrete", model=["demo", 0], sampling="eps", zsnr=True)
    graph["sampler"]["inputs"]["model"] = ["schedule", 0]
    graph["shown"] = node("PreviewImage", images=["pixels", 0])
    return graph


def test_a_last_layer_that_leaves_the_lora_without_effect_is_noted(server: ComfyServer) -> None:
    graph = forget_graph(name="owl")
    came_from = "forget"
    for last in (-2, -4):
        graph[f"at {last}"] = node("CLIPSetLastLayer", clip=[came_from, 0], stop_at_clip_layer=last)
        graph[f"shown {last}"] = node("CLIPTextEncode", clip=[f"at {last}", 0], text="an owl")
        graph[f"as text {last}"] = node("PreviewAny", source=[f"shown {last}", 0])
        came_from = f"at {last}"
    report = server.run(graph)["forget"]["text"][0]
    assert report.count("comes after this node") == 1
    assert "note: CLIP Set Last Layer -4 comes after this node. It stops at layer 3 " in report


@pytest.mark.parametrize(
    ("wires", "missing"), [({"model": 0}, "VAE"), ({"vae": 2}, "MODEL"), ({}, "MODEL")]
)
def test_a_missing_wire_is_told_before_anything_is_computed(
    server: ComfyServer, wires: dict[str, int], missing: str
) -> None:
    graph = forget_graph("balanced", stand_in="zzyzx")  # which the first look at words refuses
    inputs = graph["forget"]["inputs"]
    for wire in ("model", "vae"):
        del inputs[wire]
    inputs |= {name: ["demo", slot] for name, slot in wires.items()} | {"images": ["demo", 3]}
    with pytest.raises(Failed, match=f"^{missing} is not connected"):
        server.run(graph)


def test_measuring_shows_a_sheet_and_numbers(server: ComfyServer) -> None:
    graph = forget_graph(name="dog", synonyms="puppy")
    graph["measure"] = node(
        "UnlearnMeasure", model=["demo", 0], clip_before=["demo", 1], clip_after=["forget", 0],
        vae=["demo", 2], concept=["concept", 0], seed=0, unlearn_lora=["forget", 1],
    )  # fmt: skip
    graph["curve"] = node("PreviewImage", images=["measure", 1])
    shown = server.run(graph)
    assert shown["measure"]["images"]
    assert "forgotten: dog, puppy seen by a classifier in" in shown["measure"]["text"][0]


def test_without_peft_the_log_and_forget_concept_say_how_to_install_it(
    tmp_path: Path,
) -> None:
    python, packages = install(), tmp_path / "packages"
    packages.mkdir()
    file = next(python.parents[1].glob("lib/python3.*/site-packages/lent.pth"))
    lent = file.read_text("utf-8").splitlines()
    for entry in (entry for folder in lent for entry in Path(folder).iterdir()):
        if not entry.name.startswith("peft") and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.path[:] = [p for p in sys.path if p not in {lent}] + [{str(packages)!r}]",
        "utf-8",
    )
    requirements = str(ROOT / "requirements.txt")
    command = shlex.join([str(python), "-m", "pip", "install", "-r", requirements])
    server = ComfyServer(tmp_path / "comfyui", str(tmp_path))
    try:
        lines = [line for line in server.log.splitlines() if "peft is not installed" in line]
        assert len(lines) == 1
        assert lines[0].startswith("SD Unlearn: The package peft")
        assert lines[0].endswith(command)
        with pytest.raises(Failed, match=rf"peft is not installed.*{re.escape(command)}"):
            server.run(forget_graph())
    finally:
        server.stop()
