"""Masks inside given boxes, measured: the network of joint training, and proxy masks.

`wsis.evaluation.box_masks` has the measures, and the check of the product ``box_masks``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.builtin import class_names
from wsis.evaluation.box_masks import BoxMaskMeasure, box_mask_pair, box_mask_part
from wsis.evaluation.checks import instance_part
from wsis.evaluation.evaluator import Evaluator, Image

TRUSTED = 0.95  # masks with a confidence above this train Mask R-CNN's masks, as published


def check_proxy_masks(name: str, cfg: CfgNode) -> Evaluator:
    """Product ``instances`` made from boxes: figures of `instance_part`, and mIoU inside boxes.

    The mIoU is that of all masks, and of those with a confidence above `TRUSTED`.
    """
    names, title = class_names(name), "proxy masks"
    every, sure = (
        BoxMaskMeasure(protocol, names) for protocol in (title, f"{title}, confidence > {TRUSTED}")
    )

    def sure_pair(image: Image) -> Any:
        if image.found is None:
            return None
        chosen = image.found["confidence"] > TRUSTED
        return box_mask_pair(image, protocol=sure.protocol, chosen=chosen)

    every_pair = partial(box_mask_pair, protocol=every.protocol)
    parts = [instance_part(names, cfg), (every_pair, [every]), (sure_pair, [sure])]
    return Evaluator(title, names, parts)


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
