"""Backbones; importing this package registers them with Detectron2."""

from wsis.modeling.backbones.norm import RunningStatsBatchNorm2d, get_norm
from wsis.modeling.backbones.resnet import build_wsis_resnet_backbone
