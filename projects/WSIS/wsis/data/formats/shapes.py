"""The shapes that annotation tools draw, as what an annotation of a COCO file has.

Coordinates are in pixels from the upper left corner of the image; H, W are its height and width.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from wsis.data.checks import number, numbers, short
from wsis.data.images import open_picture
from wsis.layers.run_lengths import RLE, decode_rle, encode_mask, polygons_to_rle

Shape = dict[str, Any]
_CORNERS = 90  # of an ellipse; its area is 0.1 % too small


def pairs(points: Any) -> list[float]:
    """[x0, y0, x1, y1, ...] of a list of [x, y].

    Raises:
        ValueError: it is none.
    """
    if not isinstance(points, list) or not points:
        raise ValueError(f"has the points {short(points)}, not a list of [x, y]")
    return [value for point in points for value in numbers(point, 2)]


def rectangle(x0: Any, y0: Any, x1: Any, y1: Any) -> Shape:
    """A box through two opposite corners, in any order."""
    x0, y0, x1, y1 = numbers([x0, y0, x1, y1])
    return {"bbox": [min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)]}


def around(flat: Sequence[float]) -> Shape:
    """The box around points [x0, y0, x1, y1, ...]."""
    return rectangle(min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2]))


def outline(flat: Sequence[float]) -> Shape:
    """A polygon [x0, y0, x1, y1, ...]."""
    return {"segmentation": [numbers(list(flat))]}


def dot(x: Any, y: Any) -> Shape:
    """A point inside the object."""
    return {"point": numbers([x, y])}


def ellipse(parts: Any, angle: float = 0.0) -> Shape:
    """A polygon for an ellipse [x, y, rx, ry], turned clockwise by ``angle`` in radians."""
    x, y, rx, ry = numbers(parts, 4)
    steps = np.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    return _turned(x, y, rx * np.cos(steps), ry * np.sin(steps), angle)


def turned_rectangle(
    x: Any, y: Any, width: Any, height: Any, angle: float, about: tuple[Any, Any]
) -> Shape:
    """A polygon for a rectangle turned clockwise by ``angle`` in radians about a point.

    ``x``, ``y`` are its upper left corner before that.
    """
    x, y, width, height, centre_x, centre_y = numbers([x, y, width, height, *about])
    along = np.array([0, width, width, 0]) + (x - centre_x)
    down = np.array([0, 0, height, height]) + (y - centre_y)
    return _turned(centre_x, centre_y, along, down, angle)


def _turned(x: float, y: float, along: np.ndarray, down: np.ndarray, angle: float) -> Shape:
    cos, sin = math.cos(number(angle)), math.sin(angle)
    corners = np.stack([x + along * cos - down * sin, y + along * sin + down * cos], axis=1)
    return outline(corners.ravel().tolist())


def placed_mask(crop: np.ndarray, corner: Any, size: tuple[int, int]) -> Shape:
    """A (h, w) bool mask, whose upper left pixel is [x, y], in an image of ``size`` (H, W).

    Raises:
        ValueError: it reaches beyond the image.
    """
    left, top = (round(value) for value in numbers(corner, 2))
    height, width = crop.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"has a mask of {width} x {height} at ({left}, {top}), beyond its image of "
            f"{size[1]} x {size[0]}"
        )
    whole = np.zeros(size, dtype=bool)
    whole[top : top + height, left : left + width] = crop
    return {"segmentation": encode_mask(whole)}


def mask_of_png(text: Any, limit: tuple[int, int]) -> np.ndarray:
    """(h, w) bool of a PNG in base64, whose sides may not exceed ``limit`` (H, W).

    Where it has transparency, what can be seen counts, else what is not 0.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str):
        raise ValueError(f"has the mask {short(text)}, which is no PNG in base64")
    try:
        data = base64.b64decode(text.rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise ValueError(f"has a mask that is no base64 ({error})") from None

    def use(image: Image.Image) -> np.ndarray:
        if image.height > limit[0] or image.width > limit[1]:
            raise ValueError(f"{image.width} x {image.height} pixels are more than its image has")
        if "A" in image.getbands():
            image = image.getchannel("A")
        elif image.mode not in ("1", "L", "P", "I", "I;16"):
            image = image.convert("L")
        return np.asarray(image) > 0

    return open_picture(data, use, "its mask")


def mask_of_runs(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool of run lengths row by row, which alternate between 0 and 1 and start with 0.

    Raises:
        ValueError: they do not fill ``size`` (h, w).
    """
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"has run lengths of {sum(runs)} pixels, not {size[0]} x {size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size)


def union(a: Any, b: Any, size: Callable[[], tuple[int, int]]) -> list[list[float]] | RLE:
    """Two ``segmentation`` of an image of ``size`` (H, W) as one."""
    if isinstance(a, list) and isinstance(b, list):
        return a + b
    rles = [polygons_to_rle(part, size()) if isinstance(part, list) else part for part in (a, b)]
    return encode_mask(decode_rle(rles[0]) | decode_rle(rles[1]))
