"""Config keys of the random walker; importing this module registers its stage."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.random_walker import stages  # noqa: F401  (registers it)


def add_random_walker_config(cfg: CfgNode) -> None:
    """Add ``MODEL.RANDOM_WALKER.*``, in place."""
    cfg.MODEL.RANDOM_WALKER = keys = CfgNode()
    # Larger images are made smaller to this side, in pixels, and masks enlarged again.
    keys.LONGER_SIDE = 512
    # Superpixels of an image, on which walks are made, about ...
    keys.SUPERPIXELS = 600
    # ... but at least so many for each point.
    keys.SUPERPIXELS_PER_POINT = 10
    # How much less likely a step is where colours differ: exp(-this) at their mean difference.
    keys.SHARPNESS = 4.0
