"""Images with boxes: for training, and for the masks of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from wsis.data.annotations import boxed_annotations, boxes_with_area
from wsis.data.instance_mapper import InstanceMapper
from wsis.data.mappers import MAPPER_REGISTRY


@MAPPER_REGISTRY.register()
class BoxInstMapper(InstanceMapper):
    """Detectron2's mapping without masks, whatever the data set has; ``instances`` in training."""

    learns_masks = False


@MAPPER_REGISTRY.register()
class GivenBoxMapper(InstanceMapper):
    """Images with all their boxes, whose masks are wanted.

    Adds ``proposals``, Instances of the image at its working size, with ``proposal_boxes`` as
    annotated (flat ones in whole pixels) and ``gt_classes``.
    """

    supervision = "box"

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        dataset_dict = dataset_dict | {"height": image.shape[0], "width": image.shape[1]}
        boxes = boxes_with_area(dataset_dict)
        classes = [a["category_id"] for a in boxed_annotations(dataset_dict)]
        proposals = Instances(image.shape[:2])
        proposals.proposal_boxes = Boxes(torch.from_numpy(boxes).float())
        proposals.gt_classes = torch.tensor(classes, dtype=torch.int64)
        return super().model_inputs(dataset_dict, image) | {"proposals": proposals}
