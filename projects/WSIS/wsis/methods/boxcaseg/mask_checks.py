"""Masks inside given boxes, measured: the network of joint training, and proxy masks.

`wsis.evaluation.box_masks` has the measures, and the check of the product ``box_masks``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.builtin import class_names
from wsis.evaluation.box_masks import (
    BoxMaskMeasure,
    box_mask_pair,
    box_mask_part,
    objects_of_image,
)
from wsis.evaluation.checks import instance_part
from wsis.evaluation.evaluator import Evaluator, Image

TRUSTED = 0.95  # masks with a confidence above this train Mask R-CNN's masks, as published


def check_proxy_masks(name: str, cfg: CfgNode) -> Evaluator:
    """Product ``instances`` made from boxes: figures of `instance_part`, and mIoU inside boxes.

    The mIoU is that of all masks, and of those with a confidence above `TRUSTED`.
    """
    names, every = class_names(name), "proxy masks"
    sure = f"{every}, confidence > {TRUSTED}"

    def pair_of(image: Image) -> Any:
        pair = box_mask_pair(image, protocols=[every])
        iou, classes = pair[every]
        trusted = np.zeros(len(iou), dtype=bool)
        if image.found is not None:
            trusted = (image.found["confidence"] > TRUSTED)[objects_of_image(image) >= 0]
        return pair | {sure: (iou[trusted], classes[trusted])}

    measures = [BoxMaskMeasure(protocol, names) for protocol in (every, sure)]
    return Evaluator(every, names, [instance_part(names, cfg), (pair_of, measures)])


def box_mask_evaluator(name: str, cfg: CfgNode, folder: Path) -> Evaluator:
    """The evaluator of a training stage whose network takes boxes; it writes no predictions."""
    names = class_names(name)
    pair_of, measures = box_mask_part(names, cfg)

    def of_output(image: Image) -> Any:
        if image.found is not None:
            found = image.found["instances"]
            boxes = found.pred_boxes.tensor.cpu().numpy().astype(np.int64)
            masks = found.pred_masks.cpu().numpy()
            image = image._replace(found={"masks": masks, "boxes": boxes})
        return pair_of(image)

    return Evaluator("box masks", names, [(of_output, measures)])
