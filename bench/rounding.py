"""What bfloat16 in the frozen text encoder changes: the conditioning, and what is forgotten by it.

    python -m bench.rounding [--preset quick:steps=0+layers=last:1] [--concepts dog,truck,sketch]

First the relative error of a position's conditioning against float32, on random weights of SD2's
size and on the demo model. Then the preset runs on the demo model with either dtype; both LoRAs are
put on the text encoder in float32 and read there, on prompts that neither saw: how much of the
distance to the stand-in is left, how far kept prompts moved (1 is as far as two random prompts lie
apart), and the drift of the empty prompt. No pictures are drawn.
"""

from __future__ import annotations

import argparse
from unittest.mock import patch

import torch
from torch import Tensor

from bench.methods import settings_of
from bench.random_sd2 import RandomTextModel
from unlearn_core import unlearn as engine
from unlearn_core.concept import Concept, Kind
from unlearn_core.forgetting.prompt_plan import LessonPlan, plan_lessons
from unlearn_core.loaders.demo_model import load_demo_world
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.lora.weights import apply_lora
from unlearn_core.models.lent_model import LentModel
from unlearn_core.settings import UnlearnSettings
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.token_trees import encode_all
from unlearn_core.training.examples import gather_targets
from unlearn_core.training.losses import RoleScales, drift, role_distance
from unlearn_core.words.neighbours import look_around
from unlearn_core.words.prompts import whole_prompts
from unlearn_core.words.stand_in import StandIn

PROMPTS = ("", "a photo of a dog", "an oil painting of a castle on a hill, sketch style")
LENGTH = 20
READ = 96
"""Prompts of each kind that are read."""
PROMPT_SEED = 77
DTYPES = (torch.float32, torch.bfloat16)


@torch.no_grad()
def conditioning_error(model: LentModel) -> Tensor:
    """Relative error of each position of PROMPTS, bfloat16 against float32. (n,) float32."""
    weights = model.text_encoder_weights()
    encoder = TextEncoder(weights, model.last_used_layer, model.device, torch.bfloat16)
    ids = whole_prompts(PROMPTS).token_ids[:, :LENGTH]
    exact, (_, rounded) = encoder.encode(ids), encode_all(encoder, ids)
    return ((rounded - exact).norm(dim=-1) / exact.norm(dim=-1)).flatten()


def forget(
    model: LentModel, concept: Concept, settings: UnlearnSettings, products: torch.dtype
) -> engine.UnlearnResult:
    """A run whose frozen encoder multiplies in `products`."""
    with patch.object(engine, "text_products_dtype", lambda device: products):
        return engine.unlearn(model, concept, settings)


def fresh_prompts(
    base: TextEncoder, concept: Concept, settings: UnlearnSettings, stand_in: StandIn
) -> LessonPlan:
    """A plan like the run's own, with prompts drawn from another seed."""
    generator = torch.Generator().manual_seed(PROMPT_SEED)
    around = look_around(base, concept)
    return plan_lessons(base, concept, settings, around, stand_in, None, generator)


@torch.no_grad()
def read(base: TextEncoder, after: TextEncoder, plan: LessonPlan) -> dict[str, float]:
    """Distances in float32, see the head of this file."""
    prompts, kept = plan.forget_prompts(READ), plan.keep_prompts(READ)
    own, other = base.encode(prompts.token_ids), base.encode(prompts.stand_in_ids)
    wanted = gather_targets(own, other, prompts.source)
    kept_own = base.encode(kept.token_ids)
    scales = RoleScales.measure(kept_own, kept.roles)

    def far(states: Tensor) -> float:
        return float(role_distance(states, wanted, prompts.roles, scales).mean())

    moved = role_distance(after.encode(kept.token_ids), kept_own, kept.roles, scales)
    empty = whole_prompts([""]).token_ids
    return {
        "left": far(after.encode(prompts.token_ids)) / far(own),
        "kept": float(moved.mean()),
        'drift of ""': float(drift(after.encode(empty), base.encode(empty))),
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.rounding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--concepts", default="dog,truck,sketch")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    settings = UnlearnSettings.from_dict(settings_of(args.preset))
    demo, _ = load_model("demo")
    for name, model in (("SD2's size, random", RandomTextModel()), ("demo", demo)):
        error = conditioning_error(model)
        print(f"{name:20} error: mean {error.mean():.2%}, greatest {error.max():.2%}")
    styles = load_demo_world()["styles"]
    for name in args.concepts.split(","):
        kind: Kind = "style" if name in styles else "object"
        concept = Concept(name, kind=kind)
        weights = demo.text_encoder_weights()
        base = TextEncoder(weights, demo.last_used_layer, demo.device)
        for dtype in DTYPES:
            result = forget(demo, concept, settings, dtype)
            changed = apply_lora(weights, result.lora)
            after = TextEncoder(changed, demo.last_used_layer, demo.device)
            numbers = read(base, after, fresh_prompts(base, concept, settings, result.stand_in))
            cells = ", ".join(f"{key} {value:.4f}" for key, value in numbers.items())
            print(f"{name:10}{str(dtype).removeprefix('torch.'):10}{cells}", flush=True)


if __name__ == "__main__":
    main()
