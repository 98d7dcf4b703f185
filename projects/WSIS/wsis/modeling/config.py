"""Config keys of what several methods share: backbones and the image classifier."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.modeling import backbones  # noqa: F401  (registers them)


def _add_backbone_config(cfg: CfgNode) -> None:
    # build_wsis_resnet_backbone; depth, norm (also "RunningStatsBN"), features: MODEL.RESNETS.
    cfg.MODEL.WSIS_RESNETS = CfgNode()
    # Stride of the first block of res2, res3, res4, res5; IRNet's networks have 1, 2, 2, 1.
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 2)
    # Dilation of all 3x3 convolutions of res2, res3, res4, res5.
    cfg.MODEL.WSIS_RESNETS.DILATIONS = (1, 1, 1, 1)


def add_modeling_config(cfg: CfgNode) -> None:
    """Add ``MODEL.*`` keys of the shared networks, in place."""
    _add_backbone_config(cfg)
