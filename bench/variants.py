"""Ideas of the literature that the engine lacks, tried beside it: "variant:NAME" is a method.

All start from LOOP, the preset balanced on words alone; "variant:NAME+steps=50" changes settings on
top. What an idea needs beyond settings is a subclass of the engine's run, which works over the
`Training` that the engine has prepared.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.erased import Erased, Task
from bench.methods import Preset, parsed_changes, with_lora
from unlearn_core.concept import Concept, Kind
from unlearn_core.errors import BadSettings
from unlearn_core.inversion import OBJECT_TEMPLATES, STYLE_TEMPLATES, starting_vectors
from unlearn_core.lent_model import SilentMonitor
from unlearn_core.lesson_plan import LessonPlan
from unlearn_core.lessons import ForgetLesson, Lesson, forget_lessons, keep_lessons
from unlearn_core.lora import EncoderLora
from unlearn_core.lora_file import lora_bytes
from unlearn_core.losses import role_distance
from unlearn_core.noise import add_noise, draw_timesteps, training_target
from unlearn_core.picture_loss import BATCH, PictureLoss
from unlearn_core.prompt_writer import PromptWriter
from unlearn_core.prompts import (
    OWN_STATE,
    ROLE_CONCEPT,
    ROLE_EOS,
    ROLE_PAD,
    Name,
    Prompts,
    fill,
    make_prompts,
    pair_prompts,
    whole_prompts,
)
from unlearn_core.settings import UnlearnSettings, preset
from unlearn_core.shared_beginnings import encode_groups
from unlearn_core.stand_in import candidates, look_around
from unlearn_core.tokenizer import VOCABULARY
from unlearn_core.training import Training
from unlearn_core.unlearn_run import UnlearnRun

FAMILY = "variant"
LOOP: dict[str, Any] = {"use_pictures": False, "stand_in_pictures": 0}
"""Changes to balanced: 150 steps on the last three layers, words alone."""
ETA = 1.0
"""Strength of ESD's negative guidance."""
MISDIRECTED = (ROLE_CONCEPT, ROLE_EOS, ROLE_PAD)
MINED_EVERY, MINED_FROM, MINED = 25, 400, 32
"""Steps between two minings, prompts that are looked through, and how many are taken."""
ROWS = 64
"""Prompts in one pass while mining."""
SEARCHED, RESTARTED, INVERTED_RATE = (1, 1, 1, 4), 8, 0.3
"""Vectors of each name that an Inverter learns, searches between two starts, and Adam's step
relative to the size of a word vector's elements."""
FOUND_PROMPTS = 10
"""To be forgotten, of each name that was found."""


def negative_target(empty: Tensor, concept: Tensor, eta: float = ETA) -> Tensor:
    """e(empty) - eta * (e(concept) - e(empty)): ESD (Gandikota et al. 2023, arXiv 2303.07345),
    equation 5.

    The coefficients sum to 1, so predictions of noise and of velocity give the same picture.
    """
    return empty - eta * (concept - empty)


