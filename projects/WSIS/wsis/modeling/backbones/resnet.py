"""ResNets in torchvision's layout, of Detectron2's blocks, with a stride and dilation per stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
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
    """What to pass as ``norm`` to Detectron2's blocks for "RunningStatsBN", or a name of its own.

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


def _check(
    depth: int, strides: Sequence[int], dilations: Sequence[int], *, widens: bool, groups: int
) -> None:
    """Refuse what Detectron2's blocks cannot be."""
    if depth not in BLOCKS_PER_STAGE:
        raise UsageError(f"no ResNet has depth {depth}: use one of {sorted(BLOCKS_PER_STAGE)}")
    if len(strides) != 4 or len(dilations) != 4:
        raise UsageError(f"strides {strides} and dilations {dilations} want 4 values, res2 to res5")
    if depth >= 50:
        return
    if widens or strides[0] != 1:
        raise UsageError(
            f"res2 of a ResNet-{depth} keeps channels and size: set "
            "MODEL.RESNETS.RES2_OUT_CHANNELS to STEM_OUT_CHANNELS and the first stride to 1"
        )
    if groups != 1 or any(dilation != 1 for dilation in dilations):
        raise UsageError(f"a ResNet-{depth} has neither groups nor dilations")


def make_resnet_stages(
    depth: int,
    norm: str | Callable[[int], nn.Module],
    *,
    strides: Sequence[int] = (1, 2, 2, 2),
    dilations: Sequence[int] = (1, 1, 1, 1),
    stem_channels: int = 64,
    res2_channels: int | None = None,
    num_groups: int = 1,
    width_per_group: int = 64,
) -> list[list[CNNBlockBase]]:
    """The blocks of res2 to res5, the stride in the 3x3 convolution as torchvision has it.

    Args:
        depth: 18, 34, 50, 101 or 152.
        norm: as `detectron2.layers.get_norm` takes it.
        strides: of the first block of res2, res3, res4 and res5.
        dilations: of all 3x3 convolutions of res2, res3, res4 and res5; 1 for depth 18 and 34.
        stem_channels: channels that enter res2.
        res2_channels: channels that leave res2, doubled by each later stage; by default 64 for
            depth 18 and 34, else 256.
        num_groups: groups of the 3x3 convolution (ResNeXt).
        width_per_group: bottleneck channels of res2 per group.

    Raises:
        UsageError: no such depth, or what basic blocks do not have.
    """
    basic = depth < 50
    channels = res2_channels or (stem_channels if basic else 4 * stem_channels)
    _check(depth, strides, dilations, widens=channels != stem_channels, groups=num_groups)
    stages = []
    previous = stem_channels
    for stage, count in enumerate(BLOCKS_PER_STAGE[depth]):
        options = {}
        if not basic:
            width = num_groups * width_per_group * 2**stage
            options = {"bottleneck_channels": width, "num_groups": num_groups}
            options |= {"dilation": dilations[stage], "stride_in_1x1": False}
        stages.append(
            ResNet.make_stage(
                BasicBlock if basic else BottleneckBlock,
                count,
                in_channels=previous,
                out_channels=channels,
                stride_per_block=[strides[stage]] + [1] * (count - 1),
                norm=norm,
                **options,
            )
        )
        previous, channels = channels, channels * 2
    return stages


@BACKBONE_REGISTRY.register()
def build_wsis_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A ResNet whose features are stem (after the max-pool, stride 4), res2, res3, res4, res5.

    Reads ``MODEL.RESNETS`` (DEPTH, NORM, OUT_FEATURES, NUM_GROUPS, WIDTH_PER_GROUP,
    STEM_OUT_CHANNELS, RES2_OUT_CHANNELS), ``MODEL.WSIS_RESNETS`` (STRIDES, DILATIONS) and
    ``MODEL.BACKBONE.FREEZE_AT``. STRIDE_IN_1X1 is not read: torchvision's layout has the stride in
    the 3x3 convolution.
    """
    keys = cfg.MODEL.RESNETS
    if keys.RES5_DILATION != 1:
        raise UsageError(
            "build_wsis_resnet_backbone reads MODEL.WSIS_RESNETS.DILATIONS; "
            f"leave MODEL.RESNETS.RES5_DILATION at 1 (it is {keys.RES5_DILATION})"
        )
    norm = get_norm(keys.NORM)
    stages = make_resnet_stages(
        keys.DEPTH,
        norm,
        strides=cfg.MODEL.WSIS_RESNETS.STRIDES,
        dilations=cfg.MODEL.WSIS_RESNETS.DILATIONS,
        stem_channels=keys.STEM_OUT_CHANNELS,
        res2_channels=keys.RES2_OUT_CHANNELS,
        num_groups=keys.NUM_GROUPS,
        width_per_group=keys.WIDTH_PER_GROUP,
    )
    stem = BasicStem(input_shape.channels, keys.STEM_OUT_CHANNELS, norm)
    return ResNet(
        stem,
        stages,
        out_features=keys.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


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
