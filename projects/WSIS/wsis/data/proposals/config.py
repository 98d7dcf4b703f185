"""Config keys of segment proposals."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_proposals_config(cfg: CfgNode) -> None:
    """Add ``WSIS.PROPOSALS``: where segment proposals come from."""
    cfg.WSIS.PROPOSALS = CfgNode()
    # "generate" makes them from the pictures (no learning). Otherwise the format of the files in
    # ROOT: "auto" (by suffix and content), "npz" (of datasets/make_proposals.py), "mat" (MCG, COB,
    # CIM's mask stacks), "prm" (JSON of PRM's demo), "rle" (JSON of COCO RLEs, Segment Anything's).
    cfg.WSIS.PROPOSALS.FORMAT = "generate"
    # Folder of the files, one an image, called as its image key or file (perhaps with COCO 2014's
    # prefix); not used by "generate".
    cfg.WSIS.PROPOSALS.ROOT = ""
    # At most so many proposals of an image, the best; 0 keeps all that there are.
    cfg.WSIS.PROPOSALS.MAX_COUNT = 1000
    # Of "generate". One superpixel of a picture for so many pixels, but at most the second number.
    cfg.WSIS.PROPOSALS.PIXELS_PER_SUPERPIXEL = 40
    cfg.WSIS.PROPOSALS.MAX_SUPERPIXELS = 1200
    # Smaller regions are no proposals, pixels.
    cfg.WSIS.PROPOSALS.MIN_AREA = 40
    # Of two proposals that overlap more than this (mask IoU) the better one stays; 1 drops equal
    # ones only.
    cfg.WSIS.PROPOSALS.NMS_THRESHOLD = 0.9
