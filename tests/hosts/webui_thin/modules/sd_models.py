"""Which model is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

model_data = SimpleNamespace(sd_model=None)


def lend(model: Any) -> None:
    """Make this the loaded model."""
    model_data.sd_model = model
