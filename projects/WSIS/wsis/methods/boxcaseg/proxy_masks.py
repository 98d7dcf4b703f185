"""From maps of probabilities inside boxes to the masks of an image (spec 6, 7).

Boxes are (x0, y0, x1, y1) in whole pixels, far edges exclusive. K boxes; H x W image.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsis.layers.masks import box_iou

LEVELS = 255


def normalize_maps(probabilities: Tensor) -> Tensor:
    """Each map (K, s, s) stretched to 0..1: (p - min) / (max - min); a constant map becomes NaN."""
    flat = probabilities.flatten(1)
    low, high = flat.amin(dim=1)[:, None, None], flat.amax(dim=1)[:, None, None]
    return (probabilities - low) / (high - low)


def quantize_maps(normalized: Tensor) -> np.ndarray:
    """(K, s, s) uint8: 255 times a value of 0..1, truncated; NaN becomes 0."""
    levels = (normalized * LEVELS).nan_to_num(0.0)
    return levels.to(torch.uint8).cpu().numpy()


def resize_map(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's antialiased bilinear on (s, s) uint8, to ``size`` (height, width)."""
    height, width = size
    return np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR))


def masks_in_boxes(
    levels: np.ndarray, boxes: np.ndarray, size: tuple[int, int], *, threshold: int = 128
) -> np.ndarray:
    """The mask of every map, at the size and the place of its box.

    Of levels (K, s, s) uint8 and boxes (K, 4), integers inside the image of ``size`` (H, W), to
    (K, H, W) bool: a pixel belongs to the mask from the level ``threshold`` on.
    """
    masks = np.zeros((len(levels), *size), dtype=bool)
    for mask, one, (x0, y0, x1, y1) in zip(masks, levels, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = resize_map(one, (y1 - y0, x1 - x0)) >= threshold
    return masks


def painting_order(areas: np.ndarray) -> np.ndarray:
    """(K,) indices, largest area first; of equal areas the later index first, so the first wins."""
    return np.argsort(np.asarray(areas), kind="stable")[::-1]


def merge_masks(masks: np.ndarray, *, areas: np.ndarray) -> np.ndarray:
    """Give every pixel to the smallest box that claims it (spec 7).

    Of what each instance claims, (K, H, W) bool, to what is left to it. ``areas`` (K,) are those of
    the annotated boxes, which may differ from the boxes in whole pixels.
    """
    left, free = np.zeros_like(masks), np.ones(masks.shape[1:], dtype=bool)
    for index in painting_order(areas)[::-1]:
        np.logical_and(masks[index], free, out=left[index])
        free &= ~masks[index]
    return left


def _paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return box_iou(a.astype(np.float64), b.astype(np.float64)).diagonal().numpy()


def original_confidence(found: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Agreement of a mask with its box as published (spec 7), (K,) float64: IoU with +1 on both.

    The corner of the mask is inclusive and that of the box exclusive, so a perfect mask of w x h
    scores w h / ((w + 1)(h + 1)): never above 0.95 for a square below 39 pixels. Boxes are as of
    `fair_confidence`; of the given ones x, y, width and height are truncated.
    """
    corner, extent = given[:, :2].astype(np.int64), np.round(given[:, 2:] - given[:, :2], 6)
    given = np.concatenate([corner, corner + extent.astype(np.int64)], axis=1)
    # The original's box of an empty mask is its first pixel.
    found = np.where(found.any(axis=1, keepdims=True), found, [0, 0, 1, 1])
    return _paired_iou(found, given + [0, 0, 1, 1])


def fair_confidence(found: np.ndarray, given: np.ndarray, *, tolerance: float = 1.0) -> np.ndarray:
    """Agreement of a mask with its box that asks of small objects no more than of large ones.

    IoU of the two areas, after every edge of the mask that misses its edge of the box by no more
    than ``tolerance`` pixels has been moved there: a pixel is what rounding costs, whatever the
    size. Of the masks' boxes (K, 4), as `wsis.layers.masks.mask_boxes` gives them, and the given
    ones (K, 4) float, with an area, far edges exclusive.

    Returns:
        (K,) float64; 1 for a perfect mask, 0 for an empty one.
    """
    moved = np.where(np.abs(found - given) <= tolerance, given, found)
    return np.where(found.any(axis=1), _paired_iou(moved, given), 0.0)
