"""From proposals and their scores to detections and to pseudo labels (spec 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from wsis.methods.cim.overlaps import Overlaps, exceeds


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """What is detected: the keys of ``MODEL.CIM.DETECTION``, in lower case."""

    min_score: float = 1e-5
    nms: float = 0.3
    limit: int = 100
    area_range: tuple[float, float] = (0.0, 1.0)
    complete_share: float = 0.0
    complete_iou: float = 0.5


@dataclass(frozen=True)
class Detections:
    """K proposals that are taken as objects: detections, or pseudo ground truth in training.

    Attributes:
        index: (K,) int64, the proposals.
        classes: (K,) int64, class ids.
        scores: (K,) floating; for pseudo ground truth, its weight in training.
    """

    index: Tensor
    classes: Tensor
    scores: Tensor

    def __getitem__(self, chosen: Tensor) -> Detections:
        return Detections(self.index[chosen], self.classes[chosen], self.scores[chosen])

    def __len__(self) -> int:
        return len(self.index)


def inclusive_nms(boxes: Tensor, scores: Tensor, *, threshold: float) -> Tensor:
    """Greedy suppression of boxes (N, 4), XYXY in pixels, last pixel included, by scores (N,).

    A box is x1 - x0 + 1 wide. An IoU (in float32) equal to the threshold suppresses.

    Returns:
        (K,) int64, ascending: the boxes that stay. Of equal scores the lower index wins.
    """
    wide = boxes.float() + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    # A float32, since the CUDA kernel would round a double back to the threshold itself.
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    return nms(wide, scores.float(), below).sort().values


def detect(
    boxes: Tensor, scores: Tensor, options: DetectionOptions = DetectionOptions()
) -> Detections:
    """Detections of an image, by class and then in the order of the proposals.

    ``boxes`` are (N, 4), XYXY in pixels, last pixel included; ``scores`` are (N, C). A proposal is
    detected as a class if it scores above ``min_score`` and `inclusive_nms` within the class leaves
    it. Over all classes the best ``limit`` stay (0: all), and those that tie with the last one.
    """
    found, high = [], scores > options.min_score
    parts = high.T.nonzero()[:, 1].split(high.sum(dim=0).tolist())  # by class
    for class_id, rows in enumerate(parts):
        stay = inclusive_nms(boxes[rows], scores[rows, class_id], threshold=options.nms)
        found.append(rows[stay])
    index = torch.cat(found) if found else scores.new_zeros(0, dtype=torch.int64)
    sizes = torch.tensor([len(kept) for kept in found], device=scores.device)
    classes = torch.arange(len(found), device=scores.device).repeat_interleave(sizes)
    detections = Detections(index, classes, scores[index, classes])
    if 0 < options.limit < len(index):
        least = detections.scores.sort(descending=True).values[options.limit - 1]
        detections = detections[detections.scores >= least]
    return detections


def pseudo_label_detections(
    detections: Detections, present: Tensor, *, best_only: bool = False
) -> Detections:
    """The detections that may become pseudo labels, by class and then by score, best first.

    They belong to the image's tags, ``present`` (C,) bool. ``best_only`` keeps of each class only
    those that score as high as its best. Ties keep their order.
    """
    order = torch.sort(detections.scores, descending=True, stable=True).indices
    order = order[torch.sort(detections.classes[order], stable=True).indices]
    detections = detections[order[present[detections.classes[order]]]]
    if not best_only or len(detections) == 0:
        return detections
    best = detections.scores.new_zeros(len(present))
    best.scatter_reduce_(0, detections.classes, detections.scores, "amax", include_self=False)
    return detections[detections.scores == best[detections.classes]]


def box_area_filter(boxes: Tensor, size: tuple[int, int], limits: tuple[float, float]) -> Tensor:
    """(N,) bool: whether boxes (N, 4), last pixel included, have an area within the limits.

    The limits, both inclusive, are shares of the area of an image of ``size`` (H, W).
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    share = sides.prod(dim=1) / (size[0] * size[1])
    return (share >= limits[0]) & (share <= limits[1])


@dataclass(frozen=True, eq=False)
class Completion:
    """Puts the largest of nested proposals in place of a detection (an addition to the paper).

    A network cannot tell an object from the object without its rim, and the smaller one often
    scores higher. A candidate covers most of the detection, scores nearly as high and is not much
    larger.

    Attributes:
        overlaps: of the N proposals.
        areas: (N,) pixels.
        share: a candidate scores at least this share of the detection's score.
        containment: a candidate covers more than this share of the detection.
        iou: a candidate's IoU with the detection is above this, so that it does not join objects.
    """

    overlaps: Overlaps
    areas: Tensor
    share: float
    containment: float = 0.85
    iou: float = 0.5

    def largest(self, index: Tensor, scores: Tensor) -> Tensor:
        """The proposals (K,) that replace ``index`` (K,) int64, or are the same.

        ``scores`` (K, N) has in row k the scores of all proposals for the class of detection k.
        """
        if len(index) == 0:
            return index
        own = scores.gather(1, index[:, None])
        alike = scores >= self.share * own
        alike &= exceeds(self.overlaps.containment.T[index], self.containment)
        alike &= exceeds(self.overlaps.iou[index], self.iou)
        best, place = (self.areas * alike).max(dim=1)
        return torch.where(best > self.areas[index], place, index)

    def __call__(self, found: Detections, scores: Tensor) -> Detections:
        """Complete detections, given the ``scores`` (N, C) of all proposals.

        If two detections of a class become the same proposal, the better one stays.
        """
        chosen = self.largest(found.index, scores.T[found.classes])
        return _without_repeats(Detections(chosen, found.classes, found.scores))


def _without_repeats(found: Detections) -> Detections:
    """Keep the best-scored detection of each pair of proposal and class; the order stays."""
    worst_first = torch.sort(found.scores, descending=True, stable=True).indices.flip(0)
    table = torch.stack([found.index, found.classes])[:, worst_first]
    index, classes, places = torch.cat([table, worst_first[None]]).tolist()
    # a later one replaces an earlier
    best = dict(zip(zip(index, classes, strict=True), places, strict=True))
    return found[torch.tensor(sorted(best.values()), device=found.index.device).long()]


def detect_at_points(
    scores: Tensor, covers: Tensor, classes: Tensor, *, completion: Completion | None = None
) -> Detections:
    """For each point the best-scored proposal over it: one mask for each object.

    A proposal that also covers another point joins objects; it is taken only if the point has no
    other. A point that no proposal covers has no detection. Of points of one class that share a
    proposal, the better-scored has it.

    ``scores`` are (N, C), ``covers`` (P, N) bool says which proposal covers which point, the
    points have class ids (P,) int64. ``completion`` chooses among the proposals of the point.
    """
    alone = covers & (covers.sum(dim=0) == 1)
    eligible = torch.where(alone.any(dim=1, keepdim=True), alone, covers)
    rows = eligible.any(dim=1).nonzero()[:, 0]
    eligible, classes = eligible[rows], classes[rows]
    own = scores.T[classes].masked_fill(~eligible, -1.0)  # (P, N)
    if len(rows) == 0:
        return Detections(rows, classes, scores.new_zeros(0))
    best, index = own.max(dim=1)
    if completion is not None:
        index = completion.largest(index, own)
    return _without_repeats(Detections(index, classes, best))
