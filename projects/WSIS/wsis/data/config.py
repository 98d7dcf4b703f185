"""Config keys of what mappers do to images, and of segment proposals."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.data.working_size import MAX_PIXELS


def add_input_config(cfg: CfgNode) -> None:
    """Add ``INPUT.*`` keys; of Detectron2's own, FORMAT and RANDOM_FLIP are used as well."""
    # No stage sees more pixels of an image, which bounds the memory that it takes: a larger one is
    # made smaller when it is read, and what leaves the pipeline enlarged. 0: no limit.
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS
    # Working size: the longer side of every image becomes this before SCALES and RESCALE_RANGE and
    # in inference, pixels; products keep the size above. 0 works at that size.
    cfg.INPUT.LONGER_SIDE = 0
    # Classifier training: the longer side becomes a uniform random integer of this range, pixels.
    cfg.INPUT.LONGER_SIDE_RANGE = (320, 640)
    # Side of the square crops and canvases of training and of the displacement mean, pixels;
    # 0 takes whole images.
    cfg.INPUT.CROP_SIDE = 512
    # Factors (of the working size) of the multi-scale class activation maps; the first one also
    # gives the scores.
    cfg.INPUT.SCALES = (1.0, 0.5, 1.5, 2.0)
    # (divisor, remainder): every side becomes the nearest divisor k + remainder, k >= 1.
    # (32, 1) for trunks converted from TensorFlow, whose padding agrees at such sizes; (0, 0): off.
    cfg.INPUT.SIDE_RULE = (0, 0)
    # (H, W) to which every image is first stretched, whatever its aspect (bilinear, as PRM does;
    # scale and crop keys then do not count); (0, 0): off.
    cfg.INPUT.STRETCH = (0, 0)


def add_proposals_config(cfg: CfgNode) -> None:
    """Add ``WSIS.PROPOSALS``: where segment proposals come from."""
    cfg.WSIS.PROPOSALS = CfgNode()
    # "generate" makes them from the pictures (no learning). Otherwise the format of the files in
    # ROOT: "auto" (by suffix and content), "npz" (of datasets/make_proposals.py), "mat" (MCG, COB,
    # CIM's mask stacks), "prm" (JSON of PRM's demo), "rle" (JSON of COCO RLEs, Segment Anything's).
    cfg.WSIS.PROPOSALS.FORMAT = "generate"
    # Folder of the files, one an image, named like its image key or file (perhaps with COCO 2014's
    # prefix); not used by "generate".
    cfg.WSIS.PROPOSALS.ROOT = ""
    # Only so many of the best proposals of an image are kept; 0: all.
    cfg.WSIS.PROPOSALS.MAX_COUNT = 1000
    # "generate": one superpixel of a picture for so many pixels, but at most the second number.
    cfg.WSIS.PROPOSALS.PIXELS_PER_SUPERPIXEL = 40
    cfg.WSIS.PROPOSALS.MAX_SUPERPIXELS = 1200
    # Smaller regions are no proposals, pixels.
    cfg.WSIS.PROPOSALS.MIN_AREA = 40
    # A proposal whose mask IoU with a better one is above this is dropped; 1 drops only equal ones.
    cfg.WSIS.PROPOSALS.NMS_THRESHOLD = 0.9
