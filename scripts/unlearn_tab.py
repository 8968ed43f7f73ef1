"""The WebUI's door into SD Unlearn: finds the packages beside it and registers their callbacks."""

import logging
from pathlib import Path

import unlearn_core
import unlearn_webui

HERE = Path(__file__).parents[1]
FOUND = [str(package.__file__) for package in (unlearn_core, unlearn_webui)]

if all(Path(file).parents[1].samefile(HERE) for file in FOUND):
    from unlearn_webui.callbacks import register

    register()
else:
    logging.getLogger(__name__).error(
        "SD Unlearn in %s does not start: other packages of its name were found first (%s). Keep "
        "one copy of the extension.", HERE, ", ".join(FOUND),
    )  # fmt: skip
