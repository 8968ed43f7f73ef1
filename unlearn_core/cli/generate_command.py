"""What the command generate does: every check first, then the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import BadFile, Cancelled
from ..files.output_files import check_apart, check_writable, make_folder, png_bytes
from ..files.tensor_file import write_whole
from ..models.sampling import DEFAULT_GUIDANCE, DEFAULT_STEPS
from ..text.prompt_words import notes_on_embeddings, refuse_lora_tags
from . import generate as drawing
from .commands import Session, say_notes
from .generate import ChosenLora


def generate(
    session: Session,
    prompts: Sequence[str],
    out: Path,
    loras: Sequence[ChosenLora] = (),
    embeddings: Sequence[Path] = (),
    seed: int = 0,
    count: int = 1,
    size: tuple[int, int] | None = None,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    negative: str = "",
) -> None:
    """Draw the prompts into a folder that holds no PNG yet."""
    check_writable(out)
    check_apart([], (), session.place, [out])
    found = sorted(out.glob("*.[pP][nN][gG]"))
    if found:
        raise BadFile(
            f"{out} already holds {len(found)} PNG files, the first is {found[0].name}: choose a "
            "folder without, so that the pictures can't be mixed up."
        )
    loaded = drawing.load_loras(loras)
    for text in (*prompts, negative):
        refuse_lora_tags(text)
    model = session.load()
    for lora, _ in loaded:
        say_notes(session, lora)
    encoder = drawing.encoder_with_loras(model, loaded)
    vectors = drawing.load_embeddings(embeddings, encoder.width)
    read = prompts if guidance == 1 else (*prompts, negative)
    for note in notes_on_embeddings(read, list(vectors)):
        session.say(f"note: {note}")
    drawings = drawing.draw_prompts(
        model, prompts, encoder, seed, count, size or model.picture_size, steps, guidance,
        negative, vectors, session.monitor,
    )  # fmt: skip
    total, done = len(prompts) * count, 0
    make_folder(out)
    try:
        for drawn in drawings:
            name = drawing.picture_name(drawn, len(prompts), count)
            write_whole(out / name, png_bytes(drawn.pixels))
            done += 1
    except Cancelled as error:
        raise Cancelled(
            f"Stopped as you asked: {done} of {total} pictures are in {out}."
        ) from error
    session.say(f"written: {total} pictures in {out.absolute()}")
