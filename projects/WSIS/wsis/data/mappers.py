"""From dataset dicts to model inputs: what all mappers share, and those of more than one method.

A mapper gives what a stage's model takes: ``image`` (3, H, W) in 0..255 (uint8, or float32 where a
canvas is filled with the pixel mean), channels as ``INPUT.FORMAT`` says, and always ``image_key``,
``image_id``, ``file_name``, ``height`` and ``width`` of the image file. It first removes from the
dict what the stage's supervision does not include. All that belongs to an image larger than
``INPUT.MAX_PIXELS`` is made smaller; ``height`` and ``width`` are then its working size, and
``file_size`` is there (`wsis.data.working_size`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

from wsis.data.annotations import points_of
from wsis.data.images import read_dataset_image
from wsis.data.proposals.store import proposals_of_image
from wsis.data.supervision import restrict_supervision
from wsis.data.transforms import (
    Size,
    Sizing,
    draw_flip,
    draw_integer,
    random_canvas,
    resize_image,
    ruled_size,
    scaled_size,
)
from wsis.data.working_size import at_working_size
from wsis.errors import UsageError, known_words

MAPPER_REGISTRY = Registry("WSIS_MAPPER")
MAPPER_REGISTRY.__doc__ = "Mappers: built as ``mapper(cfg, is_train=..., products=...)``."

Products = Mapping[str, Any]  # by name; each gives the arrays of an image by its key
_KEPT = ("image_key", "image_id", "file_name", "height", "width", "file_size")


def build_mapper(cfg: CfgNode, name: str, *, is_train: bool, products: Products) -> Any:
    """The mapper that a `wsis.stage.Stage` names, fed with the products that the stage consumes.

    Raises:
        UsageError: no such mapper.
    """
    if name not in MAPPER_REGISTRY:
        known = known_words(name, sorted(key for key, _ in MAPPER_REGISTRY))
        raise UsageError(f"there is no mapper {name!r}; registered are: {known}")
    return MAPPER_REGISTRY.get(name)(cfg, is_train=is_train, products=products)


def read_model_image(dataset_dict: dict[str, Any], image_format: str) -> np.ndarray:
    """The image file as (H, W, 3) uint8 in channel order ``image_format``, "RGB" or "BGR"."""
    image = read_dataset_image(dataset_dict)
    return image if image_format == "RGB" else np.ascontiguousarray(image[:, :, ::-1])


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) to (3, H, W), a copy."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).copy())


def tags_of(dataset_dict: dict[str, Any]) -> dict[str, Any]:
    """``image_labels`` (class ids) where the data set has tags; otherwise nothing."""
    tagged = "image_labels" in dataset_dict
    return {"image_labels": list(dataset_dict["image_labels"])} if tagged else {}


def _point_rows(dataset_dict: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """(P, 3) rows (class id, y, x) of the points in an image (H, W, 3), y and x as shares of it."""
    points, classes = points_of(dataset_dict)
    return np.column_stack([classes, (points / image.shape[1::-1])[:, ::-1]])


def wants_flips(cfg: CfgNode) -> bool:
    """``INPUT.RANDOM_FLIP``, which must be horizontal or none."""
    if cfg.INPUT.RANDOM_FLIP not in ("horizontal", "none"):
        raise UsageError(f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP!r}: use horizontal or none")
    return cfg.INPUT.RANDOM_FLIP == "horizontal"


class Mapper:
    """Base of all mappers: reads the image, keeps the keys that name it, adds `model_inputs`.

    Args:
        cfg: of the stage.
        is_train: whether it feeds training.
        products: of earlier stages.

    Attributes:
        image_format: channel order, "RGB" or "BGR".
        max_pixels: ``INPUT.MAX_PIXELS``.
        sizing: of whole images.
        crop_side: side of the square canvas of crops in pixels; 0 for none: whole images.
        fill: canvas value per channel, which becomes exactly 0 in the network.
    """

    supervision = "image"  # the most that it may look at, see `restrict_supervision`

    def __init__(self, cfg: CfgNode, *, is_train: bool, products: Products) -> None:
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise UsageError(f"INPUT.FORMAT is RGB or BGR, not {cfg.INPUT.FORMAT!r}")
        self.is_train, self.products = is_train, products
        self.image_format, self.max_pixels = cfg.INPUT.FORMAT, cfg.INPUT.MAX_PIXELS
        self.sizing = Sizing.from_config(cfg)
        self.crop_side = cfg.INPUT.CROP_SIDE
        self.fill = np.asarray(cfg.MODEL.PIXEL_MEAN, dtype=np.float32)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = restrict_supervision(dataset_dict, self.supervision)
        dataset_dict = at_working_size(dataset_dict, self.max_pixels)
        image = read_model_image(dataset_dict, self.image_format)
        output = {"height": image.shape[0], "width": image.shape[1]}
        output |= {key: dataset_dict[key] for key in _KEPT if key in dataset_dict}
        return output | self.model_inputs(dataset_dict, image)

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """What the model takes besides the names and size of the image.

        Args:
            dataset_dict: without anything beyond ``supervision``.
            image: (H, W, 3) uint8 of the file, at its working size.
        """
        raise NotImplementedError

    def ruled(self, size: Size) -> Size:
        """``size`` after `ruled_size`, unless a canvas decides the size of the input."""
        return size if self.crop_side else ruled_size(size, self.sizing.rule)


@MAPPER_REGISTRY.register()
class ImageLevelMapper(Mapper):
    """Images with their tags, for the classifier (irnet spec 2).

    In training: the longer side becomes a uniform random integer (bicubic), flip, random crop onto
    a canvas of the mean colour. Otherwise the whole image. Adds ``image`` and ``image_labels``.
    """

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        self.longer_side, self.flip = cfg.INPUT.LONGER_SIDE_RANGE, wants_flips(cfg)

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        labels = list(dataset_dict.get("image_labels", []))
        if not self.is_train:
            return {"image": to_tensor(self.sizing.apply(image)), "image_labels": labels}
        if self.supervision == "image":
            image, _ = self._augment(image, np.zeros((0, 2)))
        else:
            rows = _point_rows(dataset_dict, image)
            image, inside = self._augment(image, rows[:, 1:])
            labels = np.unique(rows[inside, 0]).astype(int).tolist()
        return {"image": to_tensor(image), "image_labels": labels}

    def _augment(self, image: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image for training; which of ``places`` (P, 2), shares (y, x), are still in it."""
        inside = np.ones(len(places), dtype=bool)
        if any(self.sizing.stretch):
            image = self.sizing.apply(image)
            return (image[:, ::-1] if self.flip and draw_flip() else image), inside
        longer = draw_integer(*self.longer_side)
        size = scaled_size(image.shape[:2], longer / max(image.shape[:2]))
        image = resize_image(image, self.ruled(size))
        if self.flip and draw_flip():
            image, places = image[:, ::-1], np.column_stack([places[:, 0], 1 - places[:, 1]])
        if self.crop_side:
            canvas = random_canvas(image.shape[:2], self.crop_side)
            pixels = places * image.shape[:2] + (canvas.y, canvas.x)
            inside = ((pixels >= 0) & (pixels <= self.crop_side)).all(axis=1)
            image = canvas.paste(image, self.fill)
        return image, inside


