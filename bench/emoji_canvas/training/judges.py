"""Stage 3: two judges of different design that name the objects and the style of a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from bench.emoji_canvas.pictures import EDGE, Scene
from bench.emoji_canvas.render import Renders
from bench.emoji_canvas.training.stage import Stage, as_batch
from bench.emoji_canvas.world import CONTROLS, OBJECTS, STYLES
from unlearn_core.files.input_files import read_json
from unlearn_core.loaders.demo_model import Judge
from unlearn_core.loaders.model_files import fill_module, read_weights

JUDGED = tuple(thing.name for thing in OBJECTS + CONTROLS)
BATCH = 64
SEEDS = {"convolutional": 3, "transformer": 4}
_LEARNING_RATE = {"convolutional": 2e-3, "transformer": 1e-3}
_STEM_WIDTH = 24
_BLOCK_WIDTHS = (40, 72, 112, 144)
_LOG_EVERY = 100


class TransformerJudge(Judge):
    """64 patches from three convolutions, then four transformer layers."""

    def __init__(self, objects: list[str], styles: list[str], width: int, layers: int) -> None:
        """Untrained; the heads are a Judge's."""
        nn.Module.__init__(self)
        self.objects, self.styles = objects, styles
        widths = (3, width // 4, width // 2, width)
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.GELU())
                for before, after in pairwise(widths)
            )
        )
        self.places = nn.Parameter(0.02 * torch.randn(1, (EDGE // 8) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, width // 32, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.object_head = nn.Linear(width, len(objects))
        self.style_head = nn.Linear(width, len(styles))

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, 64, 64) float32 in [-1, 1] -> (B, width)."""
        patches = self.stem(pixels).flatten(2).transpose(1, 2)
        return self.layers(patches + self.places).mean(1)


def new_judge(design: str) -> Judge:
    """An untrained judge: "convolutional" or "transformer"."""
    torch.manual_seed(SEEDS[design])
    if design == "transformer":
        return TransformerJudge(list(JUDGED), list(STYLES), width=96, layers=4)
    return Judge(list(JUDGED), list(STYLES), _STEM_WIDTH, list(_BLOCK_WIDTHS))


def load_transformer_judge(folder: Path) -> TransformerJudge:
    """The judge that `save_judge` wrote there, frozen. Raises BadFile."""
    config = read_json(folder / "judge.json")
    with torch.device("meta"):
        judge = TransformerJudge(
            list(config["objects"]), list(config["styles"]), config["width"], config["layers"]
        )
    file = folder / "judge.safetensors"
    fill_module(judge, read_weights(file), file)
    return judge


def save_judge(judge: Judge, folder: Path) -> None:
    """FOLDER/judge.json and judge.safetensors in float16, as the loaders expect them."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, object] = {"objects": judge.objects, "styles": judge.styles}
    if isinstance(judge, TransformerJudge):
        config |= {"width": judge.places.shape[2], "layers": len(judge.layers.layers)}
    else:
        config |= {"stem_width": _STEM_WIDTH, "block_widths": list(_BLOCK_WIDTHS)}
    config["picture_size"] = EDGE
    (folder / "judge.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {
        name: weight.half().contiguous()
        for name, weight in judge.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(weights, folder / "judge.safetensors", metadata={"format": "pt"})


def _targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Which objects each scene shows (N, objects) float, and its style (N,)."""
    shown = torch.zeros(len(scenes), len(JUDGED))
    for row, scene in enumerate(scenes):
        shown[row, list(scene.objects)] = 1
    return shown, torch.tensor([list(STYLES).index(scene.style) for scene in scenes])


def _worsen(pixels: Tensor) -> Tensor:
    """Blur, noise, contrast and small shifts, as a generator's pictures have them."""
    count = len(pixels)

    def some(*shape: int) -> Tensor:
        return torch.rand(count, *(shape or (1, 1, 1)))

    blurred = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), "replicate"), 3, 1)
    share = some() * (some() < 0.4)
    pixels = blurred * share + pixels * (1 - share)
    pixels = pixels * (0.85 + 0.3 * some()) + 0.075 * torch.randn(count, 3, 1, 1)
    pixels = pixels + torch.randn_like(pixels) * 0.12 * some()
    blotches = functional.interpolate(
        torch.randn(count, 3, 16, 16), size=pixels.shape[-1], mode="bilinear"
    )
    shift = torch.randint(-3, 4, (2,)).tolist()
    return torch.roll(pixels + blotches * 0.15 * some(), shift, (2, 3))


def train_judge(design: str, renders: Renders, folder: Path, minutes: float) -> Judge:
    """Train for `minutes` in all, resuming what lies in `folder`; returns the frozen judge."""
    stage = Stage(f"judge-{design}", folder, minutes)
    judge = new_judge(design).train()
    optimizer = torch.optim.AdamW(
        judge.parameters(), lr=_LEARNING_RATE[design], weight_decay=2e-2, fused=True
    )
    step = 0
    if state := stage.load():
        judge.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    torch.manual_seed(SEEDS[design] + step)
    data = torch.from_numpy(renders.pixels)
    shown, styles = _targets(renders.scenes)

    def save() -> None:
        stage.save(weights=judge.state_dict(), optimizer=optimizer.state_dict(), step=step)

    while (share := stage.share) < 1:
        rate = min(1.0, (step + 1) / 100) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * share)))
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE[design] * rate
        picked = torch.randint(len(data), (BATCH,))
        objects, style = judge(_worsen(as_batch(data[picked])))
        wanted = shown[picked] / shown[picked].sum(1, keepdim=True)
        loss = functional.cross_entropy(objects, wanted, label_smoothing=0.05)
        loss = loss + functional.cross_entropy(style, styles[picked], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % _LOG_EVERY == 0:
            stage.log(step=step, loss=round(loss.item(), 4))
        if stage.due:
            save()
    save()
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(judge: Judge, pixels: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of pictures read right: `object` of singles, `pair` with both found, `style` of all.

    `pixels` (N, 3, 64, 64) in [-1, 1]. A pair counts when its objects are the two likeliest.
    """
    shown, styles = _targets(scenes)
    logits = [judge(part) for part in pixels.split(256)]
    objects = torch.cat([part for part, _ in logits])
    style = torch.cat([part for _, part in logits]).argmax(1)
    count = shown.sum(1).long()
    found = torch.stack(
        [shown[i, objects[i].topk(int(n)).indices].sum() == n for i, n in enumerate(count)]
    ).float()
    return {
        "object": float(found[count == 1].mean()),
        "pair": float(found[count == 2].mean()),
        "style": float((style == styles).float().mean()),
    }
