"""Mask R-CNN's heads with a mask loss that knows boxes and colours alone (spec 2, 3).

P foreground proposals of all images, C classes, M side of the mask logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from wsis.errors import UsageError
from wsis.methods.boxinst.cell_colors import pool_colors, rgb_to_lab
from wsis.methods.boxinst.losses import (
    alike_neighbours,
    cell_centres,
    cells_in_boxes,
    pairwise_loss,
    projection_loss,
    stretched_regions,
)
from wsis.modeling.mask_head import logits_of_classes

_LAB = "boxinst/lab"  # beside the features of the backbone, in training


@ROI_HEADS_REGISTRY.register()
class BoxInstROIHeads(StandardROIHeads):
    """Detectron2's heads, whose mask head, any of its own, learns from boxes alone.

    In inference, and in the names of its weights, it is its parent. Objects need no ``gt_masks``.

    Args:
        pixel_mean: per channel, with which the images were normalised; pixel_std likewise.
        input_format: "RGB" or "BGR", of the images.
        region_stretch: range of the factor by which the sides of a proposal grow in training.
        neighbour_distance: in cells of the mask.
        color_difference: the largest, in CIE LAB, of two cells that must agree.
        pairwise_warmup_iters: iterations in which the weight of the pairwise loss grows to 1.
        **kwargs: the parent's.
    """

    @configurable
    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        region_stretch: Sequence[float] = (1.0, 2.0),
        neighbour_distance: int = 2,
        color_difference: float = 2.408,
        pairwise_warmup_iters: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.mask_on and not hasattr(self.mask_head, "layers"):
            raise UsageError(
                "MODEL.ROI_MASK_HEAD.NAME: BoxInst trains mask heads of Detectron2's "
                f"BaseMaskRCNNHead, not {type(self.mask_head).__name__}; take "
                "MaskRCNNConvUpsampleHead"
            )
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.input_format = input_format
        self.region_stretch = region_stretch
        self.neighbour_distance = neighbour_distance
        self.color_difference = color_difference
        self.pairwise_warmup_iters = pairwise_warmup_iters

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.BOXINST``, and the parent's."""
        keys = cfg.MODEL.BOXINST
        return super().from_config(cfg, input_shape) | {
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "region_stretch": keys.REGION_STRETCH,
            "neighbour_distance": keys.NEIGHBOUR_DISTANCE,
            "color_difference": keys.COLOR_DIFFERENCE,
            "pairwise_warmup_iters": keys.PAIRWISE_WARMUP_ITERS,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """As its parent's; in training the images, normalised, are looked at for their colours."""
        if self.training and self.mask_on:
            features = features | {_LAB: self._lab(images.tensor)}
        return super().forward(images, features, proposals, targets)

    @torch.no_grad()
    def _lab(self, images: Tensor) -> Tensor:
        pixels = images.float() * self.pixel_std + self.pixel_mean
        return rgb_to_lab(pixels if self.input_format == "RGB" else pixels.flip(1))

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if not (self.training and self.mask_on):
            return super()._forward_mask(features, instances)
        chosen, _ = select_foreground_proposals(instances, self.num_classes)
        low, high = self.region_stretch
        for found in chosen:
            boxes = found.proposal_boxes.tensor
            factors = low + (high - low) * torch.rand(len(boxes), 2, device=boxes.device)
            found.proposal_boxes = Boxes(stretched_regions(boxes, factors, found.image_size))
        pooled = self.mask_pooler(
            [features[name] for name in self.mask_in_features], [x.proposal_boxes for x in chosen]
        )
        return self.mask_losses(self.mask_head.layers(pooled).float(), chosen, features[_LAB])

    def mask_losses(
        self, logits: Tensor, instances: Sequence[Instances], lab: Tensor
    ) -> dict[str, Tensor]:
        """``loss_projection`` and ``loss_pairwise``; 0 with a graph where there is no proposal.

        Args:
            logits: (P, C, M, M), or (P, 1, M, M) where the mask is class-agnostic.
            instances: foreground proposals per image with proposal_boxes, gt_classes, gt_boxes.
            lab: (N, 3, H, W), colours of the images.
        """
        names = ("loss_projection", "loss_pairwise")
        if not len(logits):
            return dict.fromkeys(names, logits.sum() * 0)
        side, distance = logits.shape[-1], self.neighbour_distance
        classes, in_box, alike = [], [], []
        for found, picture in zip(instances, lab, strict=True):
            if not len(found):
                continue
            classes.append(found.gt_classes)
            regions, (height, width) = found.proposal_boxes.tensor, found.image_size
            centres = cell_centres(regions, side, distance)
            inside = cells_in_boxes(centres, found.gt_boxes.tensor)
            whole = regions.new_tensor([[0, 0, width, height]]).expand(len(regions), 4)
            in_box.append(inside[:, distance:-distance, distance:-distance])
            alike.append(
                alike_neighbours(
                    pool_colors(picture[:, :height, :width], regions, side, distance),
                    inside,
                    cells_in_boxes(centres, whole),
                    distance=distance,
                    difference=self.color_difference,
                )
            )
        chosen, box = logits_of_classes(logits, cat(classes)), cat(in_box)
        pairwise = pairwise_loss(chosen, box, torch.cat(alike, dim=1), distance=distance)
        values = projection_loss(chosen, box), pairwise * self._pairwise_weight()
        return dict(zip(names, values, strict=True))

    def _pairwise_weight(self) -> float:
        if not self.pairwise_warmup_iters:
            return 1.0
        return min(get_event_storage().iter / self.pairwise_warmup_iters, 1.0)
