"""From class activation maps to inter-pixel labels (spec 4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wsis.errors import DataError
from wsis.layers.components import winning_channels

UNKNOWN = 255

# (image (H, W, 3) uint8, labels (B, H, W), number of labels) -> labels (B, H, W)
LabelRefiner = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def seed_labels(high_res: np.ndarray, threshold: float) -> np.ndarray:
    """The strongest of maps (K, H, W) at each pixel: (H, W) uint8, number + 1.

    It is 0 where no map is above ``threshold``.
    """
    winners = winning_channels(high_res.astype(np.float32), np.float32(threshold))
    return (winners + 1).astype(np.uint8)


def inter_pixel_label(
    image: np.ndarray,
    keys: np.ndarray,
    high_res: np.ndarray,
    *,
    refine: LabelRefiner | None,
    foreground_threshold: float = 0.30,
    background_threshold: float = 0.05,
) -> np.ndarray:
    """Confident classes and confident background of one image; the rest is unknown.

    ``image`` is (H, W, 3) uint8, RGB; ``keys`` (K,) are class ids, ``high_res`` their CAMs (K, H,
    W) float16 or float32 in [0, 1]. Class: its CAM exceeds ``foreground_threshold``. Background: no
    class exceeds ``background_threshold``. ``refine`` (a dense CRF) moves both label maps to the
    edges of the image; None leaves them.

    Returns:
        (H, W) uint8: class id + 1, 0 background, 255 unknown. Without any class all is background.

    Raises:
        DataError: sizes of image and maps differ, or a class id does not fit beside 255.
    """
    keys, size = np.asarray(keys, dtype=np.int64), image.shape[:2]
    if high_res.shape != (len(keys), *size):
        raise DataError(
            f"expected maps of shape {(len(keys), *size)} for this image, got {high_res.shape}; "
            "run --stage cam again"
        )
    if len(keys) == 0:
        return np.zeros(size, dtype=np.uint8)
    if keys.min() < 0 or keys.max() + 1 >= UNKNOWN:
        raise DataError(f"class ids must lie in 0..{UNKNOWN - 2}, got {keys.tolist()}")
    thresholds = (foreground_threshold, background_threshold)
    seeds = np.stack([seed_labels(high_res, threshold) for threshold in thresholds])
    if refine is not None:
        seeds = np.asarray(refine(image, seeds, len(keys) + 1))
    foreground, background = seeds
    classes = np.concatenate([[0], keys + 1])[foreground]
    unknown = (foreground == 0) & (background != 0)
    return np.where(unknown, UNKNOWN, classes).astype(np.uint8)
