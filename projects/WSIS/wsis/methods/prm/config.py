"""Config keys of PRM; importing this module registers its stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.prm import stages  # noqa: F401  (registers them)


def add_prm_config(cfg: CfgNode) -> None:
    """Add ``MODEL.PRM.*``, in place; the classifier's keys are ``MODEL.PEAK_CLASSIFIER.*``."""
    cfg.MODEL.PRM = CfgNode()
    keys = cfg.MODEL.PRM
    # Where masks come from: "proposals" (the paper), or "response": the peak response map above a
    # threshold, the baseline that needs no proposals.
    keys.MASKS = "proposals"
    # Only peaks of the image's tags count, whatever the scores. In images without tags those of
    # classes that score high enough count.
    keys.USE_TAGS = True
    # What ranks instances (never published): "retrieval" (score of the proposal), "peak" (height),
    # "probability" (of the class in the image) or "product" of the three; all end in [0, 1].
    keys.SCORE = "product"
    # An instance whose mask IoU with a better one reaches this is dropped; above 1: never.
    keys.NMS_THRESHOLD = 0.3
    # Only instances of one class suppress each other; the original does it across classes.
    keys.NMS_WITHIN_CLASS = False
    # Add the response map of a suppressed instance to that of its winner.
    keys.MERGE_RESPONSES = True
    # "response": pixels above this share of the smoothed map's maximum are the mask.
    keys.RESPONSE_THRESHOLD = 0.1
    # Standard deviation of the Gaussian that smooths it, as a share of the longer side.
    keys.RESPONSE_BLUR = 0.01
    # Only so many of the first proposals of an image are used; 0: all.
    keys.PROPOSAL_COUNT = 100
    # The background of a class is where its map (as bytes) is below this times its mean.
    keys.BACKGROUND_FACTOR = 0.95
    # What each background pixel in a mask costs where the network sees 448 x 448 pixels. At other
    # sizes the same share of the image costs the same.
    keys.PENALTY = 1e-5
    # Weight of the response inside a mask; that on its contour has weight 1.
    keys.BALANCE = 0.8
    # A list [BACKGROUND_FACTOR, PENALTY, BALANCE] for each class; empty: the values above for all.
    keys.CLASS_FACTORS = []
    # Side of the square of the morphological gradient that draws contours, pixels.
    keys.CONTOUR_WIDTH = 5
    # A proposal is valid if its share of the image is at least the first and below the second.
    keys.SIZE_LIMITS = (0.00002, 0.85)
