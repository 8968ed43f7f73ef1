"""Whether a concept has moved, in prompts that no run trains on."""

import pytest
import torch
from tiny_model import WIDTH, TinyModel, draw, small_settings, tiny_encoder

from unlearn_core.concept import Concept
from unlearn_core.errors import TrainingFailed
from unlearn_core.forgetting.held_out import (
    OBJECT_TEMPLATES,
    STYLE_TEMPLATES,
    WATCHED_OBJECT,
    WATCHED_STYLE,
    Moved,
    concept_prompts,
    kept_prompts,
    measure_moved,
    watched,
)
from unlearn_core.forgetting.unlearn import unlearn, unlearn_together
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.keys import text_module
from unlearn_core.progress import SilentMonitor
from unlearn_core.settings import preset
from unlearn_core.training.losses import ROLE_COUNT, RoleScales
from unlearn_core.words.prompt_templates import VARIED_OBJECT, VARIED_STYLE

DOG = Concept("dog", ("puppy",))
SCALES = RoleScales(torch.ones(ROLE_COUNT))


def test_every_name_stands_in_every_grammar() -> None:
    prompts = concept_prompts(DOG.names, "object", "owl")
    assert len(prompts) == 6
    assert all("dog" in text or "puppy" in text for text in prompts.texts)
    assert len(kept_prompts("style", ("mosaic", "ink"))) == 2


def test_what_ends_a_loop_is_neither_trained_nor_measured() -> None:
    watched_templates = {*WATCHED_OBJECT, *WATCHED_STYLE}
    others = {*OBJECT_TEMPLATES, *STYLE_TEMPLATES, *VARIED_OBJECT, *VARIED_STYLE}
    assert not watched_templates & others


@pytest.mark.parametrize(("concepts", "forget", "keep"), [(1, 6, 4), (3, 6, 2), (4, 3, 2)])
def test_several_concepts_share_the_prompts_of_a_look(
    concepts: int, forget: int, keep: int
) -> None:
    tower = tiny_encoder().towers[0]
    lora = EncoderLora(tower, [text_module(2, "fc2")], 4, torch.Generator().manual_seed(0))
    found = watched(
        lora, DOG.names, ("cat", "car", "rose"), "object", "owl", concepts, SilentMonitor()
    )
    assert [sum(map(len, parts)) for parts in found] == [forget, keep]


def test_a_lora_that_changes_nothing_has_moved_nothing() -> None:
    encoder = tiny_encoder()
    lora = EncoderLora(
        encoder.towers[0], [text_module(2, "fc2")], 4, torch.Generator().manual_seed(0)
    )
    for names, stand_in in ((DOG.names, "owl"), (("dogs",), "a big red house")):
        moved = measure_moved(encoder, [lora], names, "object", stand_in, [SCALES])
        assert moved.share == 0
        assert moved.apart > 0


def test_a_change_of_every_prompt_is_a_way_that_is_measured() -> None:
    encoder = tiny_encoder()
    lora = EncoderLora(
        encoder.towers[0], [text_module(2, "fc2")], 4, torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        lora.up(text_module(2, "fc2")).copy_(draw(WIDTH, 4))
    assert measure_moved(encoder, [lora], DOG.names, "object", "owl", [SCALES]).share > 0.25


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        (Moved(0.2, 1.0, 0.1), "moved by 20% of the way to 'owl' only"),
        (Moved(0.0, 1.0, 0.0), "moved by 0%"),
        (Moved(float("nan"), 1.0, float("nan")), "moved by nan%"),
        (Moved(1.0, 0.005, 1.0), "'owl' means the same as 'dog'"),
    ],
)
def test_a_concept_that_is_where_it_was_is_not_called_forgotten(moved: Moved, message: str) -> None:
    with pytest.raises(TrainingFailed, match=message):
        moved.check(DOG, "owl")
    Moved(0.9, 1.0, 0.5).check(DOG, "owl")


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (0.53, "not trained it has moved 53% of the way to 'owl'. Try another stand-in"),
        (-1.0, "not trained it has moved away from 'owl'. Try another stand-in"),
        (float("nan"), "'dog' does not count as forgotten"),
    ],
)
def test_a_concept_that_moved_too_little_does_not_count_as_forgotten(
    way: float, message: str
) -> None:
    doubt = Moved(0.9, 1.0, way).doubt(DOG, "owl")
    assert doubt is not None
    assert message in doubt
    assert Moved(0.9, 1.0, 0.8).doubt(DOG, "owl") is None


def test_the_way_to_the_stand_in_is_all_of_it_when_the_lora_leads_there() -> None:
    encoder = tiny_encoder()
    lora = EncoderLora(
        encoder.towers[0], [text_module(2, "fc2")], 4, torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        lora.up(text_module(2, "fc2")).copy_(3 * draw(WIDTH, 4))
    names, scales = DOG.names, [SCALES]
    aimed, free = (
        measure_moved(encoder, [lora], names, "object", "owl", scales, anywhere)
        for anywhere in (False, True)
    )
    assert aimed.way < 0  # a random change leads away from it
    assert free.way == free.share == aimed.share


def test_a_run_says_how_far_its_concepts_moved() -> None:
    quick = preset("quick", **small_settings(steps=0, forget_prompts=64, keep_prompts=64))
    result = unlearn(TinyModel(), DOG, quick)
    result.check_moved()
    too_short = preset("balanced", **small_settings(steps=1, use_pictures=False))
    with pytest.raises(TrainingFailed, match="'dog' has moved by"):
        unlearn(TinyModel(), DOG, too_short).check_moved()
    together = unlearn_together(TinyModel(), (DOG, Concept("car")), too_short)
    with pytest.raises(TrainingFailed, match="'dog' has moved by"):
        together.check_moved()
