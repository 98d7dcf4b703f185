"""Config keys of IAM; importing this module registers its stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.iam import stages  # noqa: F401  (registers them)


def _add_network_config(keys: CfgNode) -> None:
    # Three features of the backbone, of strides 4, 8 and 16.
    keys.IN_FEATURES = ["res2", "res3", "res4"]
    # Channels that are filled.
    keys.CHANNELS = 16
    # Side of the window from which a cell is filled, in cells of stride 4; odd.
    keys.KERNEL_SIZE = 3
    # Filling iterations.
    keys.ITERATIONS = 112
    # Channels inside the feature pyramid.
    keys.PYRAMID_WIDTH = 256
    # Batch norm at test time: "running" statistics, or those of the "batch": the peaks of the image
    # (what simple-IAM does; a peak's mask then depends on the other peaks).
    keys.STATISTICS = "running"
    # Peak responses are scaled to this mean; 0 leaves their sum at 1 as simple-IAM, whose weights
    # need that.
    keys.RESPONSE_MEAN = 0.0
    # In training and inference an image with tags only has peaks of these classes. False: of the
    # classes that score above MODEL.PEAK_CLASSIFIER.CLASS_THRESHOLD, as in simple-IAM.
    keys.USE_TAGS = True


def _add_sampler_config(keys: CfgNode) -> None:
    """Training targets."""
    keys.SAMPLER = CfgNode()
    # Only so many of the best proposals of an image are used; 0: all.
    keys.SAMPLER.PROPOSAL_COUNT = 100
    # Shares of the image between which proposals are valid.
    keys.SAMPLER.SIZE_LIMITS = (0.00002, 0.85)
    # Side of the square that draws a proposal's contour, pixels of the network's input.
    keys.SAMPLER.CONTOUR_WIDTH = 5
    # Weight of the response inside a proposal; that on its contour has weight 1.
    keys.SAMPLER.BALANCE = 0.1
    # Subtracted from the score of a proposal that covers the image, from others in proportion. 0
    # as in simple-IAM: masks that are too large cost nothing. With c x BALANCE a pixel raises the
    # score if its response is above c times the mean.
    keys.SAMPLER.AREA_COST = 0.0
    # A peak's mask is drawn from so many of its best proposals.
    keys.SAMPLER.NUM_CANDIDATES = 5
    # Of these, only the best and those count whose mask IoU with it is above this. None: all.
    keys.SAMPLER.DISCARD_THRESHOLD = 0.2
    # "random" draws one anew each time, "best" takes the best.
    keys.SAMPLER.CHOICE = "random"
    # Lose the soft border that masks get by resizing, as simple-IAM's cast to bytes does.
    keys.SAMPLER.SHRINK = False


def add_iam_config(cfg: CfgNode) -> None:
    """Add ``MODEL.IAM.*``, in place."""
    cfg.MODEL.IAM = keys = CfgNode()
    _add_network_config(keys)
    _add_sampler_config(keys)
    # Dense CRF on the network's input: mean-field steps (0: none), smoothness (standard deviation
    # in pixels, weight), appearance (standard deviations in pixels and grey levels, weight).
    keys.CRF = CfgNode()
    keys.CRF.ITERATIONS = 5
    keys.CRF.GAUSSIAN_SXY = 3.0
    keys.CRF.GAUSSIAN_WEIGHT = 3.0
    keys.CRF.BILATERAL_SXY = 80.0
    keys.CRF.BILATERAL_SRGB = 13.0
    keys.CRF.BILATERAL_WEIGHT = 10.0
    # Probability above which a pixel belongs to the instance. 0: above Otsu's threshold of each
    # map, which needs no choice.
    keys.MASK_THRESHOLD = 0.5
    # Share of the image below which an instance is left out.
    keys.MIN_AREA = 0.0
    # An instance whose mask IoU with a better one reaches this is dropped; above 1: never.
    keys.NMS_THRESHOLD = 0.5
    # Instances of different classes suppress each other, too.
    keys.NMS_ACROSS_CLASSES = False
    # "class" (sigmoid of its score), "mask" (mean activation inside) or their "product".
    keys.SCORE = "product"
    # Only so many of the best instances of an image are kept; 0: all.
    keys.MAX_INSTANCES = 0
