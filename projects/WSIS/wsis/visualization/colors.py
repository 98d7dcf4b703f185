"""Colours: of classes, of instances, of directions.

Colours are uint8 RGB. Fields are (2, h, w): channel 0 is dy (down), channel 1 is dx (right).
"""

from __future__ import annotations

import colorsys

import numpy as np
from matplotlib.colors import hsv_to_rgb

BACKGROUND = (38, 42, 54)
UNKNOWN = (150, 150, 150)
_BACKGROUND_LABEL, _UNKNOWN_LABEL = 0, 255
_GOLDEN = 0.6180339887498949

# Well apart in hue and lightness, also for most colour-blind readers.
_FIRST = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 90, 90),
    (176, 110, 230),
    (240, 228, 66),
    (0, 114, 178),
    (255, 140, 200),
)


def distinct_colors(number: int) -> np.ndarray:
    """The first colours of an endless sequence in which neighbours differ well.

    Returns:
        (number, 3) uint8.
    """
    colors = list(_FIRST[:number])
    for index in range(len(colors), number):
        hue = index * _GOLDEN % 1.0
        saturation, value = (0.85, 0.95) if index % 2 else (0.55, 0.75)
        colors.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value)))
    return np.array(colors, dtype=np.uint8).reshape(number, 3)


def label_colors(num_classes: int) -> np.ndarray:
    """The palette of label maps, (256, 3) uint8.

    0 (background) is dark, class + 1 has the class's colour of `distinct_colors`, 255 (unknown or
    void) is grey. Labels that mean nothing are black.
    """
    palette = np.zeros((256, 3), dtype=np.uint8)
    number = min(num_classes, _UNKNOWN_LABEL - 1)
    palette[1 : number + 1] = distinct_colors(number)
    palette[_BACKGROUND_LABEL] = BACKGROUND
    palette[_UNKNOWN_LABEL] = UNKNOWN
    return palette


def displacement_colors(field: np.ndarray, *, longest: float) -> np.ndarray:
    """Directions as hues, lengths as saturation.

    Right is red (hue 0), up is yellow-green (1/4), left is cyan (1/2), down is violet (3/4);
    no displacement is white.

    Args:
        field: (2, h, w) float, (dy, dx).
        longest: length that has full saturation; what is not positive counts as 1.

    Returns:
        (h, w, 3) uint8.
    """
    dy, dx = np.nan_to_num(np.asarray(field, dtype=np.float64))
    hue = np.arctan2(-dy, dx) / (2 * np.pi) % 1.0
    saturation = np.clip(np.hypot(dy, dx) / (longest if longest > 0 else 1.0), 0.0, 1.0)
    rgb = hsv_to_rgb(np.stack([hue % 1.0, saturation, np.ones_like(hue)], axis=-1))
    return np.round(255 * rgb).astype(np.uint8)


def color_wheel(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The legend of `displacement_colors`: the colour at a place is that of pointing there.

    Args:
        side: pixels, at least 1.

    Returns:
        (side, side, 3) uint8 and the disc (side, side) bool outside which it means nothing.
    """
    axis = (np.arange(side) - (side - 1) / 2) / max((side - 1) / 2, 1)
    field = np.stack(np.meshgrid(axis, axis, indexing="ij"))  # (2, side, side): dy, dx
    return displacement_colors(field, longest=1.0), np.hypot(*field) <= 1.0
