"""An adversary that learns word vectors through the UNet while the LoRA is trained."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.models.noise import add_noise, draw_timesteps, training_target
from unlearn_core.text.tokenizer import VOCABULARY
from unlearn_core.training.examples import ForgetLesson, forget_lessons
from unlearn_core.training.inversion import OBJECT_TEMPLATES, STYLE_TEMPLATES, starting_vectors
from unlearn_core.training.loop import Training
from unlearn_core.training.picture_loss import BATCH
from unlearn_core.words.prompts import Name, fill, make_prompts, pair_prompts

SEARCHED, RESTARTED, INVERTED_RATE = (1, 1, 1, 4), 8, 0.3
"""Vectors of each name that an Inverter learns, searches between two starts, and Adam's step
relative to the size of a word vector's elements."""
FOUND_PROMPTS = 10
"""To be forgotten, of each name that was found."""


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
