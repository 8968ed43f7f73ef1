"""What each command does: every check first, then the work, then the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ..concept import Concept, Kind, Nameless, as_typed
from ..errors import BadConcept, BadFile, BadSettings, Cancelled
from ..files.input_files import is_file
from ..files.output_files import check_apart, check_tensor_file, make_folder
from ..files.pictures import left_out, read_pictures
from ..loaders.demo_model import demo_folder
from ..loaders.diffusers_model import DiffusersModel, load_model
from ..lora.file import load_lora, save_lora
from ..lora.weights import LoraWeights
from ..measuring.demo_judge import evaluation_judge
from ..measuring.evaluation import Evaluation, Judge, evaluate, with_lora
from ..measuring.forgotten import Forgotten, all_from_metadata
from ..measuring.headline import main_numbers, run_lines
from ..measuring.report import check_report_folder, report_paths, write_report
from ..models.lent_model import build_encoder
from ..names import split_typed
from ..progress import RunMonitor, stop_if_asked
from ..settings import UnlearnSettings, preset, presets_where
from ..text.embedding_file import check_embedding_file, save_embedding
from ..unlearn import UnlearnResult, learn_vectors, unlearn, unlearn_together
from .concept_list import pictures_of, read_list

DEMO = "demo"
Asked = TypeVar("Asked", bound=Concept | Nameless)
RECIPE = "It is a recipe for drawing the concept: keep it to yourself."


@dataclass(frozen=True)
class Session:
    """The model that was asked for, and where results and progress are shown."""

    say: Callable[[str], None]
    """Prints one line of results."""
    monitor: RunMonitor
    model: str = DEMO
    prediction: Literal["auto", "epsilon", "v"] = "auto"

    @property
    def place(self) -> Path:
        """The folder or the file of the model."""
        return demo_folder() / "model" if self.model == DEMO else Path(self.model)

    def load(self) -> DiffusersModel:
        """Load the model and say what it predicts."""
        model, line = load_model(self.model, self.prediction)
        self.say(line)
        return model

    def judge(self, kind: Kind) -> Judge | None:
        """Who names what a picture shows: only the demo model has one."""
        return evaluation_judge(kind) if self.model == DEMO else None


def make_concept(
    name: str,
    kind: Kind,
    synonyms: str = "",
    stand_in: str | None = None,
    keep: str = "",
) -> Concept:
    """A concept from words as they are typed."""
    return Concept.from_text(name, kind, synonyms, stand_in, keep)


def make_asked(
    name: str | None,
    kind: Kind,
    images: Path | None = None,
    synonyms: str = "",
    stand_in: str | None = None,
    keep: str = "",
) -> Concept | Nameless:
    """As `make_concept`; without a name pictures are needed, in which the model's word is found.

    The pictures are added by `with_pictures`.
    """
    asked = as_typed(name or "", kind, synonyms, stand_in, keep)
    if isinstance(asked, Nameless) and images is None:
        raise BadConcept(
            "Nothing says what is to be forgotten: give --concept NAME, or --images DIR with 4 or "
            "5 pictures of it, for which the model's own word is found."
        )
    return asked


def with_pictures(
    session: Session, asked: Asked, folder: Path | None, settings: UnlearnSettings
) -> Asked:
    """A concept with the pictures of a folder; each is read, those that are used are kept."""
    if folder is None:
        return asked
    note = left_out(folder)
    if note is not None:
        session.say(f"note: {note}")
    used = settings.uses_pictures or isinstance(asked, Nameless)
    return asked.replace(images=read_pictures(folder, used))  # type: ignore[return-value]


def forget(
    session: Session,
    concept: Concept | Nameless,
    settings: UnlearnSettings,
    out: Path,
    report: Path | None = None,
    embedding: Path | None = None,
    inputs: Sequence[Path] = (),
) -> tuple[UnlearnResult, Evaluation | None]:
    """Make a model forget a concept; write the LoRA, and if asked a report and the vectors.

    `inputs` are the files and folders that `concept` was read from.
    """
    check_tensor_file(out)
    if report is not None:
        check_report_folder(report)
    if embedding is not None:
        check_embedding_file(embedding)
        if not (concept.images and settings.learns_vectors):
            raise BadSettings(
                "--embedding saves what is learned from pictures: give --images, and a preset "
                f"that learns from them ({presets_where(learns_vectors=True)})."
            )
    files = [out, *([embedding] if embedding else ()), *(report_paths(report) if report else ())]
    check_apart(files, inputs, session.place, [report] if report else [])
    model = session.load()
    result = unlearn(model, concept, settings, session.monitor)
    result.check_moved()
    stop_if_asked(session.monitor)
    make_folder(out.parent)
    save_lora(result.lora, out)
    for line in run_lines(result):
        session.say(line)
    session.say(f"written: {out.absolute()}")
    if embedding is not None and result.learned is not None:
        make_folder(embedding.parent)
        save_embedding(result.learned.vectors, embedding)
        session.say(f"written: {embedding.absolute()}. {RECIPE}")
    if report is None:
        return result, None
    forgotten = Forgotten.from_result(result)
    try:
        evaluation = _report(session, model, forgotten, result.lora, report, settings.seed, result)
    except Cancelled as error:
        raise Cancelled(f"Stopped while measuring: {out} is written, the report is not.") from error
    return result, evaluation


def forget_together(session: Session, path: Path, settings: UnlearnSettings, out: Path) -> None:
    """Make a model forget every concept of a list in one run; write the one LoRA."""
    check_tensor_file(out)
    entries = read_list(path, settings, session.say)
    check_apart([out], [path, *pictures_of(entries)], session.place)
    concepts = [entry.read(settings) for entry in entries]
    result = unlearn_together(session.load(), concepts, settings, session.monitor)
    result.check_moved()
    stop_if_asked(session.monitor)
    make_folder(out.parent)
    save_lora(result.lora, out)
    for part in result.parts:
        names = ", ".join(part.names)
        session.say(f"forgotten: {names}; {part.stand_in.word} is drawn in its place")
    for note in result.notes:
        session.say(f"note: {note}")
    session.say(f"written: {out.absolute()}")


def learn(
    session: Session,
    concept: Concept,
    settings: UnlearnSettings,
    out: Path,
    inputs: Sequence[Path] = (),
) -> None:
    """Write the word vectors that mean what the pictures show (textual inversion).

    `inputs` are the files and folders that `concept` was read from.
    """
    check_embedding_file(out)
    check_apart([out], inputs, session.place)
    model = session.load()
    learned = learn_vectors(model, concept, settings, session.monitor)
    stop_if_asked(session.monitor)
    make_folder(out.parent)
    save_embedding(learned.vectors, out)
    session.say(
        f"in other styles the vectors draw {learned.explained:.0%} of what {concept.name!r} does"
    )
    if not learned.accepted:
        session.say("note: that is little; give more pictures, in different styles, or more steps.")
    session.say(f"written: {out.absolute()}. {RECIPE}")
    session.say(f"in prompts write: {out.stem}")


def measure(
    session: Session,
    lora_file: Path,
    report: Path,
    seed: int = 0,
    name: str | None = None,
    kind: Kind | None = None,
    synonyms: str = "",
    stand_in: str | None = None,
) -> Evaluation:
    """Compare the model with and without a LoRA; what is not given is read from the LoRA's file."""
    check_report_folder(report)
    check_apart(report_paths(report), [lora_file], session.place, [report])
    lora = load_lora(lora_file)
    say_notes(session, lora)
    try:
        parts = all_from_metadata(lora.metadata)
    except BadFile:
        if name is None:
            raise
        session.say(f"note: what {lora_file.name} says that it forgets can't be read.")
        parts = ()
    said = {part.concept.name.casefold(): part for part in parts}
    asked_names = split_typed(name or "")
    first = next(iter(said.values()), None)
    known = said.get(asked_names[0].casefold()) if asked_names else first
    if said and (known is None or (name is None and len(said) > 1)):
        listed = ", ".join(repr(part.concept.name) for part in said.values())
        session.say(f"note: {lora_file.name} says that it forgets {listed}.")
    if known is not None and name is None and len(said) > 1:
        session.say(f"measured here: {known.concept.name!r}; choose another with --concept.")
    if name is None and known is None:
        raise BadSettings(f"{lora_file} does not say what it forgets: give --concept.")
    if known is None:
        concept = make_concept(name or "", kind or "object", synonyms, stand_in)
    else:
        asked = make_concept(known.concept.name, "object", synonyms, stand_in)
        concept = known.concept.replace(
            kind=kind or known.concept.kind,
            synonyms=(*known.concept.synonyms, *asked.synonyms),
            stand_in=asked.stand_in or known.stand_in,
        )
    model = session.load()
    encoder = build_encoder(model)
    made_for = lora.metadata.get("unlearn_base_model_hash")
    if made_for is not None and made_for != encoder.fingerprint():
        session.say("note: this LoRA was made for another text encoder than this model's.")
    forgotten = Forgotten.by_nearness(encoder, concept, seed)
    if known is not None:
        names = tuple(dict.fromkeys((*concept.names, *known.names)))
        forgotten = dataclasses.replace(forgotten, names=names, kept=known.kept)
    session.say(f"stand-in: {forgotten.stand_in}; kept first: {', '.join(forgotten.kept)}")
    return _report(session, model, forgotten, lora, report, seed, None)


