"""The search for word vectors that bring the concept back."""

import pytest
import torch
from tiny_model import make_writer, tiny_tower
from torch import Tensor

from unlearn_core.concept import Concept
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.keys import MODULES, text_module
from unlearn_core.text.token_trees import encode_all
from unlearn_core.text.tokenizer import VOCABULARY
from unlearn_core.training import adversary
from unlearn_core.training.adversary import SEARCHES, STYLE_TEMPLATES, TEMPLATES, Adversary
from unlearn_core.training.examples import retain_examples, role_scales
from unlearn_core.words.prompts import ROLE_CONCEPT, Name, fill, make_prompts, pair_prompts


class Attack:
    """An adversary against a LoRA that changes something, with the losses of its search."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, concept: Concept, seed: int = 0, steps: int = 40
    ) -> None:
        self.losses: list[float] = []
        measured = adversary.role_distance

        def watch(*arguments: Tensor) -> Tensor:
            distance = measured(*arguments)  # type: ignore[arg-type]
            self.losses.append(float(distance.detach().mean()))
            return distance

        monkeypatch.setattr(adversary, "role_distance", watch)
        self.tower = tiny_tower()
        self.tower.split_at(1)
        generator = torch.Generator().manual_seed(seed)
        keys = [text_module(layer, module) for layer in (1, 2) for module in MODULES]
        self.lora = EncoderLora(self.tower, keys, 4, generator)
        with torch.no_grad():
            for key in keys:
                up = self.lora.up(key)
                up.copy_(0.2 * torch.randn(up.shape, generator=generator))
        keep = retain_examples(self.lora, make_writer().keep([Name.of("cat"), Name.of("fox")], 20))
        self.scales = role_scales(keep)
        monkeypatch.setattr(adversary, "STEPS", steps)
        self.takes_article = Name.of(concept.name, concept.kind).takes_article
        self.stand_in = Name.of(concept.stand_in or "owl", concept.kind)
        self.adversary = Adversary(self.lora, concept, self.stand_in, generator, self.scales)
        self.sets = self.adversary.find()


def test_the_search_comes_nearer_to_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(monkeypatch, Concept("dog"))
    assert len(attack.losses) == 40
    assert attack.losses[-1] < 0.8 * attack.losses[0]


def test_the_search_leaves_the_lora_and_the_encoder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(monkeypatch, Concept("dog"), steps=3)
    assert all(p.grad is None for p in attack.tower.model.parameters())
    before = [p.detach().clone() for p in attack.lora.parameters()]
    attack.adversary.find()
    for old, now in zip(before, attack.lora.parameters(), strict=True):
        assert torch.equal(old, now)
        assert now.grad is None
    assert attack.tower.words.learned is None
    for examples in attack.sets:
        assert not examples.states.requires_grad
        assert not examples.targets.requires_grad


@pytest.mark.parametrize(
    ("concept", "templates"),
    [
        (Concept("dog"), TEMPLATES),
        (Concept("hot air balloon"), TEMPLATES),
        (Concept("mosaic", kind="style", stand_in="anime"), STYLE_TEMPLATES),
    ],
)
def test_what_it_finds_is_to_become_the_stand_in(
    concept: Concept, templates: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = Attack(monkeypatch, concept, steps=2)
    assert sum(map(len, attack.sets)) == SEARCHES * len(templates)
    with attack.lora.disabled():
        wanted = make_prompts([fill(template, attack.stand_in) for template in templates])
        _, states = encode_all(attack.tower, wanted.token_ids)
    count = len(Name.of(concept.name, concept.kind).ids)
    found = []
    for examples in attack.sets:
        assert torch.equal(examples.token_ids >= VOCABULARY, examples.roles == ROLE_CONCEPT)
        for ids, targets in zip(examples.token_ids, examples.targets, strict=True):
            own = tuple(ids[ids >= VOCABULARY].tolist())
            number = next(
                number
                for number, template in enumerate(templates)
                if fill(template, Name("x", own, attack.takes_article)).ids()[: len(ids)]
                == ids.tolist()
            )
            pair = pair_prompts(
                [
                    (
                        fill(templates[number], Name("x", own, attack.takes_article)),
                        fill(templates[number], attack.stand_in),
                    )
                ]
            )
            first = int((ids >= VOCABULARY).int().argmax())
            source = int(pair.source[0, first])
            torch.testing.assert_close(targets[first], states[number, source], atol=1e-5, rtol=1e-5)
            found.append((own, number))
    searches = [
        tuple(range(VOCABULARY + search * count, VOCABULARY + (search + 1) * count))
        for search in range(SEARCHES)
    ]
    assert sorted(found) == sorted((own, n) for own in searches for n in range(len(templates)))


def test_the_searches_start_at_different_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(monkeypatch, Concept("dog"), steps=1)
    vectors = torch.cat(
        [examples.states[examples.token_ids >= VOCABULARY] for examples in attack.sets]
    )
    assert len(torch.unique(vectors.round(decimals=3), dim=0)) > len(TEMPLATES)


def test_the_same_seed_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        Attack(monkeypatch, Concept("dog"), seed=seed, steps=3).sets[0].states for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_searches_even_where_gradients_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        attack = Attack(monkeypatch, Concept("dog"), steps=20)
    assert attack.losses[-1] < attack.losses[0]
