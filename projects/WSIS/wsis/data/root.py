"""Where data sets lie, for command lines too: nothing heavy is imported here."""

from __future__ import annotations

import os
from pathlib import Path


def datasets_root() -> Path:
    """The folder of all data sets: ``DETECTRON2_DATASETS``, default ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
