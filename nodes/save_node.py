"""The node Save Unlearning LoRA."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ..unlearn_core.errors import BadConcept, BadSettings
from ..unlearn_core.files.file_names import safe_file_name, unused_name
from ..unlearn_core.files.output_files import make_folder, png_bytes
from ..unlearn_core.files.tensor_file import write_whole
from ..unlearn_core.lora.file import lora_bytes
from ..unlearn_core.lora.weights import LoraWeights
from ..unlearn_core.reporting.sheets import HIDDEN_KINDS
from ..unlearn_core.text.embedding_file import free_embedding_name, load_embedding, save_embedding
from .comfy_files import WrittenFiles, output_folder, workflow_texts
from .node_api import found_by, io
from .values import CATEGORY, LoraWire, UnlearnedLora, said

NAME_MARK = "%concept%"
_WRITTEN = WrittenFiles()


class SaveUnlearningLora(io.ComfyNode):
    """Writes the LoRA where the stock loaders look for it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            **found_by("erase concept", "unlearn", "export lora", "save embedding"),
            node_id="UnlearnSaveLora",
            display_name="Save Unlearning LoRA",
            category=CATEGORY,
            description="Writes the LoRA into models/loras, with a picture of what is drawn "
            "afterwards beside it. Load it with ComfyUI's own Load LoRA or with Load Text-Encoder "
            "LoRA. The pictures and the learned vectors never enter the file; the concept's name "
            "does.",
            inputs=[
                LoraWire.Input("unlearn_lora", tooltip="From Forget Concept."),
                io.String.Input(
                    "filename",
                    default=f"unlearn/forget-{NAME_MARK}",
                    tooltip=f"Name below models/loras; {NAME_MARK} becomes the concept's name. A "
                    "name that is taken by another LoRA gets -2, -3 and so on.",
                ),
                io.Boolean.Input(
                    "save_embedding",
                    default=False,
                    tooltip="Also write the learned vectors into models/embeddings. They are a "
                    "recipe for drawing the concept: keep them to yourself.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="On: the LoRA of that name and its picture are replaced, so that what "
                    "loads the name has the newest.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="lora_name", tooltip="The name that the LoRA loaders show."
                ),
                LoraWire.Output(
                    display_name="unlearn_lora",
                    tooltip="The same LoRA, once its file is written: with it Measure Forgetting "
                    "runs after this node, and the file is there whatever happens later.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> int:
        """Another number where a file is gone or was replaced: then it is written again.

        Else the same one, so that what comes after this node is not run again.
        """
        return _WRITTEN.changes()

    @classmethod
    def execute(
        cls,
        unlearn_lora: UnlearnedLora,
        filename: str,
        save_embedding: bool,
        overwrite: bool = False,
    ) -> io.NodeOutput:
        """Write the files, unless the same LoRA is there already."""
        result = unlearn_lora.result
        if save_embedding and result.learned is None:
            raise BadSettings(
                "save_embedding is on, but no vectors were learned: put Invert Concept, with the "
                "pictures, before Forget Concept."
            )
        root = output_folder("loras")
        wanted = root / relative_name(filename, result.concept.name)
        plain = wanted.with_name(f"{wanted.name}.safetensors")
        path = plain if overwrite else _place(wanted, result.lora)
        picture = path.with_suffix(".png")
        make_folder(path.parent)
        if overwrite or not path.exists():
            write_whole(path, lora_bytes(result.lora, path.stem))
            if overwrite:
                picture.unlink(missing_ok=True)
        _WRITTEN.note(path)
        if unlearn_lora.preview is not None and not picture.exists():
            texts = {} if result.concept.kind in HIDDEN_KINDS else workflow_texts(cls.hidden)
            write_whole(picture, png_bytes(unlearn_lora.preview, texts=texts))
        name = path.relative_to(root).as_posix()
        text = [f"models/loras/{name}"]
        if save_embedding:
            text.append(_save_vectors(unlearn_lora))
        return io.NodeOutput(name, unlearn_lora, ui=said("\n".join(text), result.concept.kind))


def relative_name(filename: str, concept: str) -> PurePosixPath:
    """What the user typed as a path below a folder, each part a safe name; no ending.

    Raises BadConcept where the concept's name has no letters or digits, and BadSettings for a part
    of the file name without them, such as "..".
    """
    filled = filename.replace(NAME_MARK, safe_file_name(concept)).removesuffix(".safetensors")
    parts = [part for part in re.split(r"[/\\]+", filled) if part]
    return PurePosixPath(*(_safe_part(part, filename) for part in parts or [f"forget {concept}"]))


def _safe_part(part: str, filename: str) -> str:
    try:
        return safe_file_name(part)
    except BadConcept as error:
        raise BadSettings(
            f"The file name {filename[:80]!r} can't be used: its part {part[:40]!r} has no letters "
            f"or digits. Write a name below models/loras, such as unlearn/forget-{NAME_MARK}."
        ) from error


def _place(wanted: Path, lora: LoraWeights) -> Path:
    """The first path that is free, its picture's too, or the one that holds this very LoRA."""

    def is_taken(stem: str) -> bool:
        path = wanted.with_name(f"{stem}.safetensors")
        if path.is_file():
            return path.read_bytes() != lora_bytes(lora, stem)
        return path.exists() or path.with_suffix(".png").exists()

    return wanted.with_name(f"{unused_name(wanted.name, is_taken)}.safetensors")


def _save_vectors(unlearn_lora: UnlearnedLora) -> str:
    result = unlearn_lora.result
    assert result.learned is not None
    folder = output_folder("embeddings")
    make_folder(folder)
    learned, concept = result.learned, result.concept.name
    mine = folder.glob(f"forget-{safe_file_name(concept)}-concept*.safetensors")
    same = [path.stem for path in sorted(mine) if load_embedding(path).equal(learned.vectors)]
    name = same[0] if same else free_embedding_name(concept, folder)
    if not same:
        save_embedding(learned.vectors, folder / f"{name}.safetensors", learned.widths)
    _WRITTEN.note(folder / f"{name}.safetensors")
    return f"models/embeddings/{name}.safetensors; in prompts: embedding:{name}"
