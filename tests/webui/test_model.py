"""What both WebUI models share, on parts that a test can see through."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unlearn_core.errors import TrainingFailed, WrongModel
from unlearn_core.models.families import SD1, SD2, SDXL
from unlearn_webui.host.webui_model import WebuiModel, check_unet, memory_explained, size_sines


class Unet(nn.Module):
    """Latent diffusion's layout, as far as it is looked at."""

    def __init__(self, channels: int = 4, width: int = 8, takes_more: bool = False) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(channels, 4, 1)])])
        self.attn2 = nn.ModuleDict({"to_k": nn.Linear(width, 8)})
        self.num_classes = "sequential" if takes_more else None


def test_running_out_of_memory_is_a_failure_in_words() -> None:
    with pytest.raises(TrainingFailed, match="Out of GPU memory"), memory_explained():
        raise torch.cuda.OutOfMemoryError("full")


def test_a_vae_in_half_precision_is_told_how_the_webui_starts_in_full() -> None:
    assert "--no-half-vae" in WebuiModel.vae_remedy


def test_a_plain_unet_is_taken_for_that_of_its_text_encoders() -> None:
    assert check_unet(Unet(), [8]) is SD2
    assert check_unet(Unet(), [8], ["quick_gelu"]) is SD1
    assert check_unet(Unet(width=768), [768]) is SD1
    assert check_unet(Unet(takes_more=True), [3, 5], ["quick_gelu"]) is SDXL


def test_a_layer_that_no_lora_can_name_is_refused() -> None:
    model = SimpleNamespace(family=SDXL, notes=())
    with pytest.raises(WrongModel, match=r"layer 11 .* SDXL can give layers 0 to 10: choose"):
        WebuiModel._set_conditioning(model, lambda skip: [12 - skip, 30], 1)


def test_sdxls_sizes_are_the_sines_of_diffusers() -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    sizes = torch.tensor([512.0, 768.0, 0.0, 0.0, 512.0, 768.0])
    expected = get_timestep_embedding(sizes, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.allclose(size_sines(512, 768), expected.flatten(), atol=1e-4)


@pytest.mark.parametrize(
    ("unet", "words"),
    [
        (Unet(channels=9), "inpainting"),
        (Unet(channels=5), "depth"),
        (Unet(channels=7), "upscaler"),
        (Unet(channels=8), "8 channels"),
        (Unet(width=16), "expects 16"),
        (Unet().to(torch.float8_e4m3fn), "few bits"),
    ],
)
def test_another_unet_is_refused_and_says_why(unet: nn.Module, words: str) -> None:
    with pytest.raises(WrongModel, match=words):
        check_unet(unet, [8])


def test_extra_conditions_are_refused() -> None:
    with pytest.raises(WrongModel, match="unCLIP"):
        check_unet(Unet(takes_more=True), [8])


def test_parts_of_two_models_are_refused() -> None:
    with pytest.raises(WrongModel, match="two models"):
        check_unet(Unet(), [3, 5])
