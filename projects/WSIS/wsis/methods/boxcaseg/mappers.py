"""Samples of joint training, and images with their boxes for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from wsis.data.mappers import Mapper, Products, register_mapper, to_tensor
from wsis.data.salient import SALIENT_KEY, read_salient_mask
from wsis.data.transforms import draw_factor, draw_flip, draw_integer
from wsis.errors import DataError, UsageError
from wsis.methods.boxcaseg.crops import box_sample, object_sample, salient_sample
from wsis.methods.boxcaseg.samples import boxed_annotations, given_boxes
from wsis.modeling.network import options_of

_FLIPS = {
    "none": (False, False),
    "vertical": (True, False),
    "horizontal": (False, True),
    "both": (True, True),
}


def _flip_choice(name: str, key: str) -> tuple[bool, bool]:
    if name not in _FLIPS:
        raise UsageError(f"MODEL.BOXCASEG.{key} is one of {', '.join(_FLIPS)}, not {name!r}")
    return _FLIPS[name]


@register_mapper
class BoxCasegMapper(Mapper):
    """In training one crop, else an image with all its boxes (`methods/boxcaseg.md` 3, 6).

    Training takes what `wsis.methods.boxcaseg.samples.JointSamples` gives and adds ``image``
    (3, S, S) float32 in 0..255, ``label`` (S, S) float32 and ``salient``. Otherwise it adds
    ``image`` (3, H, W) and ``proposals``, Instances with ``proposal_boxes`` in whole pixels and
    ``gt_classes``.

    Its options are the keys of ``MODEL.BOXCASEG``, in lower case, and these.

    Attributes:
        box_flips: top to bottom, left to right, of box crops.
        salient_flips: of salient images.
    """

    train_side: int
    salient_side: int
    shift: float = 0.25
    stretch: Sequence[float] = (0.5, 1.5)
    box_flips: tuple[bool, bool] = (False, False)
    salient_flips: tuple[bool, bool] = (True, False)
    salient_stretch: bool = True
    salient_crop: str = "image"
    outwards: bool = False

    def __post_init__(self) -> None:
        if self.salient_side < self.train_side:
            raise UsageError(
                f"MODEL.BOXCASEG.SALIENT_SIDE {self.salient_side} is below TRAIN_SIDE "
                f"{self.train_side}"
            )
        if self.salient_crop not in ("image", "object"):
            raise UsageError(
                f"MODEL.BOXCASEG.SALIENT_CROP is image or object, not {self.salient_crop!r}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, *, is_train: bool, products: Products) -> dict[str, Any]:
        """Arguments from ``MODEL.BOXCASEG``."""
        keys = cfg.MODEL.BOXCASEG
        shared = super().from_config(cfg, is_train=is_train, products=products)
        return (
            shared
            | options_of(cls, keys)
            | {
                "box_flips": _flip_choice(keys.BOX_FLIP, "BOX_FLIP"),
                "salient_flips": _flip_choice(keys.SALIENT_FLIP, "SALIENT_FLIP"),
            }
        )

    @property
    def supervision(self) -> str:
        """Boxes, and the masks of salient images."""
        return "box"

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        dataset_dict = dataset_dict | {"height": image.shape[0], "width": image.shape[1]}
        if not self.is_train:
            return {"image": to_tensor(image)} | self._proposals(dataset_dict)
        salient = SALIENT_KEY in dataset_dict
        pixels, label = (self._salient if salient else self._box)(dataset_dict, image)
        return {"image": pixels, "label": label, "salient": salient}

    def _proposals(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        boxes = given_boxes(dataset_dict, outwards=self.outwards)
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
        boxes = given_boxes(dataset_dict, outwards=self.outwards).tolist()
        if len(boxes) != 1:
            raise DataError(
                f"image {dataset_dict.get('image_id')} ({dataset_dict['file_name']}): a box sample "
                f"has one box, not {len(boxes)}"
            )
        pixels, label, _ = box_sample(image, boxes[0], draws=self._draws(), size=self.train_side)
        return self._flip(pixels, label, self.box_flips)

    def _draws(self) -> list[float]:
        shifts = [draw_factor(-self.shift, self.shift) for _ in range(2)]
        return shifts + [draw_factor(*self.stretch) for _ in range(2)]

    def _salient(
        self, dataset_dict: dict[str, Any], image: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = read_salient_mask(dataset_dict[SALIENT_KEY], size=image.shape[:2])
        if self.salient_crop == "object":
            pixels, label = object_sample(image, mask, draws=self._draws(), size=self.train_side)
            return self._flip(pixels, label, self.salient_flips)
        highest = max(self.salient_side - self.train_side - 1, 0)
        flips = tuple(allowed and draw_flip() for allowed in self.salient_flips)
        return salient_sample(
            image,
            mask,
            offset=(draw_integer(0, highest), draw_integer(0, highest)),
            resized=self.salient_side,
            size=self.train_side,
            flips=flips,
            stretch=self.salient_stretch,
        )
