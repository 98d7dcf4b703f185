"""Overlaps, areas, tight boxes and suppression of masks and boxes, for everybody.

A, B, N masks of H x W pixels, boolean stacks. Intersections are matrix products of the flattened
masks, taken over pieces of the image so that memory stays bounded; all counts are exact. Boxes are
(x0, y0, x1, y1) in pixels, x1 and y1 exclusive. Many masks of one image, which are kept as parts of
it, have their own way of counting: `wsis.layers.region_overlap`.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision import ops

Numbers = TypeVar("Numbers", np.ndarray, Tensor)
_EXACT_PIXELS = 1 << 24  # float32 counts exactly up to here


def _check_stack(masks: Tensor, name: str) -> None:
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"{name} must be boolean of shape (N, H, W), got {masks.dtype} {tuple(masks.shape)}"
        )


def iou_of_areas(
    shared: Numbers, areas: Numbers, others: Numbers, *, epsilon: float = 0.0
) -> Numbers:
    """IoU from counts of pixels: shared ones over those of either; 0 where there are none.

    Args:
        shared: floating, whole numbers: pixels that two masks share.
        areas: pixels of the one; broadcast against ``shared``, so that pairs go as (N,), (N,), (N,)
            and all combinations as (A, B), (A, 1), (1, B).
        others: pixels of the other.
        epsilon: added to the union, where an original does so.

    Returns:
        like ``shared``.
    """
    union = (areas + others - shared).clip(1)
    return shared / (union + epsilon if epsilon else union)


def mask_areas(masks: Tensor) -> Tensor:
    """Number of pixels of each mask.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N,) int64.
    """
    _check_stack(masks, "masks")
    return masks.flatten(1).sum(dim=1)


def mask_intersection(a: Tensor, b: Tensor, *, max_bytes: int = 64 << 20) -> Tensor:
    """Number of pixels that two masks share, for all pairs.

    Args:
        a: (A, H, W) bool.
        b: (B, H, W) bool, on the same device.
        max_bytes: memory for the float copies of both stacks; results do not depend on it.

    Returns:
        (A, B) float64 holding whole numbers.

    Raises:
        ValueError: not boolean stacks of one image size.
    """
    _check_stack(a, "a")
    _check_stack(b, "b")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"masks of {tuple(a.shape[1:])} and {tuple(b.shape[1:])} pixels")
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    shared = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    if shared.numel() == 0:
        return shared
    step = min(_EXACT_PIXELS, max(1, max_bytes // (4 * (len(a) + len(b)))))
    for start in range(0, flat_a.shape[1], step):
        piece = slice(start, start + step)
        shared += flat_a[:, piece].float() @ flat_b[:, piece].float().T
    return shared


def mask_iou(a: Tensor, b: Tensor, *, max_bytes: int = 64 << 20) -> Tensor:
    """Mask IoU of all pairs: shared pixels over pixels of either; 0 for two empty masks.

    Args:
        a: (A, H, W) bool.
        b: (B, H, W) bool.
        max_bytes: see `mask_intersection`.

    Returns:
        (A, B) float64 in [0, 1].
    """
    shared = mask_intersection(a, b, max_bytes=max_bytes)
    return iou_of_areas(shared, mask_areas(a)[:, None], mask_areas(b)[None, :])


def mask_boxes(masks: Tensor) -> Tensor:
    """Tightest boxes of masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) int64, (x0, y0, x1, y1) in pixels, 0-based, x1 and y1 exclusive, so that a mask of
        one pixel has a box of area 1; four zeros for an empty mask.
    """
    _check_stack(masks, "masks")
    starts, ends = [], []
    for direction in (1, 2):  # over y gives the columns (x), over x the rows (y)
        hit = masks.any(dim=direction)  # (N, W or H)
        if hit.shape[1] == 0 or len(hit) == 0:
            return masks.new_zeros((len(masks), 4), dtype=torch.int64)
        hit = hit.long()
        starts.append(hit.argmax(dim=1))
        ends.append(hit.shape[1] - hit.flip(1).argmax(dim=1))
    boxes = torch.stack([*starts, *ends], dim=1)
    return boxes * masks.flatten(1).any(dim=1)[:, None]


def box_iou(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
    """IoU of all pairs of boxes, (A, B) of their dtype (floating): torchvision's, 0 for 0 / 0.

    Args:
        a: (A, 4) floating.
        b: (B, 4), alike.
    """
    return torch.nan_to_num(ops.box_iou(torch.as_tensor(a), torch.as_tensor(b)), nan=0.0)


def droppers(rivals: np.ndarray) -> np.ndarray:
    """Greedy suppression: an item that stays drops those after it that are its rivals.

    Args:
        rivals: (N, N) bool, ``[i, j]``: i, if it stays, drops j. The best item comes first.

    Returns:
        (N,) int64, the item that drops each one; itself where it stays.
    """
    found = np.full(len(rivals), -1, dtype=np.int64)
    for place in range(len(rivals)):
        if found[place] < 0:
            found[(found < 0) & rivals[place]] = place
            found[place] = place
    return found


def stays(found: np.ndarray) -> np.ndarray:
    """(n,) int64 ascending places of those that no other item drops, of what `droppers` found."""
    return np.flatnonzero(found == np.arange(len(found)))


def mask_nms(
    masks: Tensor, scores: Tensor, threshold: float, *, groups: Tensor | None = None
) -> Tensor:
    """Which masks stay when those that overlap a better one that stays are dropped.

    Args:
        masks: (N, H, W) bool.
        scores: (N,); of equal ones the first is better.
        threshold: mask IoU from which the better one drops the other; above 1 drops none.
        groups: (N,) integers, masks of different groups do not touch each other; None for one.

    Returns:
        (n,) int64 places of those that stay, best score first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    rivals = mask_iou(masks, masks) >= threshold
    if groups is not None:
        rivals &= groups[:, None] == groups[None, :]
    return order[stays(droppers(rivals[order][:, order].cpu().numpy()))]
