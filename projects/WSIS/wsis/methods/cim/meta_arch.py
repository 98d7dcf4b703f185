"""CIM: an image as a bag of segment proposals, scored from tags (spec 3, 7).

N proposals, C classes, h x w feature grid, H x W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_roi_heads
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from wsis.layers.regions import Regions
from wsis.methods.cim.detections import (
    Detections,
    box_area_filter,
    detect,
    detect_at_points,
    pseudo_label_detections,
)
from wsis.modeling.image_classifier import multi_hot
from wsis.modeling.network import (
    PixelModule,
    in_batches,
    mask_instances,
    network,
    options_of,
    require_finite,
    require_one_of,
)


@META_ARCH_REGISTRY.register()
@network
class CIM(PixelModule):
    """Backbone and `CIMROIHeads`. No image is padded to another's size: each trains alone.

    Its options are the keys of ``MODEL.CIM``, in lower case, and these.

    Attributes:
        roi_heads: scores proposals, mines and learns.
        targets: ``DETECTION.TARGETS``.
    """

    in_feature: str
    roi_heads: nn.Module
    num_classes: int
    targets: str = "classes"
    best_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("classes", "tags", "points")
        require_one_of("MODEL.CIM.DETECTION.TARGETS", self.targets, known)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.CIM``."""
        shared = super().from_config(cfg)
        heads = build_roi_heads(cfg, shared["backbone"].output_shape())
        own = {"roi_heads": heads, "targets": cfg.MODEL.CIM.DETECTION.TARGETS}
        return shared | options_of(cls, cfg.MODEL.CIM) | own

    def features(self, *images: Tensor) -> Tensor:
        """(N, D, h, w) of N images (3, H, W) in 0..255, of one size.

        Zeros (the mean colour) at the right and bottom make the sides divisible, where the backbone
        wants that; a backbone that pads by itself declares no divisibility.
        """
        normal = [self.normalize(image) for image in images]
        batch = ImageList.from_tensors(normal, self.backbone.size_divisibility)
        return self.backbone(batch.tensor)[self.in_feature]

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else one dict per image (`inference`).

        Args:
            batched_inputs: per image, in training ``image`` (3, H, W) RGB in 0..255, ``proposals``
                (see `CIMROIHeads.forward`), ``overlaps`` and ``image_labels`` (see `multi_hot`); at
                test time, see `inference`.
        """
        if not self.training:
            each = zip(batched_inputs, self.scores(batched_inputs), strict=True)
            return [self.inference(sample, scores) for sample, scores in each]
        features = [self.features(sample["image"]) for sample in batched_inputs]
        proposals, overlaps = (
            [sample[name].to(self.device) for sample in batched_inputs]
            for name in ("proposals", "overlaps")
        )
        labels = [self._labels(sample) for sample in batched_inputs]
        return self.roi_heads(features, proposals, labels, overlaps)

    def _labels(self, sample: dict[str, Any]) -> Tensor:
        present = multi_hot(
            sample["image_labels"],
            self.num_classes,
            image_key=sample.get("image_key", ""),
            config_key="MODEL.CIM.NUM_CLASSES",
        )
        return present.to(self.device)

    @torch.no_grad()
    def scores(self, samples: Sequence[dict[str, Any]]) -> list[Tensor]:
        """Scores (N, C) of the proposals of images: the mean over all views (spec 7).

        Args:
            samples: ``views``, pairs of an image (3, H_v, W_v) and its proposals, as in training;
                as many of every image.
        """
        parts = []
        for view in zip(*(sample["views"] for sample in samples), strict=True):
            images = [image for image, _ in view]
            features = in_batches(lambda some: self.features(*some).split(1), images, images)
            parts.append([self._score(*one) for one in zip(features, view, strict=True)])
        return [sum(of_image) / len(of_image) for of_image in zip(*parts, strict=True)]

    def _score(self, feature: Tensor, view: tuple[Tensor, Instances]) -> Tensor:
        found = view[1].to(self.device)
        return self.roi_heads.score(feature, found.proposal_boxes, found.proposal_crops).final()

    @torch.no_grad()
    def inference(self, sample: dict[str, Any], scores: Tensor) -> dict[str, Any]:
        """Detections of an image, of the ``scores`` of its proposals.

        Args:
            sample: see `scores`; also ``proposals`` (boxes in pixels of the file, last pixel
                included), ``regions`` (the masks), ``height``, ``width``. For targets "tags" also
                ``image_labels``; for "points" ``points_yx`` (P, 2) pixels and ``point_classes``
                (P,).
            scores: (N, C).

        Returns:
            ``instances`` (see `to_instances`), by class; ``scores`` (N, C) of all proposals.
        """
        require_finite(scores, sample, "the scores")
        size = int(sample["height"]), int(sample["width"])
        boxes = sample["proposals"].proposal_boxes.tensor.to(self.device)
        completion = self.roi_heads.completion(sample["regions"], self.device)
        if self.targets == "points":
            classes = sample["point_classes"].to(self.device)
            covers = covering(sample["regions"], sample["points_yx"]).to(self.device)
            found = detect_at_points(scores, covers, classes, completion=completion)
        else:
            options = self.roi_heads.detection
            fits = box_area_filter(boxes, size, options.area_range)
            found = detect(boxes, scores * fits[:, None], options)
            if self.targets == "tags":
                present = self._labels({"image_labels": []} | sample) > 0
                found = pseudo_label_detections(found, present, best_only=self.best_only)
            if completion is not None:
                found = completion(found, scores)
        return {"instances": to_instances(found, sample["regions"]), "scores": scores}


def covering(regions: Regions, points_yx: Tensor) -> Tensor:
    """(P, N) bool: which proposals cover which points (P, 2), pixels (y, x).

    No proposal covers a point outside the image.
    """
    height, width = regions.size
    y, x = points_yx.cpu().numpy().T
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    atoms = regions.labels[y * inside, x * inside]
    found = regions.membership[:, atoms].toarray().astype(bool).T & inside[:, None]
    return torch.from_numpy(found)


def to_instances(found: Detections, regions: Regions) -> Instances:
    """Detections as Detectron2's Instances, with the proposals' masks and the boxes of these."""
    masks = torch.from_numpy(regions.decode(found.index.cpu().numpy())).to(found.index.device)
    return mask_instances(masks, found.classes, found.scores, proposal_index=found.index)
