"""Backbones; importing this package registers them with Detectron2."""

from wsis.modeling.backbones.hrnet import HRNet, build_hrnet_backbone, build_hrnet_fpn_backbone
from wsis.modeling.backbones.resnet import (
    RunningStatsBatchNorm2d,
    build_wsis_resnet_backbone,
    get_norm,
)
from wsis.modeling.backbones.timm import (
    TimmBackbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
)
