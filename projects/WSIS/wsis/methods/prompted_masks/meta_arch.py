"""Prompted masks: of the masks that a Segment Anything model proposes, the one that fits best.

K prompts of an image of H x W pixels, M proposed masks of a prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from wsis.errors import UsageError
from wsis.layers.box_baselines import filled_boxes
from wsis.layers.masks import fair_confidence, mask_boxes, mask_nms
from wsis.methods.prompted_masks.segment_anything import SegmentAnything, load_segment_anything
from wsis.modeling.network import (
    mask_instances,
    network,
    options_of,
    require_finite,
    result_size,
)

_LEAST = 1e-6  # of a score or a fit: one alone still ranks


@META_ARCH_REGISTRY.register()
@network
class PromptedMasks(nn.Module):
    """One mask for each box or point, or for each class peak that no better mask covers.

    The network proposes several masks (the whole, a part, a part of the part) with the IoU that it
    expects of each. The best is the one of highest expected IoU times its fit to what is given:

    - a box: how well the mask's box fits it (`wsis.layers.masks.fair_confidence`);
    - a point: 0 beside it, else one over the number of given points in the mask, because a mask of
      n objects overlaps one of them by about 1/n;
    - a peak: 1, since peaks may lie beside their object, and several in one.

    Attributes:
        segmenter: the model.
        image_format: channel order of the images, "RGB" or "BGR".
        prompts, prompts_at_once, nms_threshold: see ``MODEL.PROMPTED_MASKS``.
    """

    segmenter: SegmentAnything
    image_format: str = "RGB"
    prompts: str = "boxes"
    prompts_at_once: int = 16
    nms_threshold: float = 0.5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.PROMPTED_MASKS`` and ``INPUT.FORMAT``."""
        keys = cfg.MODEL.PROMPTED_MASKS
        segmenter = load_segment_anything(keys.MODEL)
        return {"segmenter": segmenter, "image_format": cfg.INPUT.FORMAT} | options_of(cls, keys)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The masks of every image's prompts.

        A sample has ``image`` (3, H, W) in 0..255 and ``prompts`` (see `PromptMapper`), which may
        be empty or missing.

        Returns:
            per image ``instances`` on the CPU: ``pred_masks`` (n, H, W) bool, ``pred_boxes``,
            ``pred_classes``, ``scores``, the expected IoU in [0, 1]. Of boxes, all K in their order
            with these boxes in whole pixels; masks are cut to them, and ``confidence`` (K,) says
            how well they fitted before. Of points, those with a mask. Of peaks, scores are
            multiplied by the sigmoid of the peak's value, the best first.

        Raises:
            UsageError: in training: there is nothing to train.
            DataError: the network's scores are not finite.
        """
        if self.training:
            raise UsageError("MODEL.META_ARCHITECTURE PromptedMasks takes its network as it is")
        return [{"instances": self._instances(sample)} for sample in batched_inputs]

    def _instances(self, sample: dict[str, Any]) -> Instances:
        prompts = sample.get("prompts")
        if prompts is None or not len(prompts):
            size, nothing = result_size(sample), torch.zeros(0)
            masks = torch.zeros(0, *size, dtype=torch.bool)
            more = {"confidence": nothing.double()} if self.prompts == "boxes" else {}
            return mask_instances(masks, nothing.long(), nothing, **more)
        masks, scores, fits = self._best(sample, prompts)
        classes = prompts.gt_classes
        if self.prompts == "boxes":
            whole = prompts.whole_boxes
            masks &= torch.from_numpy(filled_boxes(whole.numpy(), masks.shape[-2:]))
            found = mask_instances(masks, classes, scores, confidence=fits)
            found.pred_boxes = Boxes(whole.float())
            return found
        if self.prompts == "peaks":
            scores = scores * prompts.peak_values.sigmoid()
            kept = mask_nms(masks, scores, self.nms_threshold)
            masks, classes, scores = masks[kept], classes[kept], scores[kept]
        there = masks.flatten(1).any(dim=1)
        return mask_instances(masks[there], classes[there], scores[there])

    def _best(self, sample: dict[str, Any], prompts: Instances) -> tuple[Tensor, Tensor, Tensor]:
        """Masks (K, H, W) bool, scores (K,) float32 in [0, 1] and fits (K,) float64, on the CPU."""
        image = sample["image"] if self.image_format == "RGB" else sample["image"].flip(0)
        kind = "boxes" if self.prompts == "boxes" else "points"
        given = prompts.get(kind)
        proposed = self.segmenter.candidates(image, kind, given, at_once=self.prompts_at_once)
        masks = torch.zeros(len(given), *image.shape[-2:], dtype=torch.bool)
        scores, fits = torch.zeros(len(given)), torch.zeros(len(given), dtype=torch.float64)
        for number, (some, expected) in enumerate(proposed):
            require_finite(expected, sample, "the Segment Anything model's scores")
            some, expected = some.cpu(), expected.float().cpu()
            fit = torch.from_numpy(self._fit(some, given, number))
            best = int((expected.double().clamp(min=_LEAST) * fit.clamp(min=_LEAST)).argmax())
            masks[number], scores[number], fits[number] = some[best], expected[best], fit[best]
        return masks, scores.clamp(0, 1), fits

    def _fit(self, masks: Tensor, given: Tensor, number: int) -> np.ndarray:
        """How well masks (M, H, W) fit prompt ``number`` of those given: (M,) float64 in [0, 1]."""
        if self.prompts == "boxes":
            box = given[number].numpy()[None].repeat(len(masks), axis=0)
            return fair_confidence(mask_boxes(masks).numpy(), box)
        if self.prompts == "peaks":
            return np.ones(len(masks))
        limits = torch.tensor(masks.shape[:0:-1]) - 1  # a point on the far border: the last pixel's
        x, y = given.floor().long().clamp(min=0).minimum(limits).unbind(1)
        inside = masks[:, y, x].double()  # (M, K)
        return (inside[:, number] / inside.sum(dim=1).clamp(min=1)).numpy()
