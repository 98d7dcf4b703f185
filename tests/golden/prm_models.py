"""PRM's classifier with a golden file's weights, shared by the tests of several files."""

import torch
from wsis.config import get_wsis_cfg
from wsis.methods.prm.convert import peak_classifier_from_original
from wsis.modeling.peak_classifier import PeakClassifier, build_peak_classifier


def prm_cfg(num_classes: int, *, factor: int = 8, stimulate: bool = True):
    """Config of the original's network, on the CPU."""
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.PEAK_CLASSIFIER.NUM_CLASSES = num_classes
    cfg.MODEL.PEAK_CLASSIFIER.SUB_PIXEL_FACTOR = factor
    cfg.MODEL.PEAK_CLASSIFIER.STIMULATE = stimulate
    return cfg


def build_prm(cfg, state: dict[str, torch.Tensor]) -> PeakClassifier:
    """The classifier with converted weights; every entry must find its place."""
    model = build_peak_classifier(cfg)
    missing, unexpected = model.load_state_dict(
        peak_classifier_from_original(state, prefix=""), strict=False
    )
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model
