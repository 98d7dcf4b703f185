"""From dataset dicts to model inputs.

A mapper gives what a stage's model takes: ``image`` (3, H, W) in 0..255 (uint8, or float32 where a
canvas is filled with the pixel mean), channels as ``INPUT.FORMAT`` says, and always ``image_key``,
``image_id``, ``file_name``, ``height`` and ``width`` of the image file. Mappers of training first
remove from the dict what the stage's supervision does not include.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable

from wsis.data.artifacts import ProductReader
from wsis.data.instance_mapper import InstanceMapper
from wsis.data.mapper_base import (
    MAPPER_REGISTRY,
    base_output,
    image_format_of,
    read_model_image,
    to_tensor,
)
from wsis.data.peak_mapper import PeakImageMapper
from wsis.data.supervision import restrict_supervision
from wsis.data.transforms import (
    Size,
    Sizing,
    draw_factor,
    draw_flip,
    draw_integer,
    random_window,
    resize_image,
    resize_label,
    ruled_size,
    scaled_size,
    top_left_window,
)
from wsis.errors import DataError, UsageError

__all__ = [
    "MAPPER_REGISTRY",
    "ImageLevelMapper",
    "InstanceMapper",
    "MultiScaleMapper",
    "PeakImageMapper",
    "PixelLabelMapper",
    "ProductImageMapper",
    "TopLeftCropMapper",
    "build_mapper",
]
UNKNOWN_LABEL = 255


def build_mapper(
    cfg: CfgNode, name: str, *, is_train: bool, products: Mapping[str, ProductReader]
) -> Any:
    """The mapper registered under ``name``.

    Args:
        cfg: a stage's config.
        name: as a `wsis.stage.Stage` names it.
        is_train: whether it feeds training.
        products: of the stages that this one consumes.

    Raises:
        UsageError: no such mapper.
    """
    if name not in MAPPER_REGISTRY:
        known = ", ".join(sorted(key for key, _ in MAPPER_REGISTRY))
        raise UsageError(f"there is no mapper {name!r}; registered are: {known}")
    return MAPPER_REGISTRY.get(name)(cfg, is_train=is_train, products=products)


def _flips(cfg: CfgNode) -> bool:
    if cfg.INPUT.RANDOM_FLIP not in ("horizontal", "none"):
        raise UsageError(f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP!r}: use horizontal or none")
    return cfg.INPUT.RANDOM_FLIP == "horizontal"


def _mean_color(cfg: CfgNode) -> np.ndarray:
    """The canvas value that normalises to exactly 0."""
    return np.asarray(cfg.MODEL.PIXEL_MEAN, dtype=np.float32)


def _sizing(cfg: CfgNode) -> Sizing:
    return Sizing.from_config(cfg)


@MAPPER_REGISTRY.register()
class ImageLevelMapper:
    """Images with their tags, for the classifier (`methods/irnet.md` 2).

    In training: the longer side becomes a uniform random integer (bicubic), flip, random crop onto
    a canvas of the mean colour. Otherwise the whole image. Adds ``image`` and ``image_labels``.

    Args:
        is_train: augment.
        image_format: channel order.
        longer_side: range of the longer side in pixels, both ends included.
        crop_side: side of the canvas; 0 for none.
        fill: canvas value per channel.
        flip: flip half of the images.
        sizing: of whole images.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        image_format: str,
        longer_side: Size,
        crop_side: int,
        fill: np.ndarray,
        flip: bool,
        sizing: Sizing,
    ) -> None:
        self.is_train = is_train
        self.image_format = image_format
        self.longer_side = longer_side
        self.crop_side = crop_side
        self.fill = fill
        self.flip = flip
        self.sizing = sizing

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, is_train: bool, products: Mapping[str, ProductReader]
    ) -> dict[str, Any]:
        """Arguments from ``INPUT``."""
        return {
            "is_train": is_train,
            "image_format": image_format_of(cfg),
            "longer_side": cfg.INPUT.LONGER_SIDE_RANGE,
            "crop_side": cfg.INPUT.CROP_SIDE,
            "fill": _mean_color(cfg),
            "flip": _flips(cfg),
            "sizing": _sizing(cfg),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = restrict_supervision(dataset_dict, "image")
        image = read_model_image(dataset_dict, self.image_format)
        output = base_output(dataset_dict, image)
        image = self._augment(image) if self.is_train else self.sizing.apply(image)
        labels = list(dataset_dict.get("image_labels", []))
        return output | {"image": to_tensor(image), "image_labels": labels}

    def _augment(self, image: np.ndarray) -> np.ndarray:
        if any(self.sizing.stretch):
            image = self.sizing.apply(image)
            return image[:, ::-1] if self.flip and draw_flip() else image
        longer = draw_integer(*self.longer_side)
        size = scaled_size(image.shape[:2], longer / max(image.shape[:2]))
        if not self.crop_side:
            size = ruled_size(size, self.sizing.rule)
        image = resize_image(image, size)
        if self.flip and draw_flip():
            image = image[:, ::-1]
        if self.crop_side:
            image = random_window(image.shape[:2], self.crop_side).paste(image, self.fill)
        return image


@MAPPER_REGISTRY.register()
class MultiScaleMapper:
    """One image at several scales, for class activation maps (`methods/irnet.md` 3).

    Adds ``images`` (list of (3, H_s, W_s) uint8) and, where the data set has them,
    ``image_labels`` (ids). The model flips.

    Args:
        image_format: channel order.
        scales: factors of the working size.
        sizing: of whole images.
    """

    @configurable
    def __init__(
        self,
        *,
        image_format: str,
        scales: Sequence[float],
        sizing: Sizing,
    ) -> None:
        self.image_format = image_format
        self.scales = tuple(scales)
        self.sizing = sizing

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, is_train: bool, products: Mapping[str, ProductReader]
    ) -> dict[str, Any]:
        """Arguments from ``INPUT``."""
        return {
            "image_format": image_format_of(cfg),
            "scales": cfg.INPUT.SCALES,
            "sizing": _sizing(cfg),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = restrict_supervision(dataset_dict, "image")
        image = read_model_image(dataset_dict, self.image_format)
        output = base_output(dataset_dict, image)
        if "image_labels" in dataset_dict:
            output["image_labels"] = list(dataset_dict["image_labels"])
        output["images"] = [
            to_tensor(self.sizing.apply(image, scale=scale)) for scale in self.scales
        ]
        return output


@MAPPER_REGISTRY.register()
class PixelLabelMapper:
    """Images with their inter-pixel labels, for the relation network (`methods/irnet.md` 5.5).

    Image (bicubic) and label (nearest) are rescaled by one uniform random factor, flipped and
    cropped at random onto a canvas, 255 in the label. Adds ``image`` and ``inter_pixel_label``
    (H, W) uint8: 0 background, class id + 1, 255 unknown.

    Args:
        product: reader of the labels.
        image_format: channel order.
        factors: range of the factor.
        crop_side: side of the canvas; 0 for none.
        fill: canvas value of the image per channel.
        flip: flip half of the images.
        sizing: of whole images.
    """

    @configurable
    def __init__(
        self,
        *,
        product: Mapping[str, Mapping[str, np.ndarray]],
        image_format: str,
        factors: tuple[float, float],
        crop_side: int,
        fill: np.ndarray,
        flip: bool,
        sizing: Sizing,
    ) -> None:
        self.product = product
        self.image_format = image_format
        self.factors = factors
        self.crop_side = crop_side
        self.fill = fill
        self.flip = flip
        self.sizing = sizing

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, is_train: bool, products: Mapping[str, ProductReader]
    ) -> dict[str, Any]:
        """Arguments from ``INPUT``."""
        return {
            "product": products["inter_pixel_label"],
            "image_format": image_format_of(cfg),
            "factors": cfg.INPUT.RESCALE_RANGE,
            "crop_side": cfg.INPUT.CROP_SIDE,
            "fill": _mean_color(cfg),
            "flip": _flips(cfg),
            "sizing": _sizing(cfg),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = restrict_supervision(dataset_dict, "image")
        image = read_model_image(dataset_dict, self.image_format)
        output = base_output(dataset_dict, image)
        key = dataset_dict["image_key"]
        label = np.asarray(self.product[key]["label"])
        if label.shape != image.shape[:2]:
            raise DataError(
                f"the inter-pixel label of {key} has size {label.shape} but its image "
                f"{image.shape[:2]}; run --from-stage inter_pixel_label --force"
            )
        factor = draw_factor(*self.factors)
        size = self.sizing.scaled(label.shape, factor)
        if not self.crop_side:
            size = ruled_size(size, self.sizing.rule)
        image, label = resize_image(image, size), resize_label(label, size)
        if self.flip and draw_flip():
            image, label = image[:, ::-1], label[:, ::-1]
        if self.crop_side:
            window = random_window(size, self.crop_side)
            image = window.paste(image, self.fill)
            label = window.paste(label, UNKNOWN_LABEL)
        label = torch.from_numpy(np.ascontiguousarray(label).copy())
        return output | {"image": to_tensor(image), "inter_pixel_label": label}


@MAPPER_REGISTRY.register()
class TopLeftCropMapper:
    """Images in the top left corner of a canvas of the mean colour, for the displacement mean.

    Args:
        image_format: channel order.
        crop_side: side of the canvas; 0 for none: whole images.
        fill: canvas value per channel.
        sizing: of whole images.
    """

    @configurable
    def __init__(
        self,
        *,
        image_format: str,
        crop_side: int,
        fill: np.ndarray,
        sizing: Sizing,
    ) -> None:
        self.image_format = image_format
        self.crop_side = crop_side
        self.fill = fill
        self.sizing = replace(sizing, rule=(0, 0)) if crop_side else sizing

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, is_train: bool, products: Mapping[str, ProductReader]
    ) -> dict[str, Any]:
        """Arguments from ``INPUT``."""
        return {
            "image_format": image_format_of(cfg),
            "crop_side": cfg.INPUT.CROP_SIDE,
            "fill": _mean_color(cfg),
            "sizing": _sizing(cfg),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = restrict_supervision(dataset_dict, "image")
        image = read_model_image(dataset_dict, self.image_format)
        output = base_output(dataset_dict, image)
        image = self.sizing.apply(image)
        if self.crop_side:
            image = top_left_window(image.shape[:2], self.crop_side).paste(image, self.fill)
        return output | {"image": to_tensor(image)}


@MAPPER_REGISTRY.register()
class ProductImageMapper:
    """Whole images with their class activation maps: ``image``, ``keys`` (K,), ``cam`` (K, h, w).

    The image has its working size, the maps are as they were stored; ``height`` and ``width`` are
    the file's.

    Args:
        product: reader of the maps.
        image_format: channel order.
        sizing: of whole images.
    """

    @configurable
    def __init__(
        self,
        *,
        product: Mapping[str, Mapping[str, np.ndarray]],
        image_format: str,
        sizing: Sizing,
    ) -> None:
        self.product = product
        self.image_format = image_format
        self.sizing = sizing

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, is_train: bool, products: Mapping[str, ProductReader]
    ) -> dict[str, Any]:
        """Arguments from ``INPUT``."""
        return {
            "product": products["cam"],
            "image_format": image_format_of(cfg),
            "sizing": _sizing(cfg),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = restrict_supervision(dataset_dict, "image")
        image = read_model_image(dataset_dict, self.image_format)
        artifact = self.product[dataset_dict["image_key"]]
        maps = {name: torch.from_numpy(np.array(artifact[name])) for name in ("keys", "cam")}
        output = base_output(dataset_dict, image)
        image = self.sizing.apply(image)
        return output | {"image": to_tensor(image)} | maps
