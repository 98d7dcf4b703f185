"""ResNets in torchvision's layout, of Detectron2's blocks, with a stride and dilation per stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.layers import get_norm as get_detectron2_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn
from torch.nn import functional

from wsis.errors import UsageError

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class RunningStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always normalises by its running statistics, which never change.

    Weight and bias are ordinary parameters and train (IRNet's classifier, irnet spec 2);
    Detectron2's FrozenBatchNorm2d keeps them as buffers, which would leave them untrained. The
    state-dict keys are those of `torch.nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (N, C, H, W); training and evaluation do the same."""
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )


def get_norm(name: str) -> str | Callable[[int], nn.Module]:
    """The ``norm`` for Detectron2's blocks: our class for "RunningStatsBN", else the name itself.

    Raises:
        ValueError: an unknown name.
    """
    if name == "RunningStatsBN":
        return RunningStatsBatchNorm2d
    try:
        get_detectron2_norm(name, 32)
    except KeyError:
        raise ValueError(
            f"unknown norm {name!r}: use RunningStatsBN, FrozenBN, BN, SyncBN or GN"
        ) from None
    return name


@BACKBONE_REGISTRY.register()
def build_wsis_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A ResNet whose features are stem (after the max-pool, stride 4), res2, res3, res4, res5.

    Reads ``MODEL.RESNETS`` (DEPTH, NORM, OUT_FEATURES, NUM_GROUPS, WIDTH_PER_GROUP,
    STEM_OUT_CHANNELS, RES2_OUT_CHANNELS), ``MODEL.WSIS_RESNETS`` (STRIDES, DILATIONS) and
    ``MODEL.BACKBONE.FREEZE_AT``. STRIDE_IN_1X1 is not read: torchvision's layout has the stride in
    the 3x3 convolution.

    Raises:
        UsageError: no such depth, or values that Detectron2's blocks cannot have.
    """
    keys, own = cfg.MODEL.RESNETS, cfg.MODEL.WSIS_RESNETS
    _check(keys, own)
    norm, basic = get_norm(keys.NORM), keys.DEPTH < 50
    stages, channels = [], keys.STEM_OUT_CHANNELS
    for stage, count in enumerate(BLOCKS_PER_STAGE[keys.DEPTH]):
        options: dict[str, Any] = {}
        if not basic:
            width = keys.NUM_GROUPS * keys.WIDTH_PER_GROUP * 2**stage
            options = {"bottleneck_channels": width, "num_groups": keys.NUM_GROUPS}
            options |= {"dilation": own.DILATIONS[stage], "stride_in_1x1": False}
        wider = keys.RES2_OUT_CHANNELS * 2**stage
        blocks = ResNet.make_stage(
            BasicBlock if basic else BottleneckBlock,
            count,
            in_channels=channels,
            out_channels=wider,
            stride_per_block=[own.STRIDES[stage]] + [1] * (count - 1),
            norm=norm,
            **options,
        )
        stages.append(blocks)
        channels = wider
    return ResNet(
        BasicStem(input_shape.channels, keys.STEM_OUT_CHANNELS, norm),
        stages,
        out_features=keys.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


def _check(keys: CfgNode, own: CfgNode) -> None:
    """Refuse ``MODEL.RESNETS`` and ``WSIS_RESNETS`` with values that Detectron2's blocks lack."""
    if keys.RES5_DILATION != 1:
        raise UsageError(
            "build_wsis_resnet_backbone reads MODEL.WSIS_RESNETS.DILATIONS; "
            f"leave MODEL.RESNETS.RES5_DILATION at 1 (it is {keys.RES5_DILATION})"
        )
    if keys.DEPTH not in BLOCKS_PER_STAGE:
        raise UsageError(f"no ResNet has depth {keys.DEPTH}: use one of {sorted(BLOCKS_PER_STAGE)}")
    if len(own.STRIDES) != 4 or len(own.DILATIONS) != 4:
        raise UsageError(
            f"strides {own.STRIDES} and dilations {own.DILATIONS} want 4 values, res2 to res5"
        )
    if keys.DEPTH >= 50:
        return
    if keys.RES2_OUT_CHANNELS != keys.STEM_OUT_CHANNELS or own.STRIDES[0] != 1:
        raise UsageError(
            f"res2 of a ResNet-{keys.DEPTH} keeps channels and size: set "
            "MODEL.RESNETS.RES2_OUT_CHANNELS to STEM_OUT_CHANNELS and the first stride to 1"
        )
    if keys.NUM_GROUPS != 1 or any(dilation != 1 for dilation in own.DILATIONS):
        raise UsageError(f"a ResNet-{keys.DEPTH} has neither groups nor dilations")


def with_fpn(cfg: CfgNode, bottom_up: Backbone) -> Backbone:
    """Detectron2's feature pyramid (``MODEL.FPN``) on ``MODEL.FPN.IN_FEATURES``, and p6."""
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_wsis_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`build_wsis_resnet_backbone` under a feature pyramid."""
    return with_fpn(cfg, build_wsis_resnet_backbone(cfg, input_shape))
