"""Parts of an image at a fixed size, as scikit-image resizes them (boxcaseg spec 3.4).

Boxes are (x0, y0, x1, y1) in pixels, 0-based, far edges exclusive. H, W image, h, w box, S side of
the result, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_REACH = 4.0  # the Gaussian is cut off at this many standard deviations


@lru_cache(maxsize=128)
def resize_weights(length: int, size: int) -> Tensor:
    """What every input pixel contributes to every output pixel along one axis.

    Where the axis shrinks, a Gaussian of standard deviation (length / size - 1) / 2 comes first,
    cut off at four deviations; then bilinear interpolation at half-pixel centres. Both take zeros
    for what lies outside.

    Args:
        length: of the input.
        size: of the output.

    Returns:
        (size, length) float32, shared between calls: do not write to it.
    """
    if length < 1 or size < 1:
        raise ValueError(f"an axis of {length} cannot become one of {size}")
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * length / size - 0.5
    first = centres.floor()
    share = centres - first
    sigma = max(0.0, (length / size - 1) / 2)
    radius = int(_REACH * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    total = torch.exp(-0.5 * (steps / sigma) ** 2).sum() if radius else 1.0
    pixels = torch.arange(length, dtype=torch.float64)
    weights = torch.zeros(size, length, dtype=torch.float64)
    for tap, part in ((first, 1 - share), (first + 1, share)):
        distance = pixels - tap[:, None]
        if radius:
            reach = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= radius) / total
        else:
            reach = (distance == 0).double()
        inside = (tap >= 0) & (tap < length)
        weights += reach * (part * inside)[:, None]
    return weights.float()


def resize_crops(image: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Every box of an image at one size: Gaussian, bilinear with zeros outside, clip.

    Values are clipped to the range (over all channels) that the box has in the image, since the
    zeros outside darken the rim.

    Args:
        image: (C, H, W) uint8 or float.
        boxes: (K, 4) integers.
        size: (height, width) of the results.

    Returns:
        (K, C, height, width) float32, on the scale of the image.

    Raises:
        ValueError: a box without area or not inside the image.
    """
    height, width = size
    result = torch.empty(len(boxes), len(image), height, width, device=image.device)
    for target, (x0, y0, x1, y1) in zip(result, boxes.tolist(), strict=True):
        if not (0 <= x0 < x1 <= image.shape[2] and 0 <= y0 < y1 <= image.shape[1]):
            raise ValueError(
                f"box ({x0}, {y0}, {x1}, {y1}) has no area or leaves its image of "
                f"{image.shape[2]} x {image.shape[1]}"
            )
        crop = image[:, y0:y1, x0:x1].float()
        rows = resize_weights(y1 - y0, height).to(image.device)
        columns = resize_weights(x1 - x0, width).T.to(image.device)
        if height * (x1 - x0) <= (y1 - y0) * width:  # the cheaper axis first
            torch.matmul(rows @ crop, columns, out=target)
        else:
            torch.matmul(rows, crop @ columns, out=target)
        target.clamp_(*crop.aminmax())
    return result


def nearest_index(length: int, size: int) -> Tensor:
    """(size,) int64: the input pixel of each output pixel, floor((i + 1/2) length / size)."""
    return (2 * torch.arange(size) + 1) * length // (2 * size)


def resize_nearest(label: Tensor, *, size: tuple[int, int]) -> Tensor:
    """A label map (H, W) at another size, nearest, without smoothing."""
    rows, columns = (nearest_index(n, s) for n, s in zip(label.shape, size, strict=True))
    return label[rows[:, None], columns]


def shaken_crop(
    box: Sequence[int], draws: Sequence[float], *, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A crop around a box, moved and stretched at random (boxcaseg spec 3.2).

    Args:
        box: x0, y0, x1, y1.
        draws: shifts of the centre in x and y, in half extents of the box, and factors of the half
            width and half height.
        size: (H, W) of the image.

    Returns:
        x0, y0, x1, y1 inside the image, at least one pixel wide and high.
    """
    shift_x, shift_y, factor_x, factor_y = draws
    spans = []
    axes = ((0, shift_x, factor_x, size[1]), (1, shift_y, factor_y, size[0]))
    for axis, shift, factor, limit in axes:
        low, high = box[axis], box[axis + 2]
        half = (high - low) / 2
        centre = (low + high) / 2 + shift * half
        start = int(max(0, centre - factor * half))
        stop = int(min(limit - 1, centre + factor * half))
        if stop <= start:  # one pixel, to the left (up) unless it starts at 0
            start, stop = (0, 1) if start == 0 else (start - 1, start)
        spans.append((start, stop))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


def integer_box(
    box: Sequence[float], *, size: tuple[int, int], outwards: bool = False
) -> tuple[int, int, int, int]:
    """A box with fractional corners in whole pixels.

    Args:
        box: x0, y0, x1, y1 inside the image.
        size: (H, W) of the image.
        outwards: take every pixel that the box touches. Otherwise as the original (boxcaseg spec
            3.2): x, y, width and height are truncated, width and height are at least 1.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    left, top = int(x0), int(y0)
    if outwards:
        right, bottom = -int(-x1 // 1), -int(-y1 // 1)
    else:
        right = left + max(int(round(x1 - x0, 6)), 1)
        bottom = top + max(int(round(y1 - y0, 6)), 1)
    left, top = min(left, size[1] - 1), min(top, size[0] - 1)
    right, bottom = min(right, size[1]), min(bottom, size[0])
    return left, top, max(right, left + 1), max(bottom, top + 1)
