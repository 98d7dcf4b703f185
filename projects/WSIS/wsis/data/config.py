"""Config keys of what the mappers do to images."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_input_config(cfg: CfgNode) -> None:
    """Add ``INPUT.*`` keys beside Detectron2's (of which FORMAT and RANDOM_FLIP hold too)."""
    # Working size: the longer side of every image becomes this before SCALES and RESCALE_RANGE and
    # in inference, pixels; products keep the file's size. 0 works at the file's size.
    cfg.INPUT.LONGER_SIDE = 0
    # Classifier training: the longer side becomes a uniform random integer of this range, pixels.
    cfg.INPUT.LONGER_SIDE_RANGE = (320, 640)
    # Relation network training: image and label are rescaled by a uniform factor of this range (of
    # the working size).
    cfg.INPUT.RESCALE_RANGE = (0.5, 1.5)
    # Side of the square crops and canvases of training and of the displacement mean, pixels;
    # 0 takes whole images.
    cfg.INPUT.CROP_SIDE = 512
    # Factors (of the working size) of the multi-scale class activation maps; the first one also
    # gives the scores.
    cfg.INPUT.SCALES = (1.0, 0.5, 1.5, 2.0)
    # (divisor, remainder): every side becomes the nearest divisor k + remainder, k >= 1.
    # (32, 1) for trunks converted from TensorFlow, whose padding agrees at such sizes; (0, 0): off.
    cfg.INPUT.SIDE_RULE = (0, 0)
    # Scoring of segment proposals: in training the longer side becomes one of these, pixels ...
    cfg.INPUT.LONGER_SIDES_TRAIN = (480, 576, 688, 864, 1200)
    # ... and in inference each of these, the scores being averaged;
    cfg.INPUT.LONGER_SIDES_TEST = (480, 576, 688, 864, 1200)
    # with a mirrored image of each.
    cfg.INPUT.FLIP_TEST = True
    # (H, W) to which every image is stretched before anything else, its aspect not kept (bilinear,
    # as PRM does; scale and crop keys then do not count); (0, 0): off.
    cfg.INPUT.STRETCH = (0, 0)
