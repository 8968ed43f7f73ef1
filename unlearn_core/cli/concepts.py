"""What is to be forgotten: one concept from flags, or a list of them with one JSON object a line.

Every line of a list is checked before anything runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..concept import Concept, Covers, Kind, Nameless, as_typed
from ..errors import BadConcept, BadFile, UnlearnError
from ..files.file_names import safe_file_name, typed_path
from ..files.input_files import read_text
from ..files.pictures import left_out, picture_files, read_pictures
from ..lora.metadata import Forgotten
from ..settings import UnlearnSettings

Asked = TypeVar("Asked", bound=Concept | Nameless)
_WORD, _WORDS = "a text in quotes", "a list of texts in quotes"
KEYS = {
    "concept": _WORD,
    "synonyms": _WORDS,
    "kind": _WORD,
    "stand_in": _WORD,
    "keep": _WORDS,
    "covers": _WORD,
    "images": _WORD,
}
"""What a line may hold, and of which type."""
MOST_LINES = 10_000


def asked_concept(
    name: str | None,
    kind: Kind,
    images: Path | None = None,
    synonyms: str = "",
    stand_in: str | None = None,
    keep: str = "",
    covers: Covers = "word",
) -> Concept | Nameless:
    """What is to be forgotten, from words as they are typed; `with_pictures` adds the pictures.

    Raises BadConcept where there is neither a name nor a folder of pictures.
    """
    asked = as_typed(name or "", kind, synonyms, stand_in, keep, covers)
    if isinstance(asked, Nameless) and images is None:
        raise BadConcept(
            "Nothing says what is to be forgotten: give --concept NAME, or --images DIR with 4 or "
            "5 pictures of it, for which the model's own word is found."
        )
    return asked


def measured_concept(
    known: Forgotten | None,
    name: str | None,
    kind: Kind | None,
    synonyms: str,
    stand_in: str | None,
) -> Concept:
    """What a LoRA is measured on: as its file says it, and what was typed beside it."""
    if known is None:
        return Concept.from_text(name or "", kind or "object", synonyms, stand_in)
    asked = Concept.from_text(known.concept.name, "object", synonyms, stand_in)
    return known.concept.replace(
        kind=kind or known.concept.kind,
        synonyms=(*known.concept.synonyms, *asked.synonyms),
        stand_in=asked.stand_in or known.stand_in,
    )


def with_pictures(
    asked: Asked, folder: Path | None, settings: UnlearnSettings, say: Callable[[str], None]
) -> Asked:
    """A concept with the pictures of a folder; each is read, those that are used are kept.

    `say` is told what in the folder is no picture.
    """
    if folder is None:
        return asked
    note = left_out(folder)
    if note is not None:
        say(f"note: {note}")
    used = settings.uses_pictures or isinstance(asked, Nameless)
    return asked.replace(images=read_pictures(folder, used))  # type: ignore[return-value]


@dataclass(frozen=True)
class Entry:
    """One line of a list."""

    concept: Concept
    """Without pictures: those of hundreds of concepts would fill the memory."""
    images: Path | None
    """The folder of its pictures, absolute."""
    pictures_hash: str
    """SHA-256 of the pictures' files in order; of nothing where there are none."""
    note: str | None = None
    """What the user should know of that folder."""

    @property
    def stem(self) -> str:
        """Its file's name without ending: of the concept's name alone, and no other name has it.

        "Van Gogh" is "forget-van-gogh"; a name that loses more than capitals and blanks on its way
        to a file name, as "van-gogh" does, gets a short hash behind it.
        """
        name = self.concept.name.casefold()
        safe = safe_file_name(name)
        if safe.replace("-", " ") == name:
            return f"forget-{safe}"
        return f"forget-{safe}-{_hash(name)[:8]}"

    def read(self, settings: UnlearnSettings) -> Concept:
        """The concept with the pictures that the settings use; raises as `read_pictures` does."""
        if self.images is None:
            return self.concept
        return self.concept.replace(images=read_pictures(self.images, settings.uses_pictures))

    def fingerprint(self, model: str, settings: UnlearnSettings) -> str:
        """SHA-256 of all that decides what is trained; `model` says which model it is."""
        concept = self.concept
        words: tuple[Any, ...]
        words = (concept.name, concept.synonyms, concept.kind, concept.stand_in, concept.keep)
        if concept.covers != "word":
            words = (*words, concept.covers)
        everything = [words, self.pictures_hash, model, settings.as_dict()]
        return _hash(json.dumps(everything, sort_keys=True))


def read_list(
    path: Path, settings: UnlearnSettings, say: Callable[[str], None] = lambda _: None
) -> list[Entry]:
    """The entries of a list in their order; empty lines are left out.

    A folder of pictures is looked for from the list's own folder; `say` is told what in it is no
    picture. Raises BadFile or BadConcept for the first line that can't be used, with its number.
    """
    text = read_text(path).removesuffix("\n").split("\n")
    if len(text) > MOST_LINES:
        raise BadFile(
            f"{path} has {len(text):,} lines; {MOST_LINES:,} at most. Make several lists."
        )
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            entry = _entry(line, path.absolute().parent, settings)
            first = lines.setdefault(entry.concept.name.casefold(), number)
            if first != number:
                raise BadConcept(
                    f"{entry.concept.name!r} stands in line {first} already; leave one out."
                )
        except UnlearnError as error:
            raise type(error)(f"Line {number} of {path}: {error}") from error
        entries.append(entry)
    if not entries:
        raise BadFile(f'{path} holds no concept; write one a line, such as {{"concept": "dog"}}.')
    for entry in entries:
        if entry.note is not None:
            say(f"note: {entry.concept.name}: {entry.note}")
    return entries


def pictures_of(entries: Iterable[Entry]) -> list[Path]:
    """The folders of pictures that a list names."""
    return [entry.images for entry in entries if entry.images is not None]


def _entry(line: str, folder: Path, settings: UnlearnSettings) -> Entry:
    values = _values(line)
    concept = Concept.from_text(
        values.get("concept", ""),
        values.get("kind", "object"),
        ", ".join(values.get("synonyms", ())),
        values.get("stand_in"),
        ", ".join(values.get("keep", ())),
        values.get("covers", "word"),
    )
    digest, images, note = hashlib.sha256(), None, None
    if values.get("images"):
        images = folder / typed_path(values["images"])
        concept.replace(images=read_pictures(images, used=False))  # looked at, and not kept
        note = left_out(images)
        for file in picture_files(images):
            digest.update(file.read_bytes())
    elif settings.needs_pictures:
        raise BadConcept('these settings need pictures: add "images" with a folder of them.')
    safe_file_name(concept.name)
    return Entry(concept, images, digest.hexdigest(), note)


def _values(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadFile(f'this is not JSON ({error}); write {{"concept": "dog"}}.') from error
    if not isinstance(values, dict):
        raise BadFile('this is no JSON object; write {"concept": "dog"}.')
    unknown = sorted(set(values) - set(KEYS))
    if unknown:
        raise BadFile(f"unknown key {', '.join(unknown)}. Known: {', '.join(KEYS)}.")
    for key, wanted in KEYS.items():
        if key in values and not _fits(values[key], wanted):
            raise BadFile(f"{key} is {_shown(values[key])}; it must be {wanted}.")
    return values


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:60]
    except RecursionError:  # nested as deeply as could just be read
        return "nested deeply"


def _fits(value: Any, wanted: str) -> bool:
    if wanted == _WORD:
        return isinstance(value, str)
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
