"""Any network of timm as a Detectron2 backbone, for all that is not a Detectron2 ResNet.

Maps come from timm's ``forward_intermediates``, which brings channels-last maps into Detectron2's
layout. Its ``features_only`` lacks the map that the classifier would pool, and renames weights.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from wsis.errors import DataError, UsageError, first_line
from wsis.modeling.backbones.resnet import with_fpn
from wsis.modeling.checkpoint import load_weights

logger = logging.getLogger(__name__)

_PROBE_SIDE = 640
_FINAL = "final"
_NORMS = ("FrozenBN", "RunningStatsBN", "BN")


class TimmBackbone(Backbone):
    """A network of timm that returns named maps.

    Weights that no feature needs do not train. `wsis.modeling.config` lists the names of maps and
    norms, and explains ``frozen``.

    Args:
        body: what `timm.create_model` makes, without a classifier. Its modules are taken over.
        features: feature name to the map that it takes; None for all ``res<k>``.
        in_channels: of the image.
        norm: the kind of norm that replaces batch norm.
        freeze_at: freeze the weights that the last ``res<k>`` with k <= ``freeze_at`` needs, or
            everything if that is the network's last map; 0 freezes nothing.
        frozen: names of further modules to freeze.

    Raises:
        UsageError: the network has no pyramid of maps, no such map or module, or no such norm.
    """

    def __init__(
        self,
        body: nn.Module,
        features: Mapping[str, str] | None = None,
        *,
        in_channels: int = 3,
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._levels = _levels(body)
        self._sources = dict(features or {name: name for name in self._levels})
        self._check(body, norm, (*self._sources.values(), *frozen))
        early = [name for name, k in self._levels.items() if int(name[3:]) <= freeze_at]
        early = early[-1:] if freeze_at else []
        if early == list(self._levels)[-1:]:
            early, frozen = [], [""]
        self.body = body
        self._padding = _padding(body)
        # Branches that are enlarged by a factor, and patches, need whole cells.
        enlarges = any(type(module) is nn.Upsample for module in body.modules())
        self._divisor = 32 if enlarges or hasattr(body, "patch_embed") else 1
        self._least = 1
        self._fixed_statistics = norm != "BN"
        self._out_features = list(self._sources)
        self._cut()
        self._measure(in_channels, early)
        for name in frozen:
            body.get_submodule(name).requires_grad_(False)
        if norm == "FrozenBN":
            for module in self._norms():
                module.requires_grad_(False)
        self.train(self.training)

    def _check(self, body: nn.Module, norm: str, names: Iterable[str]) -> None:
        if norm not in _NORMS:
            raise UsageError(f"MODEL.TIMM.NORM is {norm!r}: use one of {', '.join(_NORMS)}")
        modules = {name for name, _ in body.named_modules()}
        for name in set(names) - {*self._levels, _FINAL}:
            if name not in modules:
                children = ", ".join(child for child, _ in body.named_children())
                raise UsageError(
                    f"MODEL.TIMM: {type(body).__name__} has no map or module {name!r}; maps are "
                    f"{', '.join(self._levels)}, {_FINAL}, modules begin with {children}"
                )

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> TimmBackbone:
        """Batch norm with fixed statistics, and that of frozen parts, stays in evaluation mode."""
        super().train(mode)
        for module in self._norms():
            trains = any(weight.requires_grad for weight in module.parameters())
            if self._fixed_statistics or not trains:
                module.eval()
        return self

    def _cut(self) -> None:
        """Take off what follows the last feature."""
        if _FINAL in self._sources.values():
            return
        names = [name for name, _ in self.body.named_modules()]

        def end(module: str) -> int:
            return max(
                k for k, n in enumerate([module, *names]) if f"{n}.".startswith(f"{module}.")
            )

        ends = [end(info["module"]) for info in self.body.feature_info]
        last = 0
        for source in self._sources.values():
            behind = (k for k, place in enumerate(ends) if place >= end(source))
            last = max(last, self._levels.get(source, next(behind, len(ends) - 1)))
        self.body.prune_intermediate_layers(list(range(last + 1)), prune_head=True)
        self._levels = {name: k for name, k in self._levels.items() if k <= last}

    @torch.enable_grad()
    def _measure(self, in_channels: int, early: Sequence[str]) -> None:
        """Run without data: strides, channels, and which weights the maps need."""
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        meta = {name: value.detach().to("meta") for name, value in tensors.items()}
        weights = {name: meta[name].requires_grad_() for name, _ in self.named_parameters()}
        image = torch.empty(1, in_channels, _PROBE_SIDE, _PROBE_SIDE, device="meta")
        wanted, self._sources = self._sources, self._sources | {name: name for name in early}
        found = functional_call(self.eval(), meta, (image,))
        self._sources = wanted
        trained = _needed([found[name] for name in wanted], weights)
        trained -= _needed([found[name] for name in early], weights)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)
        self._out_feature_strides = {name: _stride_of(found[name], name) for name in wanted}
        self._out_feature_channels = {name: found[name].shape[1] for name in wanted}
        # Poolings without padding leave nothing of a side shorter than a cell.
        if self._padding == "none":
            self._least = max(self._out_feature_strides.values())
        self.train()

    def first_cell(self, side: int, stride: int) -> float:
        """The pixel, of ``side`` in a row, around which cell 0 of a map of ``stride`` sees.

        The next cells follow every ``stride`` pixels. TensorFlow's padding puts the last cell on
        the last pixel; without padding cell 0 lies in the middle of the first ``stride`` pixels.
        """
        if self._padding == "same":
            return float((side - 1) % stride)
        return (stride - 1) / 2 if self._padding == "none" else 0.0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``x`` (N, 3, H, W) to feature name -> (N, channels, about H / stride, W / stride).

        Networks that need whole cells (HRNet, Swin) get zeros added at the right and bottom.
        """
        sides = [
            max(-(-side // self._divisor) * self._divisor, self._least) for side in x.shape[-2:]
        ]
        x = functional.pad(x, (0, sides[1] - x.shape[-1], 0, sides[0] - x.shape[-2]))
        sources = set(self._sources.values())
        levels = [name for name in self._levels if name in sources] or list(self._levels)[:1]
        indices = [self._levels[name] for name in levels]
        found: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name in sources - {*levels, _FINAL}:

                def keep(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                    found[name] = output

                hooks.callback(self.body.get_submodule(name).register_forward_hook(keep).remove)
            if _FINAL in sources:
                final, maps = self.body.forward_intermediates(x, indices=indices)
                channels_last = getattr(self.body, "output_fmt", "") == "NHWC"
                found[_FINAL] = final.permute(0, 3, 1, 2) if channels_last else final
            else:
                maps = self.body.forward_intermediates(x, indices=indices, intermediates_only=True)
        found |= dict(zip(levels, maps, strict=True))
        return {feature: found[source] for feature, source in self._sources.items()}


def _levels(body: nn.Module) -> dict[str, int]:
    """``res<k>`` to its place in timm's list of maps: each has half the size of the one before."""
    strides = [info["reduction"] for info in getattr(body, "feature_info", ())]
    doubled = [strides[0] * 2**k for k in range(len(strides))] if strides else []
    # Stages behind MODEL.TIMM.OUTPUT_STRIDE have that stride and keep their names.
    pyramid = len(set(strides)) > 1 or len(strides) == 1
    if not pyramid or any(
        s not in (d, max(strides)) for s, d in zip(strides, doubled, strict=True)
    ):
        raise UsageError(
            f"timm's {type(body).__name__} is no trunk here: its maps have the strides {strides}, "
            "wanted is a pyramid of 2, 4, 8, 16, 32 as convolutional networks and Swin have"
        )
    return {f"res{int(math.log2(stride))}": k for k, stride in enumerate(doubled)}


def _padding(body: nn.Module) -> str:
    """Of the first subsampling: "none" (VGG, ConvNeXt), "same" as TensorFlow's, or "usual"."""
    for module in body.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)) and module.stride not in (1, (1, 1)):
            if type(module).__name__.endswith("Same"):  # timm's
                return "same"
            return "none" if module.padding in (0, (0, 0)) else "usual"
    return "usual"


def _needed(maps: Sequence[Tensor], weights: Mapping[str, Tensor]) -> set[str]:
    """The weights that the maps need."""
    if not maps:
        return set()
    total = sum(feature.sum() for feature in maps)
    grads = torch.autograd.grad(total, list(weights.values()), retain_graph=True, allow_unused=True)
    return {name for name, grad in zip(weights, grads, strict=True) if grad is not None}


def _stride_of(feature: Tensor, name: str) -> int:
    """The power of two nearest to the probe's side over the map's."""
    square = feature.ndim == 4 and feature.shape[-1] == feature.shape[-2]
    stride = 2 ** max(round(math.log2(_PROBE_SIDE / feature.shape[-1])), 0) if square else 0
    if not stride or not 0.8 < _PROBE_SIDE / feature.shape[-1] / stride < 1.25:
        raise UsageError(
            f"MODEL.TIMM.OUT_FEATURES: {name} is {tuple(feature.shape)} for a picture of "
            f"{_PROBE_SIDE} pixels, no map (N, channels, h, w) of a stride 2, 4, 8, ..."
        )
    return stride


def limit_stride_(body: nn.Module, stride: int) -> None:
    """Take the poolings beyond ``stride`` out of a VGG and dilate what follows, in place.

    `timm.create_model` does it for most other networks (``output_stride``), not for VGG.
    """
    now = dilation = 1
    for index, layer in enumerate(body.features):
        if isinstance(layer, nn.MaxPool2d):
            if now == stride:
                body.features[index], dilation = nn.Identity(), dilation * 2
            else:
                now *= 2
        elif isinstance(layer, nn.Conv2d):
            layer.dilation = layer.padding = (dilation, dilation)


def create_body(
    name: str, *, output_stride: int = 0, dilate: bool = True, **options: Any
) -> nn.Module:
    """A network of timm without its classifier, for pictures of any size.

    Args:
        name: of timm ("mobilenetv2_100").
        output_stride: the coarsest stride that remains; 0 changes nothing.
        dilate: dilate the convolutions behind a removed stride, so that they see as much.
        **options: of `timm.create_model`.

    Raises:
        UsageError: timm has no such network, or it does not take the output stride.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, for timm's use of TorchScript
        import timm  # takes seconds; other backbones do without

    if not timm.is_model(name):
        raise UsageError(f"timm has no network MODEL.TIMM.NAME {name!r}; see timm.list_models()")
    if output_stride and not name.startswith("vgg"):
        options["output_stride"] = output_stride
    options["num_classes"] = 0
    try:
        try:  # transformers of windows are made for one size unless told otherwise
            body = timm.create_model(name, strict_img_size=False, **options)
        except TypeError:
            body = timm.create_model(name, **options)
    except (TypeError, AssertionError, NotImplementedError) as error:
        if not output_stride:
            raise
        raise UsageError(
            f"timm's {name} does not take MODEL.TIMM.OUTPUT_STRIDE {output_stride}; set it to 0"
        ) from error
    if output_stride and isinstance(body, timm.models.VGG):
        limit_stride_(body, output_stride)
    if output_stride and not dilate:
        for module in body.modules():
            if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
                module.padding = tuple(p // module.dilation[0] for p in module.padding)
                module.dilation = (1, 1)
    return body


def _download(name: str, **options: Any) -> nn.Module:
    """`create_body` with timm's weights; any failure on the way becomes one sentence."""
    try:
        return create_body(name, pretrained=True, **options)
    except UsageError:
        raise
    except Exception as error:  # the ways in which a download fails have no common class
        raise DataError(
            f"MODEL.TIMM.PRETRAINED: timm's weights of {name} did not come ({first_line(error)}); "
            "set it to False and name a file of weights by MODEL.TIMM.WEIGHTS or MODEL.WEIGHTS"
        ) from error


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The network of ``MODEL.TIMM``, frozen up to ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        UsageError: a wrong key, or a network without maps, such as a plain vision transformer.
        DataError: ``WEIGHTS`` is missing, unreadable or of another network; or ``PRETRAINED``
            weights cannot be downloaded. They are not loaded where MODEL.WEIGHTS is set.
    """
    keys = cfg.MODEL.TIMM
    options = {"output_stride": keys.OUTPUT_STRIDE, "dilate": keys.DILATE}
    options["in_chans"] = input_shape.channels
    pretrained = keys.PRETRAINED and not (keys.WEIGHTS or cfg.MODEL.WEIGHTS)
    body = (_download if pretrained else create_body)(keys.NAME, **options)
    if not (pretrained or keys.WEIGHTS or cfg.MODEL.WEIGHTS):
        logger.info("MODEL.TIMM.WEIGHTS is empty: %s starts from random values", keys.NAME)
    pairs = [(f, f) if isinstance(f, str) else f for f in keys.OUT_FEATURES]
    backbone = TimmBackbone(
        body,
        dict(pairs),
        in_channels=input_shape.channels,
        norm=keys.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        frozen=keys.FROZEN,
    )
    if keys.WEIGHTS:
        try:
            load_weights(body, keys.WEIGHTS, strict=True)
        except DataError as error:
            raise DataError(
                f"timm's {keys.NAME}: {error}; set MODEL.TIMM.NAME or WEIGHTS"
            ) from error
    return backbone


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`build_timm_backbone` under a feature pyramid."""
    return with_fpn(cfg, build_timm_backbone(cfg, input_shape))
