"""The WebUI around us: which checkpoint it has loaded, whether that can be used, how it started."""

from __future__ import annotations

import logging
from typing import Any

from modules import sd_models, shared

from unlearn_core.errors import UnlearnError, WrongModel
from unlearn_core.loaders.single_file import TURBO_NAME

from .chosen_checkpoint import Checkpoint
from .webui_model import IS_TURBO, WebuiModel

logger = logging.getLogger(__name__)


def checkpoint() -> Checkpoint:
    """The checkpoint that a run would use; loads nothing."""
    selected = str(getattr(shared.opts, "sd_model_checkpoint", None) or "")
    model = _loaded()
    if model is None:
        return Checkpoint(selected, loaded=False)
    name = checkpoint_name(model)
    try:
        lent = lend(model)
        return Checkpoint(name, lent.family.name, notes=lent.notes)
    except UnlearnError as error:
        return Checkpoint(name, refusal=str(error))
    except Exception as error:  # an unknown kind of model must not take the whole tab away
        logger.exception("The loaded model can't be examined")
        return Checkpoint(name, refusal=f"It is of an unknown kind ({type(error).__name__}).")


def checkpoint_name(model: Any) -> str:
    """The name of the host's loaded model, as its list of checkpoints shows it."""
    return str(model.sd_checkpoint_info.name_for_extra)


def load() -> Any:
    """The host's model, loaded first where that has not happened; the queue lock must be held."""
    if hasattr(sd_models, "forge_model_reload"):
        try:
            sd_models.forge_model_reload()
        except ValueError as error:  # Forge's way to say that there is no checkpoint
            raise WrongModel(str(error)) from error
    model = shared.sd_model
    if model is None or not hasattr(model, "sd_checkpoint_info"):
        raise WrongModel("No checkpoint is loaded: choose one at the top of the page.")
    return model


def lend(model: Any) -> WebuiModel:
    """The host's model as a LentModel; raises WrongModel if it is none that can be used."""
    lent = _adapter(model)
    if TURBO_NAME.search(checkpoint_name(model)):
        lent.is_distilled = True
        lent.notes += (IS_TURBO,)
    return lent


def api_is_on() -> bool:
    """Whether the host was started with its API."""
    options = shared.cmd_opts
    return bool(getattr(options, "api", False) or getattr(options, "nowebui", False))


def api_logins() -> tuple[tuple[str, str], ...]:
    """User and password pairs of --api-auth; empty where the API is open."""
    stated = getattr(shared.cmd_opts, "api_auth", None) or ""
    pairs = (login.partition(":") for login in stated.split(",") if login)
    return tuple((user, password) for user, _, password in pairs)


def _adapter(model: Any) -> WebuiModel:
    if getattr(model, "forge_objects_original", None) is not None:
        from .forge_model import ForgeModel

        return ForgeModel(model)
    if hasattr(model, "forge_objects"):
        raise WrongModel("This kind of Forge keeps its model elsewhere: it is not known.")
    from .ldm_model import LdmModel

    return LdmModel(model)


def _loaded() -> Any | None:
    """The loaded model; None before the first one, and while another one is selected in Forge."""
    data = sd_models.model_data
    selected = getattr(data, "forge_loading_parameters", None)
    if selected is not None and str(selected) != getattr(data, "forge_hash", None):
        return None
    model = data.sd_model
    return model if hasattr(model, "sd_checkpoint_info") else None
