"""Config keys of IAM; importing this module registers its networks and stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.iam import mappers, meta_arch, roi_heads, stages  # noqa: F401  (registers)


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
    # Peaks are those of the image's tags, where it has any; False: of the classes that score above
    # MODEL.PEAK_CLASSIFIER.CLASS_THRESHOLD, as simple-IAM. In training and in inference.
    keys.USE_TAGS = True


def _add_sampler_config(keys: CfgNode) -> None:
    """Training targets."""
    keys.SAMPLER = CfgNode()
    # The best so many proposals of an image are looked at; 0: all.
    keys.SAMPLER.PROPOSAL_COUNT = 100
    # Shares of the image between which proposals are valid.
    keys.SAMPLER.SIZE_LIMITS = (0.00002, 0.85)
    # Side of the square that draws a proposal's contour, pixels of the network's input.
    keys.SAMPLER.CONTOUR_WIDTH = 5
    # Weight of the response inside a proposal against that on its contour.
    keys.SAMPLER.BALANCE = 0.1
    # What a proposal costs that covers the image. 0 as simple-IAM, where nothing speaks against a
    # mask that is too large; c x BALANCE favours pixels whose response is above c times the mean.
    keys.SAMPLER.AREA_COST = 0.0
    # The best so many proposals of a peak are drawn from ...
    keys.SAMPLER.NUM_CANDIDATES = 5
    # ... of which only those count whose mask IoU with the best is larger; None keeps all.
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
    # Probability above which a pixel belongs to the instance.
    keys.MASK_THRESHOLD = 0.5
    # Share of the image below which an instance is left out.
    keys.MIN_AREA = 0.0
    # Mask IoU from which the better of two instances suppresses the other; above 1: never.
    keys.NMS_THRESHOLD = 0.5
    # Whatever their classes; False: only instances of one class.
    keys.NMS_ACROSS_CLASSES = False
    # "class" (sigmoid of its score), "mask" (mean activation inside) or their "product".
    keys.SCORE = "product"
    # The best so many instances of an image; 0: all.
    keys.MAX_INSTANCES = 0
