"""HRNet (Sun et al. 2019): branches of several resolutions side by side, fused again and again.

Module names are those of the original repositories, so that their weights fit as they are. timm's
HRNet cannot replace this one. It joins branches by nearest neighbours (BoxCaseg's is bilinear) and
takes only sides that are multiples of 32. Its stem ends in 64 channels whatever the config says,
and its initial values differ. CIM uses timm's ("hrnet_w48") where it wants the last map of the
ImageNet classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from wsis.errors import UsageError
from wsis.modeling.backbones.resnet import get_norm as norm_by_name
from wsis.modeling.backbones.resnet import with_fpn

_FEATURES = ("res2", "res3", "res4", "res5")


def _unit(
    norm: object, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = False
) -> nn.Sequential:
    """Convolution, norm and, if asked for, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, get_norm(norm, outputs), *([nn.ReLU()] if relu else []))


def _blocks(kind: type, inputs: int, planes: int, count: int, norm: object) -> nn.Sequential:
    """``count`` residual blocks of torchvision's ResNet; the first may change the channels."""
    outputs = planes * kind.expansion
    widens = None if inputs == outputs else _unit(norm, inputs, outputs, 1)
    block = partial(kind, planes=planes, norm_layer=partial(get_norm, norm))
    rest = (block(outputs) for _ in range(count - 1))
    return nn.Sequential(block(inputs, downsample=widens), *rest)


def _path(source: int, target: int, channels: Sequence[int], norm: object) -> nn.Module:
    """The layers from the map of one branch to another branch; they do not enlarge the map."""
    if source >= target:
        same = source == target
        return nn.Identity() if same else _unit(norm, channels[source], channels[target], 1)
    widths = [channels[source]] * (target - source) + [channels[target]]
    last = target - source - 1
    steps = (
        _unit(norm, widths[k], widths[k + 1], stride=2, relu=k < last) for k in range(last + 1)
    )
    return nn.Sequential(*steps)


class HRNetModule(nn.Module):
    """Basic blocks on every branch, fine to coarse, then every branch from all branches.

    ``norm`` is what `detectron2.layers.get_norm` takes, ``upsample`` "bilinear" or "nearest".
    """

    def __init__(
        self, channels: Sequence[int], blocks: int, *, norm: object, upsample: str = "bilinear"
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.branches = nn.ModuleList(_blocks(BasicBlock, c, c, blocks, norm) for c in channels)
        count = range(len(channels))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(source, target, channels, norm) for source in count)
            for target in count
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of all branches, fine to coarse, to the same."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for target, row in enumerate(self.fuse_layers):
            total = None
            for source, (path, x) in enumerate(zip(row, maps, strict=True)):
                part = path(x)
                if source > target:
                    size = maps[target].shape[-2:]
                    part = functional.interpolate(part, size, mode=self.upsample)
                total = part if total is None else total + part
            fused.append(functional.relu(total))
        return fused


def _transition(before: Sequence[int], after: Sequence[int], norm: object) -> nn.ModuleList:
    """Layers that change the channels of the branches that go on, and make a new, coarser one."""
    paths: list[nn.Module] = []
    for index, outputs in enumerate(after):
        if index >= len(before):
            paths.append(nn.Sequential(_unit(norm, before[-1], outputs, stride=2, relu=True)))
            continue
        # Always made: the later parts draw their initial values after it.
        unit = _unit(norm, before[index], outputs, relu=True)
        paths.append(nn.Identity() if before[index] == outputs else unit)
    return nn.ModuleList(paths)


