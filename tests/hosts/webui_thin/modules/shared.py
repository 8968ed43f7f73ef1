"""State, options and command line of the host."""

from __future__ import annotations

import sys
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

cmd_opts = SimpleNamespace(
    api=True, nowebui=False, api_auth=None, lowvram=False, medvram=False, lora_dir="",
    embeddings_dir="",
)  # fmt: skip
loaded_hypernetworks: list[Any] = []
demo: Any = None


class OptionInfo:
    """One option of the settings."""

    def __init__(
        self, default: Any = None, label: str = "", component: Any = None,
        component_args: Any = None, section: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.default, self.label, self.section = default, label, section
        self.component, self.component_args = component, component_args

    def info(self, _: str) -> OptionInfo:
        return self

    def needs_reload_ui(self) -> OptionInfo:
        return self


class Options:
    """Options by name; an unknown one is an AttributeError."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {
            "live_previews_enable": True,
            "temp_dir": "",
            "CLIP_stop_at_last_layers": 1,
            "sd_model_checkpoint": "demo.safetensors",
        }
        self.data_labels: dict[str, OptionInfo] = {}

    def __getattr__(self, name: str) -> Any:
        if name != "data" and name in self.data:
            return self.data[name]
        raise AttributeError(name)

    def add_option(self, name: str, option: OptionInfo) -> None:
        self.data_labels[name] = option
        self.data.setdefault(name, option.default)


class State:
    """Progress of the job that has the queue."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begin("")
        self.job_count = 0

    def begin(self, job: str = "(unknown)") -> None:
        self.job, self.job_count, self.job_no = job, -1, 0
        self.sampling_step = self.sampling_steps = 0
        self.skipped = self.interrupted = self.stopping_generation = False
        self.textinfo: str | None = None
        self.current_image: Any = None
        self.id_live_preview = 0
        self.time_start = time.time()

    def end(self) -> None:
        self.job, self.job_count = "", 0

    def interrupt(self) -> None:
        self.interrupted = True

    def assign_current_image(self, image: Any) -> None:
        self.current_image = image
        self.id_live_preview += 1


opts = Options()
state = State()


class _Shared(ModuleType):
    @property
    def sd_model(self) -> Any:
        """As in AUTOMATIC1111: asking for the model loads it."""
        from modules import sd_models

        return sd_models.model_data.sd_model


sys.modules[__name__].__class__ = _Shared
