"""BoxCaseg with a golden file's weights, shared by the tests of two files."""

from typing import Any

import torch
from detectron2.modeling import build_model
from wsis.config import get_wsis_cfg
from wsis.methods.boxcaseg.convert import convert_boxcaseg


def boxcaseg_cfg() -> Any:
    """Config of the original's network (HRNet-W48), on the CPU."""
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "BoxCaseg"
    cfg.MODEL.BACKBONE.NAME = "build_hrnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.ROI_HEADS.NAME = "BoxCasegROIHeads"
    return cfg


def golden_state(golden: Any, arrays: dict) -> dict[str, torch.Tensor]:
    """The file's weights; every batch norm scale is halved, else the logits explode."""
    state = golden.weights(arrays)
    scales = [k for k, v in state.items() if k.endswith(".weight") and v.ndim == 1]
    return state | {name: state[name] * 0.5 for name in scales}


def build_boxcaseg(cfg: Any, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network with converted weights; every entry must find its place, and every place one."""
    model = build_model(cfg).to(memory_format=torch.channels_last)  # as it trains and infers
    model.load_state_dict(convert_boxcaseg(state), strict=True)
    return model


def heads_of(model: Any, images: torch.Tensor, salient: torch.Tensor) -> tuple:
    """Weak and full logits of normalised images, (N, 1, h, w) and (M, 1, h, w)."""
    return model.roi_heads.logits(model.backbone(images), salient)
