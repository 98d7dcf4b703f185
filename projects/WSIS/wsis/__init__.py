"""WSIS: weakly supervised instance segmentation on Detectron2.

In Python (docs/python.md): ``wsis.Predictor`` runs what a run has trained, ``wsis.run`` runs a
pipeline, ``wsis.evaluate`` scores anybody's predictions, ``wsis.register_dataset`` makes your own
data set known. They load what they need when they are used; ``import wsis`` alone is cheap.
"""

import importlib
from typing import Any

from wsis import compat, errors

__version__ = "0.1.0"
_DOOR = {
    "Predictor": "wsis.predictor",
    "run": "wsis.door",
    "evaluate": "wsis.door",
    "register_dataset": "wsis.data.user",
}

compat.apply_on_import()


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module 'wsis' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_DOOR[name]), name)
    except ModuleNotFoundError as error:
        said = errors.missing_package(error)
        raise (ModuleNotFoundError(said, name=error.name) if said else error) from error
