"""Samples of joint training, and images with their boxes for prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from wsis.data.annotations import boxed_annotations, given_boxes, points_of
from wsis.data.mappers import MAPPER_REGISTRY, Mapper, to_tensor
from wsis.data.salient import SALIENT_KEY, read_salient_mask
from wsis.data.transforms import draw_factor, draw_flip, draw_integer, resize_label
from wsis.data.working_size import file_size
from wsis.errors import DataError, UsageError, did_you_mean
from wsis.methods.boxcaseg.crops import box_sample, object_sample, salient_sample

_FLIPS = {
    "none": (False, False),
    "vertical": (True, False),
    "horizontal": (False, True),
    "both": (True, True),
}


def _flip_choice(name: str, key: str) -> tuple[bool, bool]:
    if name not in _FLIPS:
        known = ", ".join(_FLIPS)
        near = did_you_mean(name, _FLIPS)
        raise UsageError(f"MODEL.BOXCASEG.{key} is one of {known}, not {name!r}{near}")
    return _FLIPS[name]


@MAPPER_REGISTRY.register()
class BoxCasegMapper(Mapper):
    """One crop in training, else an image with all its boxes (spec 3, 6).

    Training takes what `wsis.methods.boxcaseg.samples.JointSamples` gives and adds ``image``
    (3, S, S) float32 in 0..255, ``label`` (S, S) float32 and ``salient``. Otherwise it adds
    ``image`` (3, H, W) and ``proposals``, Instances with ``proposal_boxes`` in whole pixels and
    ``gt_classes``.
    """

    supervision = "box"  # and the masks of salient images

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        self.keys = keys = cfg.MODEL.BOXCASEG
        self.box_flips = _flip_choice(keys.BOX_FLIP, "BOX_FLIP")
        self.salient_flips = _flip_choice(keys.SALIENT_FLIP, "SALIENT_FLIP")
        if self.is_train and cfg.INPUT.RANDOM_FLIP != "horizontal":
            raise UsageError(
                f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP} does nothing to BoxCaseg's crops; set "
                "MODEL.BOXCASEG.BOX_FLIP and SALIENT_FLIP, and RANDOM_FLIP for mask_rcnn alone"
            )
        if keys.SALIENT_SIDE < keys.TRAIN_SIDE:
            raise UsageError(
                f"MODEL.BOXCASEG.SALIENT_SIDE {keys.SALIENT_SIDE} is below TRAIN_SIDE "
                f"{keys.TRAIN_SIDE}"
            )
        if keys.SALIENT_CROP not in ("image", "object"):
            raise UsageError(
                f"MODEL.BOXCASEG.SALIENT_CROP is image or object, not {keys.SALIENT_CROP!r}"
            )

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        dataset_dict = dataset_dict | {"height": image.shape[0], "width": image.shape[1]}
        if not self.is_train:
            return {"image": to_tensor(image)} | self._proposals(dataset_dict)
        salient = SALIENT_KEY in dataset_dict
        pixels, label = (self._salient if salient else self._box)(dataset_dict, image)
        return {"image": pixels, "label": label, "salient": salient}

    def _proposals(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        boxes = given_boxes(dataset_dict, outwards=self.keys.OUTWARDS)
        classes = [a["category_id"] for a in boxed_annotations(dataset_dict)]
        proposals = Instances((dataset_dict["height"], dataset_dict["width"]))
        proposals.proposal_boxes = Boxes(torch.from_numpy(boxes).float())
        proposals.gt_classes = torch.tensor(classes, dtype=torch.int64)
        return {"proposals": proposals}

    def _flip(
        self, pixels: torch.Tensor, label: torch.Tensor, flips: tuple[bool, bool]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for axis, allowed in zip((-2, -1), flips, strict=True):
            if allowed and draw_flip():
                pixels, label = pixels.flip(axis), label.flip(axis)
        return pixels, label

    def _box(
        self, dataset_dict: dict[str, Any], image: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        boxes = given_boxes(dataset_dict, outwards=self.keys.OUTWARDS).tolist()
        if len(boxes) != 1:
            raise DataError(
                f"image {dataset_dict.get('image_id')} ({dataset_dict['file_name']}): a box sample "
                f"has one box, not {len(boxes)}"
            )
        side = self.keys.TRAIN_SIDE
        pixels, label, _ = box_sample(image, boxes[0], draws=self._draws(), size=side)
        return self._flip(pixels, label, self.box_flips)

    def _draws(self) -> list[float]:
        shifts = [draw_factor(-self.keys.SHIFT, self.keys.SHIFT) for _ in range(2)]
        return shifts + [draw_factor(*self.keys.STRETCH) for _ in range(2)]

    def _salient(
        self, dataset_dict: dict[str, Any], image: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        side = self.keys.TRAIN_SIDE
        mask = read_salient_mask(dataset_dict[SALIENT_KEY], size=file_size(dataset_dict))
        mask = resize_label(mask, image.shape[:2])
        if self.keys.SALIENT_CROP == "object":
            pixels, label = object_sample(image, mask, draws=self._draws(), size=side)
            return self._flip(pixels, label, self.salient_flips)
        highest = max(self.keys.SALIENT_SIDE - side - 1, 0)
        flips = tuple(allowed and draw_flip() for allowed in self.salient_flips)
        return salient_sample(
            image,
            mask,
            offset=(draw_integer(0, highest), draw_integer(0, highest)),
            resized=self.keys.SALIENT_SIDE,
            size=side,
            flips=flips,
            stretch=self.keys.SALIENT_STRETCH,
        )


@MAPPER_REGISTRY.register()
class BoxCasegPointMapper(Mapper):
    """An image with all its points.

    Adds ``image`` (3, H, W) and ``proposals``, Instances with ``proposal_points`` (K, 2) float64,
    (x, y) in pixels, and ``gt_classes``.
    """

    supervision = "point"

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        points, classes = (torch.from_numpy(found) for found in points_of(dataset_dict))
        found = Instances(image.shape[:2], proposal_points=points, gt_classes=classes)
        return {"image": to_tensor(image), "proposals": found}
