"""Config keys of IRNet."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_irnet_config(cfg: CfgNode) -> None:
    """Add ``MODEL.IRNET.*``, in place."""
    cfg.MODEL.IRNET = CfgNode()
