"""Masks that a box alone gives: the filled box, and GrabCut started from it.

K boxes (x0, y0, x1, y1) in whole pixels, far edges exclusive; H x W image.
"""

from __future__ import annotations

import cv2
import numpy as np

_MARGIN = 0.5  # GrabCut sees so much of the box's size around it
_LONGEST = 256  # pixels; larger windows are made smaller for GrabCut, which would take seconds


def filled_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(K, H, W) bool: every pixel of the box."""
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def grabcut_boxes(image: np.ndarray, boxes: np.ndarray, *, iterations: int = 5) -> np.ndarray:
    """GrabCut (Rother et al. 2004, OpenCV's) with everything outside the box as background.

    ``image`` is (H, W, 3) uint8, ``boxes`` are (K, 4) integers, the result is (K, H, W) bool.
    GrabCut sees a box and half its size around it, at most 256 pixels wide and high. If it finds no
    object, or the box leaves no background to learn from, the mask is the filled box.
    """
    height, width = image.shape[:2]
    masks = filled_boxes(boxes, (height, width))
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        right, down = int(_MARGIN * (x1 - x0)) + 2, int(_MARGIN * (y1 - y0)) + 2
        rows = slice(max(y0 - down, 0), min(y1 + down, height))
        columns = slice(max(x0 - right, 0), min(x1 + right, width))
        window, inside = image[rows, columns], mask[rows, columns].astype(np.uint8)
        found = _grabcut(window, inside, iterations=iterations)
        if found.any():
            mask[rows, columns] &= found
    return masks


def _grabcut(window: np.ndarray, inside: np.ndarray, *, iterations: int) -> np.ndarray:
    """(h, w) bool: the object in a window; only pixels ``inside`` (uint8) may belong to it."""
    size = inside.shape[1], inside.shape[0]
    shrink = _LONGEST / max(size)
    if shrink < 1:
        small = tuple(max(1, round(shrink * side)) for side in size)
        window = cv2.resize(np.ascontiguousarray(window), small, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside, small, interpolation=cv2.INTER_NEAREST)
    label = np.where(inside > 0, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    nothing = np.zeros(size[::-1], dtype=bool)
    if (label == cv2.GC_BGD).sum() < 16 or (label == cv2.GC_PR_FGD).sum() < 16:
        return nothing
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        window = np.ascontiguousarray(window)
        nowhere = (0, 0, 0, 0)  # the label says where the object may be
        cv2.grabCut(window, label, nowhere, *models, iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # colours that no mixture of Gaussians fits
        return nothing
    found = ((label == cv2.GC_FGD) | (label == cv2.GC_PR_FGD)).astype(np.uint8)
    return cv2.resize(found, size, interpolation=cv2.INTER_NEAREST) > 0
