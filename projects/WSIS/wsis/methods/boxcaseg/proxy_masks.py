"""Makes the masks of an image from probabilities inside its boxes (spec 6, 7).

Boxes are (x0, y0, x1, y1) in whole pixels, far edges exclusive. K boxes; H x W image.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsis.layers.masks import paired_box_iou

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
    """The mask (K, H, W) bool of every map, at the size and the place of its box.

    ``levels`` are (K, s, s) uint8, ``boxes`` (K, 4) integers inside the image of ``size`` (H, W). A
    pixel belongs to the mask if its level is at least ``threshold``.
    """
    masks = np.zeros((len(levels), *size), dtype=bool)
    for mask, one, (x0, y0, x1, y1) in zip(masks, levels, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = resize_map(one, (y1 - y0, x1 - x0)) >= threshold
    return masks


def painting_order(areas: np.ndarray) -> np.ndarray:
    """(K,) indices, largest area first, so that small boxes are painted last and win.

    Of equal areas the later index comes first, so that the first box wins.
    """
    return np.argsort(np.asarray(areas), kind="stable")[::-1]


def merge_masks(masks: np.ndarray, *, areas: np.ndarray) -> np.ndarray:
    """Give every pixel to the smallest box that claims it (spec 7).

    ``masks`` (K, H, W) bool are what each instance claims; the result is what each gets. ``areas``
    (K,) are those of the annotated boxes, which may differ from the boxes in whole pixels.
    """
    left, free = np.zeros_like(masks), np.ones(masks.shape[1:], dtype=bool)
    for index in painting_order(areas)[::-1]:
        np.logical_and(masks[index], free, out=left[index])
        free &= ~masks[index]
    return left


def merge_by_odds(
    masks: np.ndarray, levels: np.ndarray, boxes: np.ndarray, *, areas: np.ndarray
) -> np.ndarray:
    """Give every pixel to the box with the highest odds of it, for its area.

    The odds are those of the stretched maps, p / (1 - p), over the area of the box: of two boxes
    that are equally sure the smaller one gets the pixel, since a large box has more other things in
    it. Of equals the first box gets it.

    Arguments are those of `merge_masks`, and ``levels`` (K, s, s) uint8 with ``boxes`` (K, 4)
    integers, as `masks_in_boxes` takes them.
    """
    best = np.full(masks.shape[1:], -np.inf)
    owner = np.full(masks.shape[1:], -1)
    pairs = zip(masks, levels, boxes.tolist(), areas, strict=True)
    for index, (mask, level, (x0, y0, x1, y1), area) in enumerate(pairs):
        place = slice(y0, y1), slice(x0, x1)
        share = (resize_map(level, (y1 - y0, x1 - x0)) + 0.5) / (LEVELS + 1)
        odds = np.log(share / (1 - share)) - np.log(area)
        wins = mask[place] & (odds > best[place])
        best[place][wins], owner[place][wins] = odds[wins], index
    return owner == np.arange(len(masks))[:, None, None]


def original_confidence(found: np.ndarray, given: np.ndarray) -> np.ndarray:
    """How well a mask fits its box, as published (spec 7): (K,) float64, an IoU.

    The original takes the mask's far corner as inclusive and the box's as exclusive, so a perfect
    mask of w x h scores w h / ((w + 1)(h + 1)): at most 0.95 for a square below 39 pixels. The
    arguments are those of `wsis.layers.masks.fair_confidence`; x, y, width and height of ``given``
    are truncated.
    """
    corner, extent = given[:, :2].astype(np.int64), np.round(given[:, 2:] - given[:, :2], 6)
    given = np.concatenate([corner, corner + extent.astype(np.int64)], axis=1)
    # The original's box of an empty mask is its first pixel.
    found = np.where(found.any(axis=1, keepdims=True), found, [0, 0, 1, 1])
    return paired_box_iou(found, given + [0, 0, 1, 1])
