"""A mask head for pseudo masks that are not all to be trusted (boxcaseg spec 8).

P foreground proposals, M side of the mask logits, K objects of an image of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn import functional

from wsis.modeling.network import require_one_of

TARGETS = ("detectron2", "original")


def eroded_targets(masks: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Mask targets as maskrcnn-benchmark makes them of bitmaps: crop, bilinear, floor.

    Takes masks (P, H, W) bool of each proposal's object and boxes (P, 4) float x0, y0, x1, y1.
    Returns (P, M, M) bool. Corners are rounded half to even and kept inside the image. A crop has
    at least one pixel. A cell is foreground only where all four pixels that it takes are.
    """
    height, width = masks.shape[-2:]
    corners = boxes.round().long()
    result = masks.new_zeros((len(masks), side, side))
    for target, mask, (x0, y0, x1, y1) in zip(result, masks, corners.tolist(), strict=True):
        x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
        x1, y1 = min(max(x1, 0), width), min(max(y1, 0), height)
        crop = mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].float()
        small = functional.interpolate(
            crop[None, None], size=(side, side), mode="bilinear", align_corners=False
        )
        target[:] = small[0, 0].to(torch.uint8).bool()
    return result


def crop_any(masks: BitMasks, boxes: Tensor, side: int) -> Tensor:
    """Like ``BitMasks.crop_and_resize``, but a cell counts if any of its area does.

    Takes P bitmaps and boxes (P, 4) float, returns (P, M, M) bool.
    """
    from torchvision.ops import roi_align

    numbers = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None]
    rois = torch.cat([numbers, boxes], dim=1)
    maps = masks.tensor.to(boxes.device, torch.float32)[:, None]
    # A cell takes its samples a pixel apart, as `crop_and_resize` does.
    return roi_align(maps, rois, (side, side), 1.0, 0, aligned=True)[:, 0] > 0


def logits_of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """The logits (P, M, M) of each proposal's class (P,) int64.

    Takes (P, C, M, M), or (P, 1, M, M) where the mask is class-agnostic.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(logits), device=logits.device), classes]


def confident_mask_loss(
    logits: Tensor,
    instances: Sequence[Instances],
    *,
    min_confidence: float = 0.0,
    use_ignore: bool = False,
    targets: str = "detectron2",
) -> Tensor:
    """Mask R-CNN's mask loss over the proposals and cells that are to be trusted.

    Args:
        logits: (P, C, M, M), or (P, 1, M, M) where the mask is class-agnostic.
        instances: foreground proposals per image with proposal_boxes, gt_classes, gt_masks and,
            where known, gt_confidence (float) and gt_ignore_masks (bitmaps).
        min_confidence: only objects with a higher confidence train the masks; 0: all.
        use_ignore: leave out cells that the ignore masks touch.
        targets: "detectron2", or "original" for `eroded_targets`.

    Returns:
        mean binary cross-entropy over the rest; 0 with a graph where nothing is left.
    """
    side = logits.shape[-1]
    wanted, valid, classes = [], [], []
    for found in instances:
        if not len(found):
            continue
        boxes = found.proposal_boxes.tensor
        if targets == "original":
            wanted.append(eroded_targets(found.gt_masks.tensor, boxes, side).to(logits.device))
        else:
            wanted.append(found.gt_masks.crop_and_resize(boxes, side).to(logits.device) > 0.5)
        cells = torch.ones_like(wanted[-1])
        if min_confidence > 0 and found.has("gt_confidence"):
            cells &= (found.gt_confidence > min_confidence)[:, None, None]
        if use_ignore and found.has("gt_ignore_masks"):
            cells &= ~crop_any(found.gt_ignore_masks, boxes, side)
        valid.append(cells)
        classes.append(found.gt_classes.to(torch.int64))
    if not wanted:
        return logits.sum() * 0
    target, cells = cat(wanted), cat(valid)
    chosen = logits_of_classes(logits, cat(classes))
    _log(chosen.detach(), target, cells)
    count = cells.sum()
    if not bool(count):
        return logits.sum() * 0
    loss = functional.binary_cross_entropy_with_logits(chosen, target.float(), reduction="none")
    return (loss * cells).sum() / count


def _log(logits: Tensor, target: Tensor, cells: Tensor) -> None:
    """Log what the stock loss logs, for the cells that train, and the share of these cells."""
    wrong = ((logits > 0) != target) & cells
    inside, outside = target & cells, ~target & cells
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - _share(wrong, cells))
    storage.put_scalar("mask_rcnn/false_positive", _share(wrong & outside, outside))
    storage.put_scalar("mask_rcnn/false_negative", _share(wrong & inside, inside))
    storage.put_scalar("mask_rcnn/trained_cells", _share(cells, torch.ones_like(cells)))


def _share(part: Tensor, whole: Tensor) -> float:
    return part.sum().item() / max(whole.sum().item(), 1)


@ROI_MASK_HEAD_REGISTRY.register()
class ConfidenceMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with `confident_mask_loss`; with no option set, its very own loss.

    Its options are those of `confident_mask_loss`, and the parent's.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        min_confidence: float = 0.0,
        use_ignore: bool = False,
        targets: str = "detectron2",
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        require_one_of("MODEL.ROI_MASK_HEAD.TARGETS", targets, TARGETS)
        self.min_confidence = min_confidence
        self.use_ignore = use_ignore
        self.targets = targets

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_MASK_HEAD``."""
        keys = cfg.MODEL.ROI_MASK_HEAD
        arguments = super().from_config(cfg, input_shape)
        return arguments | {
            "min_confidence": keys.MIN_CONFIDENCE,
            "use_ignore": keys.USE_IGNORE,
            "targets": keys.TARGETS,
        }

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """Loss in training, otherwise the instances with ``pred_masks``.

        Args:
            x: (P, channels, h, w) pooled features.
            instances: per image, as Detectron2's mask heads take them.
        """
        x = self.layers(x)
        if not self.training:
            mask_rcnn_inference(x, instances)
            return instances
        if self.min_confidence <= 0 and not self.use_ignore and self.targets == "detectron2":
            loss = mask_rcnn_loss(x, instances, self.vis_period)
        else:
            loss = confident_mask_loss(
                x,
                instances,
                min_confidence=self.min_confidence,
                use_ignore=self.use_ignore,
                targets=self.targets,
            )
        return {"loss_mask": loss * getattr(self, "loss_weight", 1.0)}
