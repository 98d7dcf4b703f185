"""VGG-16 without its fully connected layers, with a choice of poolings and dilations."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from wsis.errors import UsageError

_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions, channels


class VGG16(Backbone):
    """Five stages of 3x3 convolutions with ReLU; features ``conv1`` to ``conv5``.

    Stage k is ``conv<k>``, a sequence of convolutions and ReLUs, so that its convolutions have the
    state-dict names ``conv<k>.0``, ``conv<k>.2`` and, from the third stage, ``conv<k>.4``. A
    feature is what follows the stage's max-pooling, where it has one.

    Args:
        out_features: names of the features.
        pooled_stages: the first so many stages end in a 2x2 max-pooling.
        dilations: of the convolutions of each stage.
        freeze_at: the first so many stages do not train.
        in_channels: of the image.
    """

    cell_centre = 0.5  # see `wsis.modeling.peak_responses.MapFrame`: pooling without padding

    def __init__(
        self,
        out_features: Sequence[str] = ("conv5",),
        *,
        pooled_stages: int = 3,
        dilations: Sequence[int] = (1, 1, 1, 1, 2),
        freeze_at: int = 2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        known = [f"conv{k + 1}" for k in range(len(_STAGES))]
        if not set(out_features) <= set(known) or len(dilations) != len(_STAGES):
            raise UsageError(
                f"a VGG-16 has the features {', '.join(known)} and takes a dilation for each, got "
                f"{list(out_features)} and {list(dilations)}; correct MODEL.VGG"
            )
        self._out_features = list(out_features)
        self.pooled_stages = pooled_stages
        self._out_feature_channels = {n: c for n, (_, c) in zip(known, _STAGES, strict=True)}
        self._out_feature_strides = {
            name: 2 ** min(k + 1, pooled_stages) for k, name in enumerate(known)
        }
        for name, (count, channels), dilation in zip(known, _STAGES, dilations, strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                conv = nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.ReLU(inplace=True)]
                in_channels = channels
            self.add_module(name, nn.Sequential(*layers))
        for name in known[:freeze_at]:
            getattr(self, name).requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to its features."""
        features = {}
        for k, name in enumerate(self._out_feature_channels):
            x = getattr(self, name)(x)
            if k < self.pooled_stages:
                # A side of one pixel stays: very narrow pictures would vanish.
                x = nn.functional.max_pool2d(x, 2, ceil_mode=1 in x.shape[-2:])
            if name in self._out_features:
                features[name] = x
        return features


@BACKBONE_REGISTRY.register()
def build_vgg16_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`VGG16` from ``MODEL.VGG`` and ``MODEL.BACKBONE.FREEZE_AT`` (that many stages)."""
    keys = cfg.MODEL.VGG
    return VGG16(
        keys.OUT_FEATURES,
        pooled_stages=keys.POOLED_STAGES,
        dilations=keys.DILATIONS,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        in_channels=input_shape.channels,
    )
