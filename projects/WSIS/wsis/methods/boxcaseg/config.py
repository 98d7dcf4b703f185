"""Config keys of BoxCaseg; importing this module registers its network, mappers and stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.boxcaseg import mappers, meta_arch, roi_heads, stages  # noqa: F401


def _add_network_config(keys: CfgNode) -> None:
    # Features of the backbone, fine to coarse; all are resized to the first one's grid and joined.
    keys.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Weight of the own head in the blend with the transferred one (the paper's alpha; COCO: 0.6).
    keys.OWN_SHARE = 0.7
    # Norm of the heads: "BN" or "SyncBN" (BN on a CPU), and the momentum of its statistics.
    keys.NORM = "BN"
    keys.NORM_MOMENTUM = 0.01
    # Normalisation of salient images, 0..255. () takes MODEL.PIXEL_MEAN and PIXEL_STD, as box crops
    # and inference do. The original has two normalisations (spec 3.2, 3.3).
    keys.SALIENT_PIXEL_MEAN = ()
    keys.SALIENT_PIXEL_STD = ()


def _add_sample_config(keys: CfgNode) -> None:
    # Side of training samples, and of salient images before they are cropped to it, pixels.
    keys.TRAIN_SIDE = 288
    keys.SALIENT_SIDE = 320
    # Random crop around a box: shift of its centre in halves of its sides, factor of its sides.
    keys.SHIFT = 0.25
    keys.STRETCH = (0.5, 1.5)
    # Flips of half of the samples: "none", "vertical", "horizontal" or "both" (drawn separately).
    keys.BOX_FLIP = "none"
    keys.SALIENT_FLIP = "vertical"
    # Divide a salient crop by its largest value, as the original.
    keys.SALIENT_STRETCH = True
    # What a sample of a salient image shows: "image" as the original, or "object": a random crop
    # around the object as around a box, which shows it at the scale of inference.
    keys.SALIENT_CROP = "image"
    # Probability that a salient crop gets the object of another one of its batch at its rim, as
    # background: objects in boxes have neighbours, those in salient images have none. Original: 0.
    keys.NEIGHBOURS = 0.0
    # Fractional boxes to whole pixels: False truncates x, y, width and height as the original; True
    # takes every pixel that the box touches.
    keys.OUTWARDS = False

    keys.SAMPLER = CfgNode()
    # Share of boxes in a batch; an epoch then has each salient image once (COCO: 0.6875). 0
    # shuffles all samples (VOC).
    keys.SAMPLER.BOX_SHARE = 0.0
    # Boxes of an image overlap if their IoU is above this.
    keys.SAMPLER.OVERLAP = 0.5
    # Each epoch leaves out an overlapping box with this probability (COCO: 0.75). 0: never.
    keys.SAMPLER.DROP_PROBABILITY = 0.0


def add_boxcaseg_config(cfg: CfgNode) -> None:
    """Add ``MODEL.BOXCASEG.*``, in place."""
    cfg.MODEL.BOXCASEG = keys = CfgNode()
    _add_network_config(keys)
    _add_sample_config(keys)
    # Sides of the crops in inference, pixels: the mean of the maps at each, and of mirrored crops
    # too with INFERENCE_FLIP. How many crops go through the network together.
    keys.INFERENCE_SIDES = [320]
    keys.INFERENCE_FLIP = False
    keys.MAX_CROPS = 64
    # A pixel belongs to the mask if the stretched map (0..255) is at least this.
    keys.THRESHOLD = 128

    # Boxes around points: those that are tried first, the root of their area as a share of that of
    # the image, and their ratio of width to height; what is seen around a box, in its sides; how
    # often each is moved; side of the crops meanwhile, pixels.
    keys.POINTS = CfgNode()
    keys.POINTS.SIDES = [0.08, 0.16, 0.32]
    keys.POINTS.RATIOS = [0.4, 1.0, 2.5]
    keys.POINTS.MARGIN = 0.2
    keys.POINTS.ROUNDS = 5
    keys.POINTS.SIDE = 160

    # A mask of GrabCut whose box fits the given one worse than this (fair confidence) gives way to
    # the filled box; 0 keeps all. docs/methods/boxcaseg.md has the figures of other values.
    keys.GRABCUT_MIN_CONFIDENCE = 0.7

    keys.PROXY = CfgNode()
    # Who gets a pixel that several boxes claim: the "smallest" box, as published, or the one with
    # the highest "odds" of it for its area (docs/methods/boxcaseg.md has figures).
    keys.PROXY.MERGE = "smallest"
    # Confidence of a mask, from its box and the given one: "original" (an IoU with sides + 1, at
    # most 0.95 for any square below 39 pixels), or "fair" to small objects.
    keys.PROXY.CONFIDENCE = "original"
    # Fair confidence: an edge that is no more than this off the given box fits, pixels.
    keys.PROXY.TOLERANCE = 1.0
    # Ignore (train nothing on) pixels of an instance that went to a smaller box.
    keys.PROXY.IGNORE_CONTESTED = False
    # Ignore pixels whose stretched map lies between these two, in 0..1; () for none.
    keys.PROXY.IGNORE_BETWEEN = ()
