"""CIM's losses (spec 5). N proposals, C classes; column 0 of C + 1 columns is background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsis.methods.cim.mining import Assignment

_SMALL = 1e-6


def clamp_probability(value: Tensor) -> Tensor:
    """``value`` limited to [1e-6, 1 - 1e-6], where the logarithm is finite."""
    return value.clamp(_SMALL, 1 - _SMALL)


def _with_background(labels: Tensor) -> Tensor:
    return torch.cat([labels.new_ones(1), labels])


def _bags(scores: Tensor, labels: Tensor, assignment: Assignment) -> tuple[Tensor, Tensor]:
    """Probability (C + 1,) of each class for the image as a bag of proposals, and weight (C + 1,).

    ``scores`` are (N, C + 1); ``labels`` (C + 1,) are 1 for present classes and background.
    Present class: the maximum over the proposals labelled with it (0 if there are none), with the
    weight of that proposal. Absent class: the maximum over all proposals, with weight 1.
    """
    columns = torch.arange(scores.shape[1], device=scores.device)
    own = assignment.labels[:, None] == columns
    best, place = (scores * (own | (labels == 0))).max(dim=0)
    return best, torch.where(labels > 0, assignment.weights[place], torch.ones_like(best))


def branch_losses(
    class_scores: Tensor,
    integrity_scores: Tensor,
    labels: Tensor,
    assignment: Assignment,
    *,
    bag_uses_integrity: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of one refinement branch.

    ``class_scores`` are (N, C + 1), softmax over classes; ``integrity_scores`` are (N, C + 1), or
    (N, 1) if they do not depend on the class; ``labels`` (C,) are floating, 1 for present classes;
    ``assignment`` is what the branch is to learn. Without ``bag_uses_integrity`` the bag loss sees
    class scores only (an ablation).

    Returns:
        classification, integrity (not yet multiplied by its weight) and bag loss.
    """
    scores, integrity = clamp_probability(class_scores), clamp_probability(integrity_scores)
    weights = assignment.weights.to(scores.dtype)
    rows = (assignment.labels >= 0).nonzero()[:, 0]
    chosen = assignment.labels[rows]
    picked = scores[rows, chosen].log() * weights[rows]
    classification = -picked.sum() / max(len(rows), 1)

    objects = (assignment.labels > 0).nonzero()[:, 0]
    column = assignment.labels[objects] if integrity.shape[1] > 1 else torch.zeros_like(objects)
    target = assignment.integrity[objects].to(scores.dtype)
    distance = functional.smooth_l1_loss(integrity[objects, column], target, reduction="none")
    completeness = (distance * weights[objects]).sum() / max(len(objects), 1)

    if not bag_uses_integrity:
        joint = scores
    elif integrity.shape[1] == 1:
        joint = torch.cat([scores[:, :1], scores[:, 1:] * integrity], dim=1)
    else:
        joint = scores * integrity
    present = _with_background(labels)
    best, bag_weights = _bags(joint, present, assignment)
    entropy = functional.binary_cross_entropy(clamp_probability(best), present, reduction="none")
    return classification, completeness, (bag_weights * entropy).mean()


def instance_learning_loss(
    class_scores: Tensor, detection_scores: Tensor, labels: Tensor
) -> Tensor:
    """Multiple-instance loss: cross entropy of the image's class probabilities.

    ``class_scores`` (softmax over classes) and ``detection_scores`` (softmax over proposals) are
    (N, C + 1); ``labels`` (C,) are floating, 1 for present classes.
    """
    image = clamp_probability((class_scores * detection_scores).sum(dim=0))
    return functional.binary_cross_entropy(image, _with_background(labels))


def _entropy_of_class(probabilities: Tensor, classes: Tensor) -> Tensor:
    """(K,) cross entropy of rows (K, C + 1) with one class each (K,), a mean over the columns."""
    target = functional.one_hot(classes, probabilities.shape[1]).to(probabilities.dtype)
    probabilities = clamp_probability(probabilities)
    return functional.binary_cross_entropy(probabilities, target, reduction="none").mean(dim=1)


def cluster_loss(
    class_scores: Tensor, cluster_ids: Tensor, cluster_classes: Tensor, *, weight: float = 12.0
) -> Tensor:
    """Proposal cluster learning: a cluster is one bag of its class, background counts singly.

    ``class_scores`` are (N, C + 1), softmax over classes. ``cluster_ids`` (N,) int64 are 0 for no
    cluster; ``cluster_classes`` (N,) int64 are 0 for background, class id + 1. ``weight`` is a
    factor of the loss.
    """
    rows = (cluster_ids > 0).nonzero()[:, 0]
    classes = cluster_classes[rows]
    behind = rows[classes == 0]
    total = _entropy_of_class(class_scores[behind], torch.zeros_like(behind)).sum()
    ahead = rows[classes > 0]
    _, place, sizes = torch.unique(cluster_ids[ahead], return_inverse=True, return_counts=True)
    sums = class_scores.new_zeros((len(sizes), class_scores.shape[1]))
    means = sums.index_add(0, place, class_scores[ahead]) / sizes[:, None]
    owner = torch.zeros_like(sizes).scatter(0, place, cluster_classes[ahead])
    total = total + (_entropy_of_class(means, owner) * sizes).sum()
    return weight * total / (_SMALL + len(rows))