class NegativePictureLoss(PictureLoss):
    """Moves the prediction under the concept's prompts onto `negative_target` of the unchanged
    model, on the noised pictures where ESD has half-drawn ones.
    """

    def __init__(self, *arguments: Any) -> None:
        """As PictureLoss."""
        super().__init__(*arguments)
        lora, learned = arguments[2], arguments[5]
        groups = [self.prompts.token_ids, whole_prompts([""]).token_ids]
        with lora.disabled():
            (_, self.own_text), (_, self.empty_text) = encode_groups(self.encoder, groups, learned)

    def _target(self, rows: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        own = self.own_text[rows.to(self.own_text.device)]
        concept = self.model.predict(noisy, timesteps, own)
        empty = self.model.predict(noisy, timesteps, self.empty_text.expand_as(own))
        return negative_target(empty, concept)


class NegativeRun(UnlearnRun):
    """The picture term is that of `NegativePictureLoss`."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        (plan,), (part,) = self._plans, self.parts
        learned = part.learned.vectors.to(self.encoder.device) if part.learned else None
        training.extra_loss = NegativePictureLoss(
            self.model, self.encoder, lora, self.latents(plan.concept), plan, learned,
            self.settings, self.generator, self.memory.rows,
        )  # fmt: skip
        return training


def random_targets(
    lessons: Iterable[ForgetLesson], generator: torch.Generator
) -> list[ForgetLesson]:
    """The lessons with one random vector a role as targets of the name, EOS and pads.

    Misdirection as in HiRM (arXiv 2602.19631). Each vector is drawn from a normal distribution with
    mean and covariance of the targets in its role. Positions before the concept keep their own
    states; words behind it keep the stand-in's, so that their meaning stays.
    """
    lessons = list(lessons)
    targets = torch.cat([lesson.targets.flatten(0, 1) for lesson in lessons])
    roles = torch.cat([_moved_roles(lesson).flatten() for lesson in lessons])
    vectors = {
        role: _drawn_like(targets[roles == role], generator)
        for role in MISDIRECTED
        if bool((roles == role).any())
    }
    found = []
    for lesson in lessons:
        changed, moved = lesson.targets.clone(), _moved_roles(lesson)
        for role, vector in vectors.items():
            changed[moved == role] = vector
        found.append(dataclasses.replace(lesson, targets=changed))
    return found


def _moved_roles(lesson: ForgetLesson) -> Tensor:
    """Roles, -1 where a position keeps its own state."""
    return torch.where(lesson.source == OWN_STATE, -1, lesson.roles)


def _drawn_like(states: Tensor, generator: torch.Generator) -> Tensor:
    """One vector (width,) with mean and covariance of states (n, width): a random mixture of them.

    sum_i z_i (s_i - mean) / sqrt(n) with standard normal z has just that covariance.
    """
    mixture = torch.randn(len(states), generator=generator).to(states)
    mean = states.mean(0)
    vector: Tensor = mean + mixture @ (states - mean) / len(states) ** 0.5
    return vector


class RandomVectorRun(UnlearnRun):
    """The forget targets are random vectors, see `random_targets`."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        training.forget = random_targets(training.forget, self.generator)
        return training


def surgery(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two gradients (n,), each rid of what works against the other.

    PCGrad (Yu et al. 2020, arXiv 2001.06782), algorithm 1: where their product is negative, each is
    projected onto the normal plane of the other.
    """
    product = one @ other
    if float(product) >= 0:
        return one + other
    first = one - product / other.square().sum() * other
    second = other - product / one.square().sum() * one
    return first + second


class Surgeon:
    """Takes the gradients of forgetting and of keeping apart, and joins them by `surgery`."""

    def __init__(self, training: Training) -> None:
        """Work for `training`."""
        self.training = training

    def learn(self, step: int) -> float:
        """In place of `Training._learn`: the loss; the joint gradient is left at the LoRA."""
        training, settings = self.training, self.training.settings
        keep = training._draw(training.keep)
        guard = training.guard.cut(keep.length)
        kept, holding = self._gradient(
            training._passes((keep, settings.keep_weight), (guard, settings.guard_weight))
        )
        forgotten, moving = self._gradient(self._forgetting(step))
        joint, start = surgery(moving, holding), 0
        for parameter in training.lora.parameters():
            parameter.grad = joint[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        return kept + forgotten

    def _forgetting(self, step: int) -> Iterator[Tensor]:
        training, settings = self.training, self.training.settings
        if settings.objective == "stand-in":
            yield from training._passes((training._draw(training.forget), settings.forget_weight))
        if training.extra_loss is not None:
            yield training.extra_loss(step)

    def _gradient(self, terms: Iterable[Tensor]) -> tuple[float, Tensor]:
        """The sum of the terms and its gradient at all of the LoRA, (n,)."""
        total, parameters = 0.0, self.training.lora.parameters()
        for parameter in parameters:
            parameter.grad = None
        for term in terms:
            if term.requires_grad:
                term.backward()
            total += float(term.detach())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return total, torch.cat([part.flatten() for part in parts])


class SurgeryRun(UnlearnRun):
    """Forgetting and keeping are joined by gradient surgery."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        training._learn = Surgeon(training).learn  # type: ignore[method-assign]
        return training


class Miner:
    """Every MINED_EVERY steps adds the MINED prompts that the LoRA moves most to those to keep."""

    def __init__(self, training: Training, candidates: list[Lesson]) -> None:
        """Work for `training`, whose own `_learn` is called; `candidates` may be kept too."""
        self.training, self.candidates = training, candidates
        self._learn: Callable[[int], float] = training._learn

    def learn(self, step: int) -> float:
        """Around `Training._learn`: mines when the step's gradient is taken.

        Nothing that is left of the step asks for the strength that was drawn for it.
        """
        loss = self._learn(step)
        if (step + 1) % MINED_EVERY == 0:
            self.training.lora.set_strength(1.0)
            self.training.keep = [*self.training.keep, *self.worst()]
        return loss

    @torch.no_grad()
    def worst(self) -> list[Lesson]:
        """The MINED prompts farthest from their unchanged states."""
        drifts = [self._drift(lesson) for lesson in self.candidates]
        chosen = torch.cat(drifts).topk(min(MINED, sum(map(len, drifts)))).indices
        found, start = [], 0
        for lesson in self.candidates:
            rows = chosen[(chosen >= start) & (chosen < start + len(lesson))] - start
            if len(rows):
                found.append(lesson.rows(rows))
            start += len(lesson)
        return found

    def _drift(self, lesson: Lesson) -> Tensor:
        training, parts = self.training, []
        for rows in torch.arange(len(lesson), device=lesson.states.device).split(ROWS):
            part = lesson.rows(rows)
            states = training.encoder.tail(part.states)
            parts.append(role_distance(states, part.targets, part.roles, training.scales))
        return torch.cat(parts)


def plain_keep_prompts(plan: LessonPlan, generator: torch.Generator) -> Prompts:
    """About MINED_FROM different plain prompts, half about the known nouns, half about styles."""
    around = plan.writer.surroundings
    kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("object", around.nouns),
        ("style", around.styles),
    )
    halves = []
    for kind, words in kinds:
        order = torch.randperm(len(words), generator=generator).tolist()
        names = [Name.of(words[i], kind) for i in order]
        if names:
            writer = PromptWriter(kind, around, generator, varied=False)
            halves.append(writer.keep(names, MINED_FROM // 2))
    texts = list(itertools.chain(*(half.texts for half in halves)))
    places = list({text: place for place, text in enumerate(texts)}.values())
    return Prompts(
        tuple(texts[place] for place in places),
        torch.cat([half.token_ids for half in halves])[places],
        torch.cat([half.roles for half in halves])[places],
    )


class MinedRun(UnlearnRun):
    """What drifts most while training is kept too, see `Miner`."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        prompts = plain_keep_prompts(self._plans[0], self.generator)
        candidates = keep_lessons(self.encoder, lora, prompts, self.monitor)
        training._learn = Miner(training, candidates).learn  # type: ignore[method-assign]
        return training


class FarKeepRun(UnlearnRun):
    """Keeps random words only, none of the nearest; keep_nearest=0 would keep the stand-in."""

    def _decide(self, concept: Concept) -> None:
        super()._decide(concept)
        plan = self._plans[-1]
        order = torch.randperm(len(plan.others), generator=self.generator).tolist()
        words = tuple(plan.others[i] for i in order)
        self._plans[-1] = dataclasses.replace(plan, kept=words)
        self.parts[-1] = dataclasses.replace(self.parts[-1], kept=())


class EmptyStandInRun(UnlearnRun):
    """Nothing takes the concept's place: "a photo of a dog" becomes "a photo of"."""

    def _decide(self, concept: Concept) -> None:
        super()._decide(concept)
        _replace_stand_in(self, Name("", (), False))


class FarStandInRun(UnlearnRun):
    """The candidate takes the concept's place that is farthest from it."""

    def _decide(self, concept: Concept) -> None:
        super()._decide(concept)
        possible = candidates(concept, look_around(self.encoder, concept))
        word, _ = min(possible, key=lambda pair: pair[1])
        _replace_stand_in(self, Name.of(word, concept.kind))


def _replace_stand_in(run: UnlearnRun, name: Name) -> None:
    part = run.parts[-1]
    run._plans[-1] = dataclasses.replace(run._plans[-1], stand_in=name)
    stand_in = dataclasses.replace(part.stand_in, word=name.text)
    run.parts[-1] = dataclasses.replace(part, stand_in=stand_in)


class Inverter:
    """An adversary that learns word vectors through the UNet against the LoRA of the moment.

    Textual inversion (Gal et al. 2022, arXiv 2208.01618, equation 2) of several names at once, each
    of as many vectors as SEARCHED says. They go on learning from one search to the next; every
    RESTARTED-th search they start anew: at the concept's word, at known words, at random.
    """

    def __init__(self, run: UnlearnRun, lora: EncoderLora) -> None:
        """Attack what `run` trains."""
        self.run, self.lora, self.plan, self.searches = run, lora, run._plans[0], 0
        self.latents = run.latents(self.plan.concept)
        table = run.encoder.words.weight.detach()
        self.known = table[table.any(dim=1)]
        article = Name.of(self.plan.concept.name, self.plan.concept.kind).takes_article
        ends = list(itertools.accumulate(SEARCHED, initial=VOCABULARY))
        self.names = [
            Name("<found>", tuple(range(*ids)), article) for ids in itertools.pairwise(ends)
        ]

    def find(self) -> list[ForgetLesson]:
        """Search, and return prompts with the vectors found, to be forgotten."""
        if self.searches % RESTARTED == 0:
            self._start()
        self.searches += 1
        with torch.enable_grad():
            for _ in range(self.run.settings.adversary_steps):
                (self.vectors.grad,) = torch.autograd.grad(self._loss(), [self.vectors])
                self.optimizer.step()
        pairs = []
        for name in self.names:
            templates = [self.plan.writer.template() for _ in range(FOUND_PROMPTS)]
            pairs += [(fill(t, name), fill(t, self.plan.stand_in)) for t in templates]
        found = self.vectors.detach().clone()
        return forget_lessons(self.run.encoder, self.lora, pair_prompts(pairs), found)

    def _start(self) -> None:
        run = self.run
        vectors = []
        for number, count in enumerate(SEARCHED):
            kind = (number + self.searches) % 3
            if kind == 0:
                vectors.append(starting_vectors(run.encoder, self.plan.concept.name, count))
            elif kind == 1:
                chosen = torch.randint(len(self.known), (count,), generator=run.generator)
                vectors.append(self.known[chosen.to(self.known.device)])
            else:
                noise = torch.randn(count, self.known.shape[1], generator=run.generator)
                vectors.append(self.known.mean(0) + self.known.std(0) * noise.to(self.known))
        self.vectors = torch.cat(vectors).requires_grad_(True)
        rate = INVERTED_RATE * float(self.known.pow(2).mean().sqrt())
        self.optimizer = torch.optim.Adam([self.vectors], lr=rate)

    def _loss(self) -> Tensor:
        """The mean denoising loss of BATCH pictures for each name."""
        run, generator = self.run, self.run.generator
        is_style = self.plan.concept.kind == "style"
        templates = STYLE_TEMPLATES if is_style else OBJECT_TEMPLATES
        rows = len(self.names) * BATCH
        drawn = torch.randint(len(templates), (rows,), generator=generator).tolist()
        filled = [fill(templates[t], self.names[i // BATCH]) for i, t in enumerate(drawn)]
        text = run.encoder.encode(make_prompts(filled).token_ids, self.vectors)
        chosen = torch.randint(len(self.latents), (rows,), generator=generator)
        clean = self.latents[chosen.to(self.latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t, alphas = draw_timesteps(rows, generator).to(clean.device), run.model.alphas_cumprod
        target = training_target(clean, noise, t, alphas, run.model.prediction)
        predicted = run.model.predict(add_noise(clean, noise, t, alphas), t, text)
        return (predicted - target).pow(2).mean()


class InversionLoopRun(UnlearnRun):
    """An `Inverter` searches every `adversary_every` steps."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        training.find_adversary = Inverter(self, lora).find
        return training


@dataclass(frozen=True)
class Idea:
    """A run, and the settings that it starts from."""

    run: type[UnlearnRun]
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """On top of LOOP."""
    takes_pictures: bool = False
    """Whether it wants pictures that its settings don't ask for."""


IDEAS: dict[str, Idea] = {
    "esd_negative": Idea(NegativeRun, {"forget_weight": 0.0, "image_weight": 1.0}),
    "esd_negative_mixed": Idea(NegativeRun, {"image_weight": 1.0}),
    "stand_in_unet": Idea(UnlearnRun, {"forget_weight": 0.0, "image_weight": 1.0}),
    "stand_in_mixed": Idea(UnlearnRun, {"image_weight": 1.0}),
    "random_vector": Idea(RandomVectorRun),
    "ascent_text_keep": Idea(UnlearnRun, {"objective": "ascent"}),
    "gradient_surgery": Idea(SurgeryRun),
    "mined_keep": Idea(MinedRun),
    "keep_random": Idea(FarKeepRun),
    "stand_in_empty": Idea(EmptyStandInRun),
    "stand_in_far": Idea(FarStandInRun),
    "inversion_loop": Idea(InversionLoopRun, {"adversary_steps": 10}, takes_pictures=True),
}


@dataclass(frozen=True)
class Variant(Preset):
    """One of IDEAS, told what a preset is told."""

    @property
    def settings(self) -> UnlearnSettings:
        """What it runs with; raises BadSettings."""
        return preset("balanced", **(LOOP | IDEAS[self.name].changes | dict(self.changes)))

    def __call__(self, base: Erased, task: Task) -> Erased:
        """See Method; raises UnlearnError."""
        settings, idea = self.settings.replace(seed=task.seed), IDEAS[self.name]
        wants = idea.takes_pictures or settings.use_pictures or settings.needs_unet
        concept = Concept(task.name, kind=task.kind, images=task.images if wants else ())
        run = idea.run(base.model, (concept,), settings, SilentMonitor())
        lora, _ = run.go()
        notes = {"stand-in": run.parts[0].stand_in.word}
        size = len(lora_bytes(lora))
        return dataclasses.replace(with_lora(base, lora), notes=notes, file_bytes=size)


def find_variant(text: str) -> Variant:
    """The variant for "NAME" or "NAME+steps=50+rank=4"; raises BadSettings."""
    name, _, changes = text.partition("+")
    if name not in IDEAS:
        raise BadSettings(f"There is no variant {name!r}. Known: {', '.join(IDEAS)}.")
    found = Variant(name, tuple(parsed_changes(f"{FAMILY}:{name}", changes).items()))
    _ = found.settings  # refuses bad values before anything is drawn
    return found
