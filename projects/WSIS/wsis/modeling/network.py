"""Base classes and checks of networks: options declared once, the scale of pixels, results."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from wsis.errors import DataError, UsageError, did_you_mean, known_words
from wsis.layers.crf import Kernel
from wsis.layers.masks import mask_boxes

# Of images that pass a network together, at test time: ResNet-50 takes up to 3.4 GiB for them.
PIXELS_AT_ONCE = 1 << 22
_ModuleClass = TypeVar("_ModuleClass", bound=type)
_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


@dataclass_transform(kw_only_default=True)
def network(cls: _ModuleClass) -> _ModuleClass:
    """A module whose annotated attributes are its arguments, also built from a config.

    ``from_config`` gives the arguments, and ``__post_init__`` makes everything that depends on
    them. A module or buffer must have no default value: the default would hide it.
    """
    made: Any = dataclass(kw_only=True, eq=False, repr=False)(cls)
    take = made.__init__

    def __init__(self: nn.Module, **arguments: Any) -> None:
        nn.Module.__init__(self)
        take(self, **arguments)

    made.__init__ = configurable(__init__)
    return made


def options_of(kind: type, keys: CfgNode) -> dict[str, Any]:
    """The fields of a dataclass that a config node has in capitals, with the node's values."""
    return {f.name: keys[f.name.upper()] for f in fields(kind) if f.name.upper() in keys}


def require_one_of(config_key: str, value: str, known: Sequence[str]) -> None:
    """Refuse an unknown value of a config key with a `UsageError` that names the known ones."""
    if value not in known:
        wanted = f"{' or '.join(known)}{did_you_mean(value, known)}"
        raise UsageError(f"{config_key} is {value!r}; it must be {wanted}")


def crf_kernels(keys: CfgNode, prefix: str = "") -> tuple[Kernel, Kernel]:
    """The pairwise terms of a dense CRF that a node has, as ``<prefix>GAUSSIAN_SXY``, ..."""
    near = [keys[f"{prefix}GAUSSIAN_{name}"] for name in ("SXY", "WEIGHT")]
    alike = [keys[f"{prefix}BILATERAL_{name}"] for name in ("SXY", "WEIGHT", "SRGB")]
    return Kernel(*near), Kernel(*alike)


def shapes_of(
    known: Mapping[str, ShapeSpec], names: Sequence[str], config_key: str
) -> list[ShapeSpec]:
    """Shapes of the features ``names`` (the value of ``config_key``) of a backbone.

    Raises:
        UsageError: the backbone has no such feature.
    """
    for name in names:
        if name not in known:
            has = known_words(name, known)
            raise UsageError(f"{config_key} names {name!r}, but the backbone has {has}")
    return [known[name] for name in names]


@network
class PixelModule(nn.Module):
    """A network on a backbone that knows the mean and deviation of its pixels.

    They are buffers outside the state dict: they come from the config, as Detectron2's do.
    """

    backbone: Backbone
    pixel_mean: Sequence[float]  # per channel, on the scale of the images (0..255)
    pixel_std: Sequence[float]

    def __post_init__(self) -> None:
        self.keep_pixels("pixel_mean", self.__dict__.pop("pixel_mean"))
        self.keep_pixels("pixel_std", self.__dict__.pop("pixel_std"))

    def keep_pixels(self, name: str, values: Sequence[float]) -> None:
        """Keep numbers per channel as a buffer (channels, 1, 1)."""
        self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The backbone of ``MODEL.BACKBONE``, ``MODEL.PIXEL_MEAN`` and ``PIXEL_STD``."""
        scale = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
        return {"backbone": build_backbone(cfg)} | scale

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.pixel_mean.device

    def normalize(self, image: Tensor) -> Tensor:
        """(..., 3, H, W), uint8 or float, on the scale of the images, to the network's input."""
        return (image.to(self.device, self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std


def by_size(images: Sequence[Tensor], *, pixels: float = math.inf) -> list[list[int]]:
    """Indices of images (..., H, W) of one size, together: at most so many pixels, or one image."""
    found: list[list[int]] = []
    open_now: dict[Hashable, list[int]] = {}
    for index, image in enumerate(images):
        group = open_now.get(image.shape)
        if group is None or (len(group) + 1) * image.shape[-2] * image.shape[-1] > pixels:
            group = open_now[image.shape] = []
            found.append(group)
        group.append(index)
    return found


def in_batches(
    function: Callable[[list[_Item]], Sequence[_Result]],
    items: Sequence[_Item],
    images: Sequence[Tensor],
    *,
    pixels: float = PIXELS_AT_ONCE,
) -> list[_Result]:
    """Results of ``function`` for the items, in their order.

    It gets those together whose images have one size (`by_size`): nothing is padded, so that no
    result depends on the images beside it.
    """
    found: dict[int, _Result] = {}
    for members in by_size(images, pixels=pixels):
        found |= zip(members, function([items[i] for i in members]), strict=True)
    return [found[i] for i in range(len(items))]


def require_finite(maps: Tensor, sample: Mapping[str, Any], what: str) -> None:
    """Refuse a result of the network for a sample if it is not finite.

    Raises:
        DataError: names the image and ``what`` the result is.
    """
    if not bool(torch.isfinite(maps).all()):
        key = sample.get("image_key", "?")
        raise DataError(f"image {key}: {what} are not finite; its training diverged")


def result_size(sample: Mapping[str, Any]) -> tuple[int, int]:
    """(H, W) of a sample's results: its ``height`` and ``width``, else those of its ``image``."""
    height, width = sample["image"].shape[-2:]
    return int(sample.get("height", height)), int(sample.get("width", width))


def mask_instances(masks: Tensor, classes: Tensor, scores: Tensor, **others: Any) -> Instances:
    """Detectron2's Instances of masks (n, H, W) bool, their tight boxes, and other fields (n,)."""
    found = Instances(tuple(masks.shape[-2:]))
    found.pred_masks, found.pred_boxes = masks, Boxes(mask_boxes(masks).float())
    found.pred_classes, found.scores = classes, scores
    for name, values in others.items():
        found.set(name, values)
    return found
