"""IRNet with a golden file's weights, shared by the tests of three files."""

from typing import Any

import torch
from detectron2.modeling import build_model
from wsis.config import get_wsis_cfg
from wsis.methods.irnet.convert import convert_irnet


def irnet_cfg() -> Any:
    """Config of the original's network, on the CPU."""
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "IRNet"
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 1)
    cfg.MODEL.ROI_HEADS.NAME = "IRNetROIHeads"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    return cfg


def build_irnet(state: dict[str, torch.Tensor], cfg: Any | None = None) -> torch.nn.Module:
    """The network with converted weights; every entry must find its place."""
    model = build_model(cfg or irnet_cfg())
    missing, unexpected = model.load_state_dict(convert_irnet(state), strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model
