"""Config keys of what several methods share: backbones and the image classifier."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_modeling_config(cfg: CfgNode) -> None:
    """Add ``MODEL.*`` keys of the shared networks, in place."""
