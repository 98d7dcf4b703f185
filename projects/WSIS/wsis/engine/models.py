"""Networks with trained weights."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from wsis.errors import WSISError
from wsis.modeling.checkpoint import load_weights


def build_inference_model(cfg: CfgNode, weights: Path) -> nn.Module:
    """A stage's network with trained weights, in eval mode.

    Raises:
        WSISError: the checkpoint is not there.
    """
    if not weights.is_file():
        raise WSISError(f"no trained weights {weights}; run the stage that makes them first")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TORCHVISION.WEIGHTS = ""  # the trained weights replace the trunk's
    model = build_model(cfg)
    load_weights(model, str(weights), strict=True)
    return model.eval()
