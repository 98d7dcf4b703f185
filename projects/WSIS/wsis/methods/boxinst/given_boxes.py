"""A trained Mask R-CNN that gives a mask to every box that it is given (spec 4)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances

from wsis.modeling.network import in_batches, result_size

_INSIDE = 0.5  # probability of the mask's pixels, as Detectron2's


@META_ARCH_REGISTRY.register()
class GivenBoxRCNN(GeneralizedRCNN):
    """Detectron2's network, which finds nothing in inference: boxes and classes are given.

    A sample has ``image``, ``height``, ``width``, and ``proposals``: Instances at that height and
    width with ``proposal_boxes`` and ``gt_classes`` (K,). There may be none.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else per image ``instances`` of all its boxes, in their order.

        These have ``pred_boxes`` (the given ones), ``pred_classes``, ``pred_masks`` (K, H, W) bool
        at the sample's height and width, and ``scores``, the mean probability inside the mask.
        """
        if self.training:
            return super().forward(batched_inputs)
        given = [self._boxes(sample) for sample in batched_inputs]
        scaled = [self._scaled(*pair) for pair in zip(given, batched_inputs, strict=True)]

        def infer(some: list[tuple[dict[str, Any], Instances]]) -> list[Instances]:
            samples, boxes = (list(column) for column in zip(*some, strict=True))
            return self.inference(samples, boxes, do_postprocess=False)

        images = [sample["image"] for sample in batched_inputs]
        found = in_batches(infer, list(zip(batched_inputs, scaled, strict=True)), images)
        return [{"instances": self._pasted(*pair)} for pair in zip(given, found, strict=True)]

    def _boxes(self, sample: dict[str, Any]) -> Instances:
        result = Instances(result_size(sample))
        if "proposals" in sample:
            proposals = sample["proposals"].to(self.device)
            result.pred_boxes, result.pred_classes = proposals.proposal_boxes, proposals.gt_classes
        else:
            nothing = torch.zeros(0, 4, device=self.device)
            result.pred_boxes, result.pred_classes = Boxes(nothing), nothing[:, 0].long()
        return result

    @staticmethod
    def _scaled(given: Instances, sample: dict[str, Any]) -> Instances:
        """The boxes in the image that the network sees."""
        height, width = sample["image"].shape[-2:]
        result = Instances((height, width), **given.get_fields())
        result.pred_boxes = given.pred_boxes.clone()
        result.pred_boxes.scale(width / given.image_size[1], height / given.image_size[0])
        return result

    @staticmethod
    def _pasted(given: Instances, found: Instances) -> Instances:
        maps = found.pred_masks[:, 0].float()
        inside = (maps >= _INSIDE).flatten(1)
        given.scores = (maps.flatten(1) * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)
        masks = paste_masks_in_image(maps, given.pred_boxes, given.image_size, threshold=_INSIDE)
        given.pred_masks = masks.bool()
        return given