def say_notes(session: Session, lora: LoraWeights) -> None:
    """Say what was found while a LoRA file was read."""
    for note in lora.notes:
        session.say(f"note: {note}")


def demo(session: Session, out: Path) -> None:
    """Make the demo model forget its dog, and say in five lines where to look."""
    images = demo_folder() / "pictures" / "dog"
    settings = preset("balanced")
    concept = with_pictures(session, make_concept("dog", "object", "puppy"), images, settings)
    lora, report = out / "forget-dog.safetensors", out / "report"
    quiet = dataclasses.replace(session, say=lambda _: None)
    if is_file(lora):
        made_for = load_lora(lora).metadata.get("unlearn_base_model_hash")
        if made_for != build_encoder(quiet.load()).fingerprint():
            raise BadFile(f"{lora} is not of the demo and would be replaced: choose another --out.")
    _, evaluation = forget(quiet, concept, settings, lora, report)
    assert evaluation is not None
    session.say(f"LoRA: {lora} (the demo model forgets dog and puppy)")
    session.say(f"pictures and numbers: {report} (begin with contact-sheet.png)")
    for line in main_numbers(evaluation):
        session.say(line)


def _report(
    session: Session,
    model: DiffusersModel,
    forgotten: Forgotten,
    lora: LoraWeights,
    folder: Path,
    seed: int,
    result: UnlearnResult | None,
) -> Evaluation:
    judge = session.judge(forgotten.concept.kind)
    weights_at = with_lora(model.text_encoder_weights(), lora)
    evaluation = evaluate(model, forgotten, weights_at, seed, session.monitor, judge)
    stop_if_asked(session.monitor)
    paths = write_report(folder, evaluation, result)
    for line in main_numbers(evaluation):
        session.say(line)
    for path in paths:
        session.say(f"written: {path.absolute()}")
    return evaluation
