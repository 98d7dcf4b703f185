"""Bringing pictures and maps of any size to the size of a panel.

H, W of the image, h, w of a map, P, Q height and width of the panel.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

PANEL_WIDTH = 360
_TALLEST = 1.5  # panel height over PANEL_WIDTH at most
_SHORTEST = 16  # side of a panel, pixels: an image one pixel wide is to be seen too

Size = tuple[int, int]


def panel_size(height: int, width: int, *, panel_width: int = PANEL_WIDTH) -> Size:
    """(P, Q) of the panel of an image: ``panel_width`` wide, unless that would be too tall.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        panel_width: in pixels.
    """
    factor = min(panel_width / width, _TALLEST * panel_width / height)
    return max(_SHORTEST, round(height * factor)), max(_SHORTEST, round(width * factor))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 to (P, Q, 3) uint8, smoothly."""
    shrinks = image.shape[0] > size[0]
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), method))


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """(..., h, w) of any type to (..., P, Q): the cell in which the centre of a pixel lies."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[..., rows[:, None], columns]


def resize_map(values: np.ndarray, size: Size) -> np.ndarray:
    """(h, w) float to (P, Q) float32, bilinearly; what is not finite counts as 0."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float32), posinf=0.0, neginf=0.0)
    resized = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)
