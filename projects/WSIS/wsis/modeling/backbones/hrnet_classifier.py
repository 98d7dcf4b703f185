"""HRNet as the ImageNet classifier ends: all branches gathered in one map of stride 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.layers import get_norm as get_detectron2_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from wsis.modeling.backbones.hrnet import HRNet, HRNetBottleneck
from wsis.modeling.backbones.norm import get_norm

_PLANES = (32, 64, 128, 256)  # a quarter of the channels to which each branch is widened
FEATURE = "final"


class HRNetClassifierTrunk(HRNet):
    """`HRNet`, its branches widened, added from fine to coarse, and one 1x1 convolution.

    Names are those of the HRNet image classification repository. It is the backbone of CIM; feature
    ``final`` has stride 32.

    Args:
        channels: of the four branches.
        planes: a quarter of the channels of the widened branches.
        final_channels: of the feature.
        norm: as `wsis.modeling.backbones.norm.get_norm` takes it.
        freeze_at: see `HRNet`; 3 freezes the stem and stages 1 and 2.
        **options: of `HRNet`.
    """

    def __init__(
        self,
        channels: Sequence[int] = (48, 96, 192, 384),
        *,
        planes: Sequence[int] = _PLANES,
        final_channels: int = 2048,
        norm: str = "RunningStatsBN",
        freeze_at: int = 3,
        **options: Any,
    ) -> None:
        options = {"upsample": "nearest", "init": "msra"} | options
        super().__init__(channels, norm=norm, **options)
        kind = get_norm(norm)
        self.incre_modules = nn.ModuleList(
            nn.Sequential(HRNetBottleneck(inputs, width, norm=kind))
            for inputs, width in zip(channels, planes, strict=True)
        )
        wide = [width * HRNetBottleneck.expansion for width in planes]
        self.downsamp_modules = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
                get_detectron2_norm(kind, outputs),
                nn.ReLU(inplace=True),
            )
            for inputs, outputs in zip(wide[:-1], wide[1:], strict=True)
        )
        self.final_layer = nn.Sequential(
            nn.Conv2d(wide[-1], final_channels, 1),
            get_detectron2_norm(kind, final_channels),
            nn.ReLU(),
        )
        self._out_features = [FEATURE]
        self._out_feature_channels = {FEATURE: final_channels}
        self._out_feature_strides = {FEATURE: 32}
        self.freeze(freeze_at)

    @property
    def size_divisibility(self) -> int:
        """Sides must be multiples of this; others are padded."""
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), sides multiples of 32, to ``final`` (N, channels, H / 32, W / 32)."""
        branches = list(self.branch_features(x).values())
        total = self.incre_modules[0](branches[0])
        for down, widen, branch in zip(
            self.downsamp_modules, self.incre_modules[1:], branches[1:], strict=True
        ):
            total = widen(branch) + down(total)
        return {FEATURE: self.final_layer(total)}

    def branch_features(self, x: Tensor) -> dict[str, Tensor]:
        """The four branches of `HRNet`, fine to coarse."""
        names, self._out_features = self._out_features, ["res2", "res3", "res4", "res5"]
        try:
            return super().forward(x)
        finally:
            self._out_features = names


@BACKBONE_REGISTRY.register()
def build_hrnet_classifier_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`HRNetClassifierTrunk` of ``MODEL.HRNET`` (CHANNELS, MODULES, BLOCKS, STEM_CHANNELS,
    FIRST_BLOCKS, FIRST_PLANES, NORM) and ``MODEL.BACKBONE.FREEZE_AT``; it upsamples by nearest.
    """
    keys = cfg.MODEL.HRNET
    return HRNetClassifierTrunk(
        keys.CHANNELS,
        norm=keys.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        modules=keys.MODULES,
        blocks=keys.BLOCKS,
        stem_channels=keys.STEM_CHANNELS,
        first_planes=keys.FIRST_PLANES,
        first_blocks=keys.FIRST_BLOCKS,
    )
