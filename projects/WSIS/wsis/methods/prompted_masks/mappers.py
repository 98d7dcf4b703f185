"""Images with their prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from wsis.data.annotations import boxed_annotations, boxes_with_area, given_boxes, points_of
from wsis.data.mappers import MAPPER_REGISTRY, Mapper, to_tensor

_SUPERVISION = {"boxes": "box", "points": "point", "peaks": "image"}


@MAPPER_REGISTRY.register()
class PromptMapper(Mapper):
    """A whole image with its prompts: boxes or points of its annotations, or class peaks.

    Adds ``image`` (3, H, W) and ``prompts``, Instances with ``gt_classes`` (K,) and

    - of boxes ``boxes`` (K, 4) float64 as annotated, and ``whole_boxes`` (K, 4) int64, all pixels
      that the box touches;
    - of points ``points`` (K, 2) float64, (x, y) in pixels; of peaks also ``peak_values`` (K,).
    """

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        self.kind = cfg.MODEL.PROMPTED_MASKS.PROMPTS
        self.supervision = _SUPERVISION[self.kind]

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        size = image.shape[:2]
        record = dataset_dict | {"height": size[0], "width": size[1]}
        if self.kind == "boxes":
            found = self._boxes(record)
        elif self.kind == "points":
            points, classes = points_of(record)
            found = {"points": points, "gt_classes": classes}
        else:
            found = self._peaks(record["image_key"], size)
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in found.items()}
        return {"image": to_tensor(image), "prompts": Instances(size, **tensors)}

    @staticmethod
    def _boxes(record: dict[str, Any]) -> dict[str, np.ndarray]:
        classes = [a["category_id"] for a in boxed_annotations(record)]
        whole = given_boxes(record, outwards=True)
        found = {"boxes": boxes_with_area(record), "whole_boxes": whole}
        return found | {"gt_classes": np.array(classes, dtype=np.int64)}

    def _peaks(self, key: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
        found = self.products["class_peaks"][key]
        points = found["peak_places"].astype(np.float64) * size  # shares of the image
        values, classes = found["peak_values"], found["peaks"][:, 0]
        return {"points": points[:, ::-1], "peak_values": values, "gt_classes": classes}
