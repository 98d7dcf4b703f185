"""Any torchvision classification trunk as a Detectron2 backbone with named strides.

A trunk is measured by a dry run without data (meta tensors): how far each of its modules is
subsampled against the image. From that follow the features (``res2`` is the last map of stride 4,
``res3`` of stride 8, ...), what to freeze, and which strides to remove for a denser map.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from wsis.errors import DataError, UsageError
from wsis.modeling.backbones.norm import RunningStatsBatchNorm2d
from wsis.modeling.backbones.resnet import with_fpn
from wsis.modeling.checkpoint import read_state_dict

logger = logging.getLogger(__name__)

# Not a multiple of 7, to which classifiers pool, so that a pooled map is not taken for a stride.
_PROBE_SIDE = 640
_NOT_TRUNK = ("classifier", "fc", "head", "heads", "avgpool", "aux", "AuxLogits", "aux1", "aux2")
_NORMS = ("FrozenBN", "RunningStatsBN", "BN")


@dataclass(frozen=True)
class Probe:
    """What the dry run saw of a module: subsampling before and after it, channels after it."""

    stride_in: int
    stride_out: int
    channels: int


def _stride_of(side: int) -> int:
    """The power of two nearest to ``_PROBE_SIDE / side``; 0 where there is none close."""
    ratio = _PROBE_SIDE / max(side, 1)
    stride = 2 ** max(round(math.log2(ratio)), 0)
    return stride if 0.8 < ratio / stride < 1.25 else 0


def probe_strides(model: nn.Module) -> dict[str, Probe]:
    """Run ``model`` on an image without data and measure every module that maps maps to maps.

    Returns:
        module name to `Probe`, in the order in which the modules finish.
    """
    tensors = (*model.parameters(), *model.buffers())
    shadow = copy.deepcopy(model, {id(t): copy.copy(t).to("meta") for t in tensors}).eval()
    seen: dict[str, Probe] = {}

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple, output: object) -> None:
            first = inputs[0] if inputs else None
            if all(isinstance(t, torch.Tensor) and t.dim() == 4 for t in (first, output)):
                probe = Probe(
                    _stride_of(first.shape[-1]), _stride_of(output.shape[-1]), output.shape[1]
                )
                if probe.stride_in and probe.stride_out:
                    seen.pop(name, None)  # called again: the last call counts
                    seen[name] = probe

        module.register_forward_hook(hook)

    for name, module in shadow.named_modules():
        if name and name.partition(".")[0] not in _NOT_TRUNK:
            watch(name, module)
    with torch.no_grad():
        shadow(torch.empty(1, 3, _PROBE_SIDE, _PROBE_SIDE, device="meta"))
    return seen


def default_features(model: nn.Module, probes: Mapping[str, Probe]) -> dict[str, str]:
    """``{"res1": module of the last map of stride 2, "res2": of stride 4, ...}``.

    Only whole blocks count: the search descends into ``nn.Sequential`` and no further.
    """
    last: dict[int, str] = {}
    for name, probe in probes.items():
        path = name.split(".")
        parents = [model.get_submodule(".".join(path[:depth])) for depth in range(1, len(path))]
        if probe.stride_out > 1 and all(type(parent) is nn.Sequential for parent in parents):
            last[probe.stride_out] = name
    return {f"res{int(math.log2(stride))}": last[stride] for stride in sorted(last)}


def limit_stride_(
    model: nn.Module, probes: Mapping[str, Probe], stride: int, *, dilate: bool
) -> None:
    """Set to 1 the strides of all modules that subsample beyond ``stride``, in place.

    Args:
        model: the trunk.
        probes: of the unchanged trunk.
        stride: the coarsest stride that remains.
        dilate: widen the later convolutions in proportion, so that their field of view stays.
    """
    for name, probe in probes.items():
        module = model.get_submodule(name)
        if not isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            continue
        pair = isinstance(module.kernel_size, tuple)
        kernel = module.kernel_size[0] if pair else module.kernel_size
        if probe.stride_out > max(stride, probe.stride_in):
            module.stride = (1, 1) if pair else 1
            if kernel % 2 == 0:  # a 2x2 pool; no padding keeps the size with stride 1
                module.kernel_size, module.padding, kernel = 1, 0, 1
            elif not isinstance(module, nn.Conv2d):
                module.padding = kernel // 2
        if dilate and isinstance(module, nn.Conv2d) and probe.stride_in > stride and kernel > 1:
            factor = probe.stride_in // stride
            module.dilation = tuple(factor * d for d in module.dilation)
            module.padding = tuple(factor * p for p in module.padding)


def _freeze_(model: nn.Module, names: list[str], last: str) -> None:
    """Freeze the modules called ``names`` up to ``last``, as far as ``model`` has them."""
    kept = dict(model.named_modules())
    for name in names[: names.index(last) + 1]:
        if name not in kept:
            continue
        for parameter in kept[name].parameters():
            parameter.requires_grad_(False)
        parent, _, child = name.rpartition(".")
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(kept[name])
        setattr(model.get_submodule(parent), child, frozen)


def _replace_norm_(model: nn.Module, norm: str) -> None:
    if norm == "FrozenBN":
        FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    if norm == "RunningStatsBN":
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.BatchNorm2d:
                    fixed = RunningStatsBatchNorm2d(child.num_features, eps=child.eps)
                    fixed.load_state_dict(child.state_dict())
                    setattr(module, name, fixed)


def _load_weights_(body: nn.Module, path: str, name: str) -> None:
    state, own = read_state_dict(path), body.state_dict()
    own = {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in state]
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    if missing or wrong:
        key = (missing + wrong)[0]
        got = f"shape {tuple(state[key].shape)}" if key in state else "no such entry"
        raise DataError(
            f"{path} does not hold the weights of torchvision's {name}: {len(missing)} entries are "
            f"missing, {len(wrong)} have another shape; expected {key} of shape "
            f"{tuple(own[key].shape)}, got {got}; set MODEL.TORCHVISION.NAME or WEIGHTS"
        )
    body.load_state_dict({k: state[k] for k in own}, strict=False)


class TorchvisionBackbone(Backbone):
    """A torchvision trunk that returns named maps.

    Args:
        model: a torchvision classification network; its modules are taken over.
        features: feature name to module name; None for `default_features`.
        name: the network's name, for messages.
        weights: file of a state dict in torchvision's names for this network; "" for none.
        norm: what becomes of batch norm: "FrozenBN", "RunningStatsBN" (running statistics,
            trained weight and bias) or "BN" (as it is).
        freeze_at: freeze all up to the last map of stride ``2^freeze_at``; 0 freezes nothing.
        output_stride: the coarsest stride that remains; 0 changes nothing.
        dilate: dilate the convolutions behind a removed stride.

    Raises:
        UsageError: no such module, or no such norm.
        DataError: ``weights`` is missing, unreadable, or of another network.
    """

    def __init__(
        self,
        model: nn.Module,
        features: Mapping[str, str] | None = None,
        *,
        name: str = "trunk",
        weights: str = "",
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        output_stride: int = 0,
        dilate: bool = False,
    ) -> None:
        super().__init__()
        if norm not in _NORMS:
            raise UsageError(f"MODEL.TORCHVISION.NORM is {norm!r}: use one of {', '.join(_NORMS)}")
        probes = probe_strides(model)
        known = default_features(model, probes)
        features = dict(features or known)
        for feature, node in features.items():
            if node not in probes:
                raise UsageError(
                    f"torchvision's {name} has no map {node!r} (wanted as {feature}); "
                    f"the last one of each stride: {known}"
                )
        if output_stride:
            limit_stride_(model, probes, output_stride, dilate=dilate)
        coarsest = output_stride or max(probe.stride_out for probe in probes.values())
        self._out_features = list(features)
        self._out_feature_strides = {
            feature: min(probes[node].stride_out, coarsest) for feature, node in features.items()
        }
        self._out_feature_channels = {f: probes[node].channels for f, node in features.items()}
        self.body = create_feature_extractor(model, {n: f for f, n in features.items()})
        if weights:
            _load_weights_(self.body, weights, name)
        early = [node for feature, node in known.items() if int(feature[3:]) <= freeze_at]
        if early:
            _freeze_(self.body, list(probes), early[-1])
        _replace_norm_(self.body, norm)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """``x`` (N, 3, H, W) to feature name -> (N, channels, about H / stride, W / stride)."""
        found = self.body(x)
        return {feature: found[feature] for feature in self._out_features}


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The trunk of ``MODEL.TORCHVISION``, frozen up to ``MODEL.BACKBONE.FREEZE_AT``."""
    keys = cfg.MODEL.TORCHVISION
    if input_shape.channels != 3:
        raise UsageError(f"torchvision's trunks take 3 channels, not {input_shape.channels}")
    try:
        model = torchvision.models.get_model(keys.NAME, weights=None)
    except ValueError:
        raise UsageError(
            f"torchvision has no network MODEL.TORCHVISION.NAME {keys.NAME!r}; "
            "see torchvision.models.list_models()"
        ) from None
    if not (keys.WEIGHTS or cfg.MODEL.WEIGHTS):
        logger.info("MODEL.TORCHVISION.WEIGHTS is empty: %s starts from random values", keys.NAME)
    return TorchvisionBackbone(
        model,
        dict(keys.OUT_FEATURES),
        name=keys.NAME,
        weights=keys.WEIGHTS,
        norm=keys.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        output_stride=keys.OUTPUT_STRIDE,
        dilate=keys.DILATE,
    )


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`build_torchvision_backbone` under a feature pyramid."""
    return with_fpn(cfg, build_torchvision_backbone(cfg, input_shape))