class HRNet(Backbone):
    """The trunk: a stem of stride 4, then one to four branches of stride 4, 8, 16, 32.

    Its options are the keys of ``MODEL.HRNET``, in lower case, and these.

    Args:
        channels: of the four branches.
        freeze_at: as elsewhere in Detectron2: 1 freezes the stem, 2 stage 1, up to 5 for all.
    """

    def __init__(
        self,
        channels: Sequence[int] = (48, 96, 192, 384),
        *,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem_channels: int = 64,
        first_planes: int = 64,
        first_blocks: int = 4,
        norm: str = "BN",
        norm_momentum: float = 0.01,
        upsample: str = "bilinear",
        out_features: Sequence[str] = _FEATURES,
        init: str = "normal",
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        for key, value, choices in (
            ("CHANNELS: their number", len(channels), (4,)),
            ("MODULES: their number", len(modules), (3,)),
            ("UPSAMPLE", upsample, ("bilinear", "nearest")),
            ("INIT", init, ("normal", "msra")),
            *(("OUT_FEATURES", name, _FEATURES) for name in out_features),
        ):
            if value not in choices:
                wanted = " or ".join(map(str, choices))
                raise UsageError(f"MODEL.HRNET.{key} is {value!r}; it must be {wanted}")
        kind = norm_by_name(norm)
        self.conv1, self.bn1 = _unit(kind, 3, stem_channels, stride=2)
        self.conv2, self.bn2 = _unit(kind, stem_channels, stem_channels, stride=2)
        self.layer1 = _blocks(Bottleneck, stem_channels, first_planes, first_blocks, kind)
        before: Sequence[int] = (first_planes * Bottleneck.expansion,)
        for stage, count in enumerate(modules, start=2):
            after = tuple(channels[:stage])
            setattr(self, f"transition{stage - 1}", _transition(before, after, kind))
            fusing = (
                HRNetModule(after, blocks, norm=kind, upsample=upsample) for _ in range(count)
            )
            setattr(self, f"stage{stage}", nn.Sequential(*fusing))
            before = after
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(_FEATURES, channels, strict=True))
        self._out_feature_strides = dict(zip(_FEATURES, (4, 8, 16, 32), strict=True))
        self._initialise(init, norm_momentum)
        self.freeze(freeze_at)

    def _initialise(self, init: str, momentum: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if init == "normal":
                    nn.init.normal_(module.weight, std=0.001)
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif hasattr(module, "momentum"):
                module.momentum = momentum

    def freeze(self, freeze_at: int) -> None:
        """Keep the first parts as they are: parameters fixed, batch norm on fixed statistics."""
        parts = [("conv1", "bn1", "conv2", "bn2"), ("layer1",)]
        parts += [(f"transition{n - 1}", f"stage{n}") for n in (2, 3, 4)]
        for names in parts[:freeze_at]:
            for name in names:
                part = getattr(self, name)
                part.requires_grad_(False)
                setattr(self, name, FrozenBatchNorm2d.convert_frozen_batchnorm(part))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``x`` (N, 3, H, W), sides of any length, to feature name -> (N, channels, h, w).

        Each branch has half the size of the finer one, rounded up.
        """
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for stage in (2, 3, 4):
            paths = getattr(self, f"transition{stage - 1}")
            entering = [
                path(maps[index] if index < len(maps) and stage > 2 else maps[-1])
                for index, path in enumerate(paths)
            ]
            maps = getattr(self, f"stage{stage}")(entering)
        found = dict(zip(_FEATURES, maps, strict=True))
        return {name: found[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_hrnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The HRNet of ``MODEL.HRNET``, frozen up to ``MODEL.BACKBONE.FREEZE_AT``."""
    keys = cfg.MODEL.HRNET
    if input_shape.channels != 3:
        raise UsageError(f"HRNet takes 3 channels, not {input_shape.channels}")
    norm = "BN" if keys.NORM == "SyncBN" and cfg.MODEL.DEVICE == "cpu" else keys.NORM
    options = {key.lower(): value for key, value in keys.items()} | {"norm": norm}
    return HRNet(**options, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_hrnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`build_hrnet_backbone` under a feature pyramid."""
    return with_fpn(cfg, build_hrnet_backbone(cfg, input_shape))
