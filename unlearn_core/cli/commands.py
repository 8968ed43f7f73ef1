"""What each command does: every check first, then the work, then the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..concept import Concept, Kind, Nameless
from ..errors import BadFile, BadSettings, Cancelled
from ..files.input_files import file_digest, is_file
from ..files.output_files import check_apart, check_tensor_file, make_folder
from ..forgetting.unlearn import UnlearnResult, learn_vectors, unlearn
from ..loaders.demo_model import DEMOS, demo_folder, demo_model_folder
from ..loaders.diffusers_model import DiffusersModel, load_model
from ..lora.file import load_lora, save_lora
from ..lora.metadata import BASE_MODEL, Forgotten, all_from_metadata
from ..lora.weights import LoraWeights
from ..measuring.evaluation import Evaluation, evaluate, forgotten_by_nearness
from ..measuring.judge import Judge, evaluation_judge
from ..measuring.scaled_encoder import ScaledEncoder
from ..models.lent_model import build_encoder
from ..names import split_typed
from ..progress import RunMonitor, stop_if_asked
from ..reporting.lines import headline, main_numbers, run_lines
from ..reporting.report import check_report_folder, report_paths, write_report
from ..settings import UnlearnSettings, preset, presets_where
from ..text.embedding_file import check_embedding_file, save_embedding
from ..unet_lora.deepen import check_deep, deepen
from ..unet_lora.settings import DeepSettings
from .concepts import measured_concept, with_pictures

DEMO = "demo"
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
        return demo_model_folder(self.model) if self.model in DEMOS else Path(self.model)

    def load(self) -> DiffusersModel:
        """Load the model and say what it predicts."""
        model, line = load_model(self.model, self.prediction)
        self.say(line)
        return model

    def say_notes(self, lora: LoraWeights) -> None:
        """Say what was found while a LoRA file was read."""
        for note in lora.notes:
            self.say(f"note: {note}")

    def judge(self, kind: Kind) -> Judge | None:
        """A trained judge, which only the demo models have; None: the model itself reads."""
        return evaluation_judge(kind) if self.model in DEMOS else None


def forget(
    session: Session,
    concept: Concept | Nameless,
    settings: UnlearnSettings,
    out: Path,
    report: Path | None = None,
    embedding: Path | None = None,
    inputs: Sequence[Path] = (),
    deep: DeepSettings | None = None,
) -> tuple[UnlearnResult, Evaluation | None]:
    """Make a model forget a concept; write the LoRA, and if asked a report and the vectors.

    `inputs` are the files and folders that `concept` was read from; with `deep` the UNet too.
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
    if deep is not None:
        check_deep(model, concept.kind)
    result = unlearn(
        model, concept, settings, session.monitor, measures=report is not None,
        wants_vectors=embedding is not None,
    )  # fmt: skip
    result.check_moved()
    if deep is not None:
        result = deepen(model, result, deep, session.monitor)
    stop_if_asked(session.monitor)
    make_folder(out.parent)
    save_lora(result.lora, out)
    for line in (*run_lines(result), f"written: {out.absolute()}"):
        session.say(line)
    if embedding is not None and result.learned is not None:
        make_folder(embedding.parent)
        save_embedding(result.learned.vectors, embedding, result.learned.widths)
        session.say(f"written: {embedding.absolute()}. {RECIPE}")
    if report is None:
        return result, None
    scaled = ScaledEncoder.with_lora(model, result.lora)
    seed, forgotten = settings.seed, result.forgotten
    try:
        evaluation = _report(session, model, forgotten, scaled, out, report, seed, result)
    except Cancelled as error:
        raise Cancelled(f"Stopped while measuring: {out} is written, the report is not.") from error
    return result, evaluation


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
    save_embedding(learned.vectors, out, learned.widths)
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
    also: Sequence[str] = (),
) -> Evaluation:
    """Compare the model before and after; the file says what isn't given, `also` describes it."""
    check_report_folder(report)
    check_apart(report_paths(report), [lora_file], session.place, [report])
    lora = load_lora(lora_file, with_unet=True)
    session.say_notes(lora)
    known = _said_of(session, lora, lora_file, name)
    concept = measured_concept(known, name, kind, synonyms, stand_in)
    model = session.load()
    scaled = ScaledEncoder.with_lora(model, lora)
    made_for = lora.metadata.get(BASE_MODEL)
    if made_for is not None and made_for != scaled.encoder.fingerprint():
        session.say("note: this LoRA was made for another text encoder than this model's.")
    forgotten = forgotten_by_nearness(scaled.encoder, concept, seed)
    if known is not None:
        names = tuple(dict.fromkeys((*concept.names, *known.names)))
        forgotten = dataclasses.replace(forgotten, names=names, kept=known.kept)
    session.say(f"stand-in: {forgotten.stand_in}; kept first: {', '.join(forgotten.kept)}")
    return _report(session, model, forgotten, scaled, lora_file, report, seed, None, also)


def _said_of(session: Session, lora: LoraWeights, file: Path, name: str | None) -> Forgotten | None:
    """What the LoRA's file says of the concept `name`, or of its first one."""
    try:
        parts = all_from_metadata(lora.metadata)
    except BadFile:
        if name is None:
            raise
        session.say(f"note: what {file.name} says that it forgets can't be read.")
        parts = ()
    said = {part.concept.name.casefold(): part for part in parts}
    asked = split_typed(name or "")
    known = said.get(asked[0].casefold()) if asked else next(iter(said.values()), None)
    several = name is None and len(said) > 1
    if said and (known is None or several):
        listed = ", ".join(repr(part.concept.name) for part in said.values())
        session.say(f"note: {file.name} says that it forgets {listed}.")
    if known is not None and several:
        session.say(f"measured here: {known.concept.name!r}; choose another with --concept.")
    if name is None and known is None:
        raise BadSettings(f"{file} does not say what it forgets: give --concept.")
    return known


def demo(session: Session, out: Path) -> None:
    """Make the demo model forget its dog, and say in five lines where to look."""
    images = demo_folder() / "pictures" / "dog"
    settings = preset("balanced")
    concept = with_pictures(Concept("dog", ("puppy",)), images, settings, session.say)
    lora, report = out / "forget-dog.safetensors", out / "report"
    quiet = dataclasses.replace(session, say=lambda _: None)
    if is_file(lora):
        made_for = load_lora(lora).metadata.get(BASE_MODEL)
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
    scaled: ScaledEncoder,
    lora_file: Path,
    folder: Path,
    seed: int,
    result: UnlearnResult | None,
    also: Sequence[str] = (),
) -> Evaluation:
    judge = session.judge(forgotten.concept.kind)
    evaluation = evaluate(model, forgotten, scaled, seed, session.monitor, judge, also)
    stop_if_asked(session.monitor)
    if result is not None:
        save_lora(result.lora.noting(headline(evaluation)), lora_file)
    metadata = load_lora(lora_file, with_unet=True).metadata
    paths = write_report(folder, evaluation, result, metadata, file_digest(lora_file))
    for line in main_numbers(evaluation):
        session.say(line)
    for path in paths:
        session.say(f"written: {path.absolute()}")
    return evaluation
