"""Does the unchanged model read pictures as a trained judge does?

    python -m bench trial self_judge [--model demo] [--concepts cat ...] [--methods base quick ...]

Each method erases each concept, and both judges name what pictures of the concept, its synonyms,
what is near it and what is not show. Objects are drawn in the grammars of `cells`, a third of them
in the report's own prompt; styles in the report's own, with two things. The judges agree where both
see the concept or both do not; the table counts what each saw. `LEAST_OF_OWN` and the timesteps
were chosen on the tuning concepts; the defaults are the test concepts.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bench.methods.find import find_method
from bench.protocol.cells import World, draw_prompts
from bench.protocol.erased import Erased, Task
from bench.protocol.setup import open_model
from bench.protocol.splits import TEST, kept_words
from bench.protocol.task_pictures import task_pictures
from bench.report.tables import markdown
from unlearn_core.concept import Concept, Kind
from unlearn_core.files.pictures import to_image
from unlearn_core.lora.metadata import Forgotten
from unlearn_core.measuring.evaluation import forgotten_by_nearness
from unlearn_core.measuring.judge import wilson
from unlearn_core.measuring.self_judge import SelfJudge
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.words.prompts import Name

Pair = tuple[str, str]
"""What the trained judge saw, and what the model itself saw: concept, stand-in, near, other."""
Read = tuple[Pair, Tensor, str]
CLASSES = ("concept", "stand-in", "near", "other")
COUNTS = {"concept": 10, "synonym": 3, "near": 3, "far": 1}
FRAMES = ("house", "car")
"""What is drawn in a style."""
FAR = 6
TILE = 64


class Trial:
    """One concept, and what is drawn for it."""

    def __init__(self, base: Erased, world: World, name: str, seed: int) -> None:
        self.base, self.world, self.seed = base, world, seed
        self.kind: Kind = "style" if name in world.styles else "object"
        alike = tuple(world.styles if self.kind == "style" else world.objects)
        chosen = forgotten_by_nearness(base.encoder, Concept(name, kind=self.kind), seed)
        near = tuple(w for w in chosen.kept if w in alike and w != chosen.stand_in)[:3]
        self.forgotten = Forgotten(chosen.concept, chosen.names, chosen.stand_in, near)
        rest = [w for w in alike if w not in (name, chosen.stand_in, *near)]
        far = rest[:: max(1, len(rest) // FAR)][:FAR]
        words = [("concept", name), *(("synonym", w) for w in world.synonyms(name)[:2])]
        words += [("near", w) for w in (chosen.stand_in, *near)] + [("far", w) for w in far]
        self.words = words

    def prompts(self, word: str, count: int, place: int) -> Iterator[tuple[str, str]]:
        """(prompt, the template that a judge asks with)."""
        if self.kind == "style":
            for frame in FRAMES:
                text = f"a picture of {Name.of(frame).article}{frame}, {{}} style"
                yield from [(text.format(word), text)] * count
            return
        plain = f"a photo of {Name.of(word).article}{word}"
        cell = self.world.cell([(word, word)], count - count // 3, 1000 * self.seed + 70 + place)
        for prompt in (*cell.prompts, *[plain] * (count // 3)):
            yield prompt, "a photo of {}"

    def judge(self, template: str) -> SelfJudge:
        """The unchanged model, asked with a template; it has not seen its own pictures yet."""
        words = [word for _, word in self.words]
        asked = [(word if self.kind == "style" else Name.of(word).article + word) for word in words]
        texts = [self.base.encoder.condition(token_ids(template.format(it))) for it in asked]
        always = (self.forgotten.concept.name, self.forgotten.stand_in, *self.forgotten.kept)
        empty = self.base.encoder.condition(token_ids(""))
        return SelfJudge(self.base.model, dict(zip(words, texts, strict=True)), empty, always, 0)

    def run(
        self, erased: Erased, judges: dict[str, SelfJudge]
    ) -> Iterator[tuple[Pair, Tensor, str]]:
        """What both judges saw in each picture, the picture and its prompt."""
        for place, (role, word) in enumerate(self.words):
            asked = list(self.prompts(word, COUNTS[role], place))
            ids = torch.cat([token_ids(prompt) for prompt, _ in asked])
            seed = 5000 + 1000 * self.seed + place
            pictures = draw_prompts(erased.model, erased.encoder, ids, seed)
            seen = self.world.read(pictures)
            trained = seen.styles if self.kind == "style" else seen.objects
            wanted = word if role in ("near", "far") else self.forgotten.concept.name
            for template in dict.fromkeys(template for _, template in asked):
                rows = [i for i, (_, t) in enumerate(asked) if t == template]
                if template not in judges:  # the first are the unchanged model's of the concept
                    judges[template] = self.judge(template)
                    judges[template].see_own(pictures[rows])
                own = judges[template].read(pictures[rows], wanted)
                for row, saw in zip(rows, own, strict=True):
                    among = (self.forgotten.concept.name, self.forgotten.stand_in)
                    pair = (self._class(trained[row], wanted), self._class(saw, wanted))
                    said = f"{among[0]}: {asked[row][0]}: {trained[row]} / {saw}"
                    yield pair, pictures[row], said

    def _class(self, seen: str | None, wanted: str) -> str:
        known = {self.forgotten.concept.name: "concept", self.forgotten.stand_in: "stand-in"}
        near = (*self.forgotten.kept, wanted)
        return known.get(seen or "", "near" if seen in near else "other")


def confusion(pairs: Sequence[Pair]) -> str:
    """A table: rows are what the trained judge saw, columns what the model saw."""
    counts = Counter(pairs)
    rows = [(row, *(str(counts[row, column]) for column in CLASSES)) for row in CLASSES]
    return markdown(("trained judge \\ the model itself", *CLASSES), rows)


def agreement(pairs: Sequence[Pair]) -> str:
    """How many pictures both judges call the concept or both do not, with its interval."""
    agreed = sum((a == "concept") == (b == "concept") for a, b in pairs)
    low, high = wilson(agreed, len(pairs))
    same = sum(a == b for a, b in pairs)
    return (
        f"{agreed} of {len(pairs)} ({agreed / max(1, len(pairs)):.1%}, {low:.1%} to {high:.1%}); "
        f"the same of four {same / max(1, len(pairs)):.1%}"
    )


def main(words: Sequence[str]) -> None:
    """Print agreement by concept and method, and what each judge saw."""
    parser = argparse.ArgumentParser(
        prog="python -m bench trial self_judge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concepts", nargs="+", default=TEST, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=("base", "quick", "uce"), metavar="METHOD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="writes counts.json and misread.png there")
    chosen = parser.parse_args(words)
    base, world, _ = open_model(chosen.model)
    pairs: list[Pair] = []
    misread: list[tuple[str, Tensor]] = []
    numbers = {}
    for name in chosen.concepts:
        trial, judges = Trial(base, world, name, chosen.seed), dict[str, SelfJudge]()
        for method in ("base", *(m for m in chosen.methods if m != "base")):
            keep = kept_words([*world.objects, *world.styles], name)
            task = Task(name, trial.kind, task_pictures(name), chosen.seed, keep)
            erased = find_method(method)(base, task)
            found = list(trial.run(erased, judges))
            both = [pair for pair, _, _ in found]
            wrong = [(said, p) for (a, b), p, said in found if (a == "concept") != (b == "concept")]
            pairs, misread = pairs + both, misread + wrong
            numbers[f"{name}, {method}"] = Counter(f"{a} / {b}" for a, b in both)
            print(f"{name}, {method}: {agreement(both)}", flush=True)
    print(agreement(pairs), confusion(pairs), sep="\n\n")
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        lines = {"model": chosen.model, "seed": chosen.seed, "read": numbers,
                 "misread": [said for said, _ in misread]}  # fmt: skip
        text = json.dumps(lines, indent=1) + "\n"
        (chosen.out / f"{chosen.model}.json").write_text(text, "utf-8")
        sheet = Image.new("RGB", (12 * TILE, -(-max(1, len(misread)) // 12) * TILE), "white")
        for i, (_, picture) in enumerate(misread):
            sheet.paste(to_image(picture).resize((TILE, TILE)), (i % 12 * TILE, i // 12 * TILE))
        sheet.save(chosen.out / f"{chosen.model}.png")
