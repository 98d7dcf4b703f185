"""Config keys of BoxInst; importing this module registers its stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.boxinst import stages  # noqa: F401  (registers them)


def add_boxinst_config(cfg: CfgNode) -> None:
    """Add ``MODEL.BOXINST.*``, in place."""
    cfg.MODEL.BOXINST = keys = CfgNode()
    # In training, width and height of a region are those of its proposal times random factors of
    # this range: what lies around an object shows what background looks like. With 1, 1 masks stay
    # filled boxes for long (docs/methods/boxinst.md). Inference takes the boxes as they are.
    keys.REGION_STRETCH = (1.0, 2.0)
    # How far apart neighbours are that may have to agree, in cells of the mask (28 x 28).
    keys.NEIGHBOUR_DISTANCE = 2
    # They must if their colours are no more than this apart (CIE LAB, L in 0..100). The paper's
    # exp(-difference / 2) >= 0.3 is a difference of at most 2.408.
    keys.COLOR_DIFFERENCE = 2.408
    # Iterations in which the weight of the pairwise term grows from 0 to 1: a ninth of the training
    # in the paper (10,000 of 90,000).
    keys.PAIRWISE_WARMUP_ITERS = 10000