@MAPPER_REGISTRY.register()
class PointCropMapper(ImageLevelMapper):
    """The same, but a crop has the tags of the points in it.

    Where every image has the same class, tags of images teach nothing; crops without a point do.
    """

    supervision = "point"


@MAPPER_REGISTRY.register()
class MultiScaleMapper(Mapper):
    """One image at the scales of ``INPUT.SCALES``, for activation maps (irnet spec 3).

    Adds ``images`` (list of (3, H_s, W_s) uint8) and, where the data set has them,
    ``image_labels`` (ids). The model flips.
    """

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        self.scales = cfg.INPUT.SCALES

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        images = [to_tensor(self.sizing.apply(image, scale=scale)) for scale in self.scales]
        return tags_of(dataset_dict) | {"images": images}


@MAPPER_REGISTRY.register()
class PeakImageMapper(Mapper):
    """Whole images for peak response maps, with their segment proposals (prm spec 6).

    Adds ``image`` at its working size, and ``image_labels`` where the data set has tags. Where the
    stage consumes segment proposals, also ``proposals``, a `wsis.layers.regions.Regions` at the
    size of the file, best first. Where it may look at points, also ``points`` (P, 3) float32, rows
    (class id, y, x), the place as shares of the image.
    """

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        found = tags_of(dataset_dict) | {"image": to_tensor(self.sizing.apply(image))}
        if self.supervision == "point":
            rows = _point_rows(dataset_dict, image)
            found["points"] = torch.from_numpy(rows.astype(np.float32))
        if "proposals" not in self.products:
            return found
        key, size = dataset_dict["image_key"], image.shape[:2]
        proposals = proposals_of_image(self.products["proposals"][key], key, size=size)
        return found | {"proposals": proposals.regions}


@MAPPER_REGISTRY.register()
class PointImageMapper(PeakImageMapper):
    """The same with the point of each object, from which a mask is made instead of from peaks."""

    supervision = "point"
