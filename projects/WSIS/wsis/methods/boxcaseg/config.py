"""Config keys of BoxCaseg; importing this module registers its network, mappers and stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.boxcaseg import mappers, meta_arch, roi_heads, stages  # noqa: F401


def _add_network_config(keys: CfgNode) -> None:
    # Features of the backbone, fine to coarse; all are resized to the first one's grid and joined.
    keys.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Share of the own head in the blend with the transferred one (the paper's alpha; COCO: 0.6).
    keys.OWN_SHARE = 0.7
    # Norm of the heads: "BN" or "SyncBN" (BN on a CPU), and the momentum of its statistics.
    keys.NORM = "BN"
    keys.NORM_MOMENTUM = 0.01
    # Normalisation of salient images, 0..255; () for MODEL.PIXEL_MEAN and PIXEL_STD, which hold for
    # box crops and inference. The original has two (spec 3.2, 3.3).
    keys.SALIENT_PIXEL_MEAN = ()
    keys.SALIENT_PIXEL_STD = ()


def _add_sample_config(keys: CfgNode) -> None:
    # Side of training samples, and of salient images before they are cropped to it, pixels.
    keys.TRAIN_SIDE = 288
    keys.SALIENT_SIDE = 320
    # Random crop around a box: shift of the centre in half extents, factor of the half extents.
    keys.SHIFT = 0.25
    keys.STRETCH = (0.5, 1.5)
    # Flips of half of the samples: "none", "vertical", "horizontal" or "both", each on its own.
    keys.BOX_FLIP = "none"
    keys.SALIENT_FLIP = "vertical"
    # Divide a salient crop by its largest value, as the original.
    keys.SALIENT_STRETCH = True
    # What a sample of a salient image shows: "image" as the original, or "object": a random crop
    # around the object as around a box, which shows it at the scale of inference.
    keys.SALIENT_CROP = "image"
    # Probability that a salient crop gets the object of another one of its batch at its rim, as
    # background: in boxes objects have neighbours, in salient images they have none. Original: 0.
    keys.NEIGHBOURS = 0.0
    # Fractional boxes to whole pixels: False truncates x, y, width and height as the original; True
    # takes every pixel that the box touches.
    keys.OUTWARDS = False

    keys.SAMPLER = CfgNode()
    # Share of boxes in a batch, the salient set once an epoch (COCO: 0.6875); 0 shuffles all (VOC).
    keys.SAMPLER.BOX_SHARE = 0.0
    # Boxes that overlap another one of their image by more than this IoU ...
    keys.SAMPLER.OVERLAP = 0.5
    # ... are left out of an epoch with this probability (COCO: 0.75). 0: never.
    keys.SAMPLER.DROP_PROBABILITY = 0.0


def add_boxcaseg_config(cfg: CfgNode) -> None:
    """Add ``MODEL.BOXCASEG.*``, in place."""
    cfg.MODEL.BOXCASEG = keys = CfgNode()
    _add_network_config(keys)
    _add_sample_config(keys)
    # Side of the crops in inference, pixels, and how many go through the network together.
    keys.INFERENCE_SIDE = 320
    keys.MAX_CROPS = 64
    # A pixel belongs to the mask from this level (of 255) of the stretched map on.
    keys.THRESHOLD = 128

    keys.PROXY = CfgNode()
    # Confidence of a mask: "original" (IoU of its box with the given one with +1, which no square
    # below 39 pixels gets above 0.95), or "fair" to small objects.
    keys.PROXY.CONFIDENCE = "original"
    # Fair confidence: an edge that misses its edge of the box by no more than this fits, pixels.
    keys.PROXY.TOLERANCE = 1.0
    # Ignore (train nothing): pixels that an instance claims but a smaller box has got ...
    keys.PROXY.IGNORE_CONTESTED = False
    # ... and pixels whose stretched map lies between these two, in 0..1; () for none.
    keys.PROXY.IGNORE_BETWEEN = ()
