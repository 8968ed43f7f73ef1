"""Several concepts forgotten at once.

stacked   each file is added to the encoder by itself, as a host does with several loaders
joint     one run of the preset on all concepts gives one LoRA
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.methods.preset import with_lora
from bench.protocol.cells import GRAMMARS, Cell, World
from bench.protocol.erased import Erased, Task
from bench.protocol.layout import CELL_SEEDS, SEED_STEP, STYLE_GRAMMARS, Sizes
from unlearn_core.concept import Concept
from unlearn_core.forgetting.unlearn import unlearn_together
from unlearn_core.lora.file import lora_bytes
from unlearn_core.lora.weights import LoraWeights, apply_lora
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.settings import preset

MODES = ("stacked", "joint")


def stack(base: Erased, loras: Sequence[LoraWeights]) -> Erased:
    """The base with all of these LoRAs; raises WrongModel as `apply_lora` does."""
    weights = base.model.text_encoder_weights()
    for lora in loras:
        weights = apply_lora(weights, lora)
    encoder = build_encoder(base.model, weights)
    size = sum(len(lora_bytes(lora)) for lora in loras)
    return dataclasses.replace(base, encoder=encoder, family="text encoder", file_bytes=size)


def joint(base: Erased, tasks: Sequence[Task], method: str) -> Erased:
    """The base after one run on all tasks; raises as `unlearn_together` does."""
    settings = preset(method, seed=tasks[0].seed)
    concepts = [
        Concept(task.name, kind=task.kind, images=task.images if settings.uses_pictures else ())
        for task in tasks
    ]
    lora = unlearn_together(base.model, concepts, settings).lora
    return dataclasses.replace(with_lora(base, lora), file_bytes=len(lora_bytes(lora)))


def stack_cells(
    world: World, gone: Sequence[str], everything: Sequence[str], seed: int, sizes: Sizes
) -> dict[str, Cell]:
    """A cell for each concept that is `gone`, the same as in main, and one of things never gone.

    `everything` are the concepts of the highest stack: the others are the same for every height.
    """
    start = SEED_STEP * seed
    cells = {}
    for name in gone:
        if name in world.styles:
            words = [(word, word) for word in world.objects]
            styles, grammars = [name], STYLE_GRAMMARS
        else:
            words, styles, grammars = [(name, name)], None, GRAMMARS
        number = start + CELL_SEEDS["name"]
        cells[f"name:{name}"] = world.cell(words, sizes.name, number, styles, grammars)
    rest = [(word, word) for word in world.objects if word not in everything]
    styles = [style for style in world.styles if style not in everything]
    number = start + CELL_SEEDS["others"]
    cells["others"] = world.cell(rest, sizes.other * len(rest), number, styles)
    return cells
