"""WSIS: weakly supervised instance segmentation on Detectron2."""

from wsis import compat

__version__ = "0.1.0"

compat.apply_on_import()
