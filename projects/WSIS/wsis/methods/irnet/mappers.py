"""Images with what earlier stages made of them: inter-pixel labels, class activation maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from wsis.data.mappers import MAPPER_REGISTRY, Mapper, to_tensor, wants_flips
from wsis.data.transforms import (
    Canvas,
    draw_factor,
    draw_flip,
    random_canvas,
    resize_image,
    resize_label,
)
from wsis.errors import DataError
from wsis.methods.irnet.labels import UNKNOWN


@MAPPER_REGISTRY.register()
class PixelLabelMapper(Mapper):
    """Images with their inter-pixel labels, for the relation network (spec 5.5).

    Image (bicubic) and label (nearest) are rescaled by one random factor, flipped at random, and
    cropped at random onto a canvas (255 in the label). Adds ``image`` and ``inter_pixel_label``
    (H, W) uint8: 0 background, class id + 1, 255 unknown.
    """

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        self.factors, self.flip = cfg.INPUT.RESCALE_RANGE, wants_flips(cfg)

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        key = dataset_dict["image_key"]
        label = np.asarray(self.products["inter_pixel_label"][key]["label"])
        if label.shape != image.shape[:2]:
            raise DataError(
                f"the inter-pixel label of {key} has size {label.shape} but its image "
                f"{image.shape[:2]}; run --from-stage inter_pixel_label --force"
            )
        size = self.ruled(self.sizing.scaled(label.shape, draw_factor(*self.factors)))
        image, label = resize_image(image, size), resize_label(label, size)
        if self.flip and draw_flip():
            image, label = image[:, ::-1], label[:, ::-1]
        if self.crop_side:
            canvas = random_canvas(size, self.crop_side)
            image, label = canvas.paste(image, self.fill), canvas.paste(label, UNKNOWN)
        label = torch.from_numpy(np.ascontiguousarray(label).copy())
        return {"image": to_tensor(image), "inter_pixel_label": label}


@MAPPER_REGISTRY.register()
class TopLeftCropMapper(Mapper):
    """Images in the top left corner of a canvas of the mean colour, for the displacement mean."""

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """``image``."""
        image = self.sizing.resize(image, self.ruled(self.sizing.scaled(image.shape[:2])))
        if self.crop_side:
            image = Canvas(self.crop_side).paste(image, self.fill)
        return {"image": to_tensor(image)}


@MAPPER_REGISTRY.register()
class ProductImageMapper(Mapper):
    """Whole images with their class activation maps: ``image``, ``keys`` (K,), ``cam`` (K, h, w).

    The image has its working size; the maps are those that were stored. ``height`` and ``width``
    are the file's.
    """

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        artifact = self.products["cam"][dataset_dict["image_key"]]
        maps = {name: torch.from_numpy(np.array(artifact[name])) for name in ("keys", "cam")}
        return {"image": to_tensor(self.sizing.apply(image))} | maps
