"""Complete-instance mining: chooses pseudo ground truth among proposals, no gradient (spec 4).

N proposals, C classes, G pseudo ground truths. Labels of proposals are C + 1 wide, 0 is background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsis.methods.cim.detections import Detections
from wsis.methods.cim.overlaps import Overlaps, exceeds, overlap_nms, rounded


@dataclass(frozen=True, kw_only=True)
class MiningOptions:
    """Thresholds of mining and assignment: the keys of ``MODEL.CIM.MINING``, in lower case."""

    seed_share: float = 0.1
    containment: float = 0.85
    nms: float = 0.25
    integrity: float = 0.5
    step: float = 0.1
    too_big: float = 0.9
    complete: bool = True
    sample: bool = True

    def thresholds(self, branch: int) -> tuple[float, float]:
        """(nms and background, integrity) thresholds of branch 0, 1, ..."""
        return self.nms + branch * self.step, self.integrity + branch * self.step


@dataclass(frozen=True)
class Assignment:
    """What a branch is to learn about every proposal.

    Attributes:
        labels: (N,) int64, 0 background, class id + 1, -1 for nothing to learn.
        weights: (N,) floating, of the proposal in the losses.
        integrity: (N,) bool, whether a proposal is complete.
    """

    labels: Tensor
    weights: Tensor
    integrity: Tensor


def usable_proposals(overlaps: Overlaps, options: MiningOptions) -> Tensor:
    """(N,) bool: False for a proposal that contains a share ``too_big`` of all or more."""
    contains = exceeds(overlaps.containment.T, options.containment)
    counts = contains.view(torch.uint8).sum(dim=0, dtype=torch.int32)
    return counts < options.too_big * len(overlaps)


@torch.no_grad()
def mine(
    class_scores: Tensor,
    part_scores: Tensor,
    *,
    classes: Tensor,
    overlaps: Overlaps,
    branch: int,
    options: MiningOptions,
    usable: Tensor | None = None,
) -> Detections:
    """Choose pseudo ground truth for the classes of an image; possibly none.

    Each class takes its best proposals as seeds and then, for each seed, the best proposal that
    contains it. If two classes want a proposal, the one with the larger product of both scores gets
    it; on equality the smaller class id.

    Args:
        class_scores: (N, C) of the branch before.
        part_scores: (N, C) of the branch before, at least 0: detector or integrity scores.
        classes: (K,) int64, the class ids present.
        overlaps: of the N proposals.
        branch: number of the refinement branch that learns from the result.
        options: thresholds.
        usable: what `usable_proposals` gives; None computes it.

    Returns:
        the chosen proposals, by ascending index.
    """
    count, classes = len(class_scores), classes.sort().values
    product = class_scores * part_scores
    threshold, _ = options.thresholds(branch)
    ranked = (class_scores if options.complete else product)[:, classes]
    order = torch.sort(ranked.T, dim=1, descending=True, stable=True).indices  # ties by index
    seeds = order[:, : math.ceil(options.seed_share * count)]
    row, found = overlap_nms(overlaps, seeds, threshold=threshold)
    wanted = torch.ones_like(row, dtype=torch.bool)
    if options.complete:
        usable = usable_proposals(overlaps, options) if usable is None else usable
        contains = exceeds(overlaps.containment.T[found], options.containment) & usable  # (S, N)
        found = (contains * part_scores.T[classes[row]]).argmax(dim=1)
        wanted = contains.any(dim=1)
    gain = torch.where(wanted, product[found, classes[row]], -1.0)
    table = product.new_full((len(classes) + 1, count), -1.0)  # a row for nobody at the end
    table.view(-1).scatter_reduce_(0, row * count + found, gain, "amax")
    owner = table.argmax(dim=0)  # the first of equals
    weights = table.gather(0, owner[None])[0]
    index = (weights > -1).nonzero()[:, 0]
    return Detections(index, classes[owner[index]], weights[index])


def sample_truth(truth: Detections, generator: np.random.RandomState) -> Detections:
    """Anti-noise sampling: keep a random part of the pseudo ground truth.

    From the n proposals of a class n are drawn by weight, with replacement; those drawn at least
    once stay. If all weights are 0 the draw is uniform (the original divides by 0). The generator
    is NumPy's legacy one, as the original's.
    """
    classes = truth.classes.cpu().numpy()
    weights = truth.scores.float().cpu().numpy()
    kept = np.zeros(len(truth), dtype=bool)
    for class_id in np.unique(classes):
        members = np.flatnonzero(classes == class_id)
        total = weights[members].sum()
        share = weights[members] / total if total > 0 else None
        kept[generator.choice(members, size=len(members), replace=True, p=share)] = True
    chosen = torch.from_numpy(np.flatnonzero(kept)).to(truth.index.device)
    return truth[chosen]


@torch.no_grad()
def assign(
    truth: Detections, overlaps: Overlaps, *, branch: int, options: MiningOptions
) -> Assignment:
    """What every proposal is to learn in refinement branch number ``branch``.

    A proposal takes class and weight from the pseudo ground truth (at least one) that it overlaps
    most. It is background, with the same weight, if that IoU is below the branch's threshold, and
    learns nothing if the IoU is 0.
    """
    background, integrity = options.thresholds(branch)
    iou = overlaps.iou[:, truth.index]  # (N, G)
    best = iou.argmax(dim=1)
    value = iou.gather(1, best[:, None])[:, 0]
    met = value > 0
    labels = torch.where(value < rounded(background, iou), 0, truth.classes[best] + 1)
    labels = torch.where(met, labels, -1)
    weights = torch.where(met, truth.scores[best], truth.scores.new_zeros(()))
    return Assignment(labels, weights, exceeds(value, integrity))
