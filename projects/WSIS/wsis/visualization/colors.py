"""Colours of classes and instances, uint8 RGB."""

from __future__ import annotations

import colorsys

import numpy as np

BACKGROUND = (38, 42, 54)
UNKNOWN = (150, 150, 150)
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
    """The first colours, (number, 3) uint8, of an endless sequence whose neighbours differ well."""
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
    number = min(num_classes, 254)
    palette[1 : number + 1] = distinct_colors(number)
    palette[0] = BACKGROUND
    palette[255] = UNKNOWN
    return palette
