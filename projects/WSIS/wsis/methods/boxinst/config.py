"""Config keys of BoxInst; importing this module registers its networks, mappers and stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.boxinst import given_boxes, mappers, roi_heads, stages  # noqa: F401


def add_boxinst_config(cfg: CfgNode) -> None:
    """Add ``MODEL.BOXINST.*``, in place."""
    cfg.MODEL.BOXINST = keys = CfgNode()
    # How far apart neighbours are that may have to agree, in cells of the mask (28 x 28).
    keys.NEIGHBOUR_DISTANCE = 2
    # Two neighbours must agree if exp(-difference / COLOR_SCALE) of their colours (CIE LAB, L in
    # 0..100) is at least COLOR_THRESHOLD: with these values, up to a difference of 2.4.
    keys.COLOR_SCALE = 2.0
    keys.COLOR_THRESHOLD = 0.3
    # Iterations in which the weight of the pairwise term grows from 0 to 1: a ninth of the training
    # in the paper (10,000 of 90,000).
    keys.PAIRWISE_WARMUP_ITERS = 10000
