"""Networks with trained weights."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from wsis.errors import UsageError, WSISError
from wsis.modeling.checkpoint import load_weights

logger = logging.getLogger(__name__)


def build_network(cfg: CfgNode) -> nn.Module:
    """A stage's network with its initial weights.

    Raises:
        UsageError: the config describes no network that Detectron2 can build.
    """
    try:
        return build_model(cfg)
    except WSISError:
        raise
    except (AssertionError, KeyError, ValueError) as error:  # how Detectron2 refuses a config
        logger.debug("building the network failed", exc_info=True)
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise UsageError(
            f"the config of stage {cfg.WSIS.STAGE} makes no network: "
            f"{reason or type(error).__name__}; correct MODEL"
        ) from error


def build_inference_model(cfg: CfgNode, weights: Path) -> nn.Module:
    """A stage's network with trained weights, in eval mode.

    Raises:
        WSISError: the checkpoint is not there.
    """
    if not weights.is_file():
        raise WSISError(f"no trained weights {weights}; run the stage that makes them first")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.WEIGHTS = str(weights), ""  # nothing else is loaded
    model = build_network(cfg)
    load_weights(model, str(weights), strict=True)
    return model.eval()
