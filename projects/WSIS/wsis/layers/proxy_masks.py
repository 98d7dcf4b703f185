"""From maps of probabilities inside boxes to the masks of an image (boxcaseg spec 6, 7).

Masks are kept as the part inside their box, so that nothing but the box costs time: a list of
(h, w) bool. Boxes are (x0, y0, x1, y1) in whole pixels, far edges exclusive. K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LEVELS = 255


def normalise_maps(probabilities: Tensor) -> Tensor:
    """Each map stretched to 0..1: (p - min) / (max - min); a constant map becomes NaN.

    Args:
        probabilities: (K, s, s) float.
    """
    flat = probabilities.flatten(1)
    low, high = flat.amin(dim=1)[:, None, None], flat.amax(dim=1)[:, None, None]
    return (probabilities - low) / (high - low)


def quantise_maps(normalised: Tensor) -> np.ndarray:
    """(K, s, s) uint8: 255 times the value, truncated; NaN becomes 0.

    Args:
        normalised: (K, s, s) float in 0..1.
    """
    levels = (normalised * LEVELS).nan_to_num(0.0)
    return levels.to(torch.uint8).cpu().numpy()


def resize_map(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's antialiased bilinear on uint8.

    Args:
        levels: (s, s) uint8.
        size: (height, width).
    """
    height, width = size
    return np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR))


def masks_in_boxes(
    levels: np.ndarray, boxes: np.ndarray, *, threshold: int = 128
) -> list[np.ndarray]:
    """The mask of every map at the size of its box.

    Args:
        levels: (K, s, s) uint8.
        boxes: (K, 4) integers.
        threshold: a pixel belongs to the mask from this level on.

    Returns:
        K arrays (h, w) bool.
    """
    return [
        resize_map(one, (y1 - y0, x1 - x0)) >= threshold
        for one, (x0, y0, x1, y1) in zip(levels, boxes.tolist(), strict=True)
    ]


def full_masks(parts: Sequence[np.ndarray], boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(K, H, W) bool: the parts put into the image.

    Args:
        parts: K arrays (h, w) bool.
        boxes: (K, 4) integers.
        size: (H, W).
    """
    masks = np.zeros((len(parts), *size), dtype=bool)
    for mask, part, (x0, y0, x1, y1) in zip(masks, parts, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = part
    return masks


def parts_of(masks: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """What `full_masks` was made of: K arrays (h, w) bool.

    Args:
        masks: (K, H, W) bool, each inside its box.
        boxes: (K, 4) integers.
    """
    pairs = zip(masks, boxes.tolist(), strict=True)
    return [mask[y0:y1, x0:x1] for mask, (x0, y0, x1, y1) in pairs]


def painting_order(areas: np.ndarray) -> np.ndarray:
    """(K,) indices, largest area first; of equal areas the later index first, so the first wins."""
    return np.argsort(np.asarray(areas), kind="stable")[::-1]


def merge_masks(
    parts: Sequence[np.ndarray], boxes: np.ndarray, size: tuple[int, int], *, areas: np.ndarray
) -> list[np.ndarray]:
    """Give every pixel to the smallest box that claims it (boxcaseg spec 7).

    Args:
        parts: K arrays (h, w) bool, what each instance claims.
        boxes: (K, 4) integers.
        size: (H, W).
        areas: (K,) of the annotated boxes, which may differ from the boxes in whole pixels.

    Returns:
        K arrays (h, w) bool: what is left to each instance.
    """
    owner = np.full(size, -1, dtype=np.int32)
    corners = boxes.tolist()
    for index in painting_order(areas):
        x0, y0, x1, y1 = corners[index]
        np.copyto(owner[y0:y1, x0:x1], index, where=parts[index])
    return [owner[y0:y1, x0:x1] == k for k, (x0, y0, x1, y1) in enumerate(corners)]


def tight_boxes(parts: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """(K, 4) int64: first and last column and row of each mask, both inside; zeros if empty.

    Args:
        parts: K arrays (h, w) bool.
        boxes: (K, 4) integers, where the parts lie.
    """
    found = np.zeros((len(parts), 4), dtype=np.int64)
    for row, part, (x0, y0, _, _) in zip(found, parts, boxes.tolist(), strict=True):
        columns, rows = np.flatnonzero(part.any(axis=0)), np.flatnonzero(part.any(axis=1))
        if len(columns):
            row[:] = x0 + columns[0], y0 + rows[0], x0 + columns[-1], y0 + rows[-1]
    return found


def _iou(a: np.ndarray, b: np.ndarray, *, extra: float) -> np.ndarray:
    """IoU of pairs of boxes whose sides are (x1 - x0 + extra)."""
    shared = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + extra
    shared = np.clip(shared, 0, None).prod(axis=1)
    areas = [(c[:, 2:] - c[:, :2] + extra).prod(axis=1) for c in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


def original_confidence(mask_boxes: np.ndarray, given_boxes: np.ndarray) -> np.ndarray:
    """Agreement of a mask with its box as published (boxcaseg spec 7): IoU with +1 on both.

    The corner of the mask is inclusive and that of the box exclusive, so a perfect mask of w x h
    scores w h / ((w + 1)(h + 1)): never above 0.95 for a square below 39 pixels.

    Args:
        mask_boxes: (K, 4) as `tight_boxes` gives them.
        given_boxes: (K, 4) integers x, y, x + w, y + h, each truncated before adding.

    Returns:
        (K,) float64.
    """
    return _iou(mask_boxes.astype(np.float64), given_boxes.astype(np.float64), extra=1.0)


def fair_confidence(
    mask_boxes: np.ndarray,
    given_boxes: np.ndarray,
    *,
    tolerance: float = 1.0,
    empty: np.ndarray | None = None,
) -> np.ndarray:
    """Agreement of a mask with its box that asks of small objects no more than of large ones.

    IoU of the two areas, after every edge of the mask that misses its edge of the box by no more
    than ``tolerance`` has been moved there: a pixel is what rounding costs, whatever the size.

    Args:
        mask_boxes: (K, 4) as `tight_boxes` gives them (far edges inside).
        given_boxes: (K, 4) float x0, y0, x1, y1, far edges exclusive, with an area.
        tolerance: pixels; 0 gives the plain IoU.
        empty: (K,) bool, masks without a pixel; without it those whose box is all zeros, which a
            mask of the first pixel alone has too.

    Returns:
        (K,) float64; 1 for a perfect mask, 0 for an empty one.
    """
    if empty is None:
        empty = ~mask_boxes.any(axis=1)
    given = given_boxes.astype(np.float64)
    found = mask_boxes.astype(np.float64)
    found[:, 2:] += 1
    found = np.where(np.abs(found - given) <= tolerance, given, found)
    return np.where(empty, 0.0, _iou(found, given, extra=0.0))
