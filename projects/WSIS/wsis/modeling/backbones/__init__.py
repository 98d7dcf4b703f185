"""Backbones; importing this package registers them with Detectron2."""

from wsis.modeling.backbones.hrnet import HRNet, build_hrnet_backbone, build_hrnet_fpn_backbone
from wsis.modeling.backbones.hrnet_classifier import (
    HRNetClassifierTrunk,
    build_hrnet_classifier_backbone,
)
from wsis.modeling.backbones.norm import RunningStatsBatchNorm2d, get_norm
from wsis.modeling.backbones.resnet import build_wsis_resnet_backbone
from wsis.modeling.backbones.torchvision import (
    TorchvisionBackbone,
    build_torchvision_backbone,
    build_torchvision_fpn_backbone,
)
from wsis.modeling.backbones.vgg import VGG16, build_vgg16_backbone
