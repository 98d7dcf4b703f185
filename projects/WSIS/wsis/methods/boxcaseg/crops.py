"""Crops of an image, resized as scikit-image does (spec 3.4), and two kinds of training samples.

The random numbers of a sample are arguments (spec 3.2, 3.3).

Boxes are (x0, y0, x1, y1) in pixels, 0-based, far edges exclusive. H, W image, h, w box, S side of
the result or sample, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wsis.layers.masks import mask_boxes

_REACH = 4.0  # the Gaussian is cut off at this many standard deviations
_DARK = 1e-6  # below this a maximum does not divide


@lru_cache(maxsize=128)
def resize_weights(length: int, size: int) -> Tensor:
    """The weight of every input pixel in every output pixel along one axis.

    If the axis shrinks, the image is first smoothed by a Gaussian of standard deviation (length /
    size - 1) / 2, cut off at four deviations. Then follows bilinear interpolation at half-pixel
    centres. Both take zeros outside.

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
    """Cut boxes (K, 4), integers, from an image (C, H, W) and resize them all to ``size``.

    Resizing is that of `resize_weights`. Its zeros outside darken the rim, so values are clipped to
    the range (over all channels) that the box has in the image. The image is uint8 or float; the
    result is (K, C, *size) float32 on the same scale.

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
    """A crop around a box, moved and stretched at random (spec 3.2).

    ``draws`` are the shifts of the centre in x and y, in halves of the box's width and height, and
    the factors of width and height.

    Returns:
        x0, y0, x1, y1 inside the image of ``size`` (H, W), at least one pixel wide and high.
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


def _resized(image: np.ndarray, side: int) -> Tensor:
    """An image (h, w, 3) uint8 resized to (3, side, side) float32."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).copy())
    whole = torch.tensor([[0, 0, image.shape[1], image.shape[0]]])
    return resize_crops(pixels, whole, size=(side, side))[0]


def box_sample(
    image: np.ndarray, box: Sequence[int], *, draws: Sequence[float], size: int
) -> tuple[Tensor, Tensor, tuple[int, int, int, int]]:
    """A crop around a box of an image (H, W, 3) uint8, and the box in it.

    The box is in whole pixels inside the image; see `shaken_crop` for the draws.

    Returns:
        image (3, S, S) float32 in 0..255, label (S, S) float32, 1 inside the box, and the crop.
    """
    crop = x0, y0, x1, y1 = shaken_crop(box, draws, size=image.shape[:2])
    pixels = _resized(image[y0:y1, x0:x1], size)
    spans = []
    for start, stop, low, high in ((y0, y1, box[1], box[3]), (x0, x1, box[0], box[2])):
        place = nearest_index(stop - start, size) + start
        spans.append((place >= low) & (place < high))
    label = spans[0][:, None] & spans[1][None, :]
    return pixels, label.float(), crop


def object_sample(
    image: np.ndarray, mask: np.ndarray, *, draws: Sequence[float], size: int
) -> tuple[Tensor, Tensor]:
    """A crop around a salient object with its mask, as `box_sample` crops around a box.

    So the object has the scale that it has in a box, where whole salient images show it smaller. Of
    an image (H, W, 3) uint8 and a mask (H, W), 0 outside the object, of which there is one.

    Returns:
        image (3, S, S) float32 in 0..255 and label (S, S) float32 in 0..1.
    """
    box = mask_boxes(torch.from_numpy(mask != 0)[None])[0].tolist()
    x0, y0, x1, y1 = shaken_crop(box, draws, size=image.shape[:2])
    pixels = _resized(image[y0:y1, x0:x1], size)
    part = torch.from_numpy(np.ascontiguousarray(mask[y0:y1, x0:x1]))
    label = resize_nearest(part, size=(size, size)).float() / float(mask.max())
    return pixels, label


def _divided_by_maximum(values: Tensor, scale: float) -> Tensor:
    highest = float(values.max()) if values.numel() else 0.0
    return values * (scale / highest) if highest > _DARK else values


def salient_sample(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    offset: tuple[int, int],
    resized: int,
    size: int,
    flips: tuple[bool, bool] = (False, False),
    stretch: bool = True,
) -> tuple[Tensor, Tensor]:
    """A part of a resized salient image with its mask; for image and mask see `object_sample`.

    The whole image is resized to the side ``resized`` and flipped (top to bottom, left to right).
    The part of side S starts at the row and column ``offset``, at most ``resized`` - ``size``.
    ``stretch`` divides it by its largest value, as the original does.

    Returns:
        image (3, S, S) float32 in 0..255 and label (S, S) float32 in 0..1.
    """
    pixels = _resized(image, resized)
    label = resize_nearest(torch.from_numpy(np.ascontiguousarray(mask)), size=(resized, resized))
    directions = [axis for axis, flip in zip((-2, -1), flips, strict=True) if flip]
    if directions:
        pixels, label = pixels.flip(directions), label.flip(directions)
    top, left = offset
    window = (..., slice(top, top + size), slice(left, left + size))
    pixels, label = pixels[window], label[window].float()
    if stretch:
        pixels = _divided_by_maximum(pixels, 255.0)
    return pixels.contiguous(), _divided_by_maximum(label, 1.0).contiguous()


def _moved(maps: Tensor, shift: tuple[int, int]) -> Tensor:
    """``maps`` (C, S, S) moved by (dy, dx); zeros move in."""
    result = torch.zeros_like(maps)
    spans = []
    for step, side in zip(shift, maps.shape[-2:], strict=True):
        start, stop = max(step, 0), min(side + step, side)
        if stop <= start:
            return result
        spans.append((slice(start, stop), slice(start - step, stop - step)))
    (rows, from_rows), (columns, from_columns) = spans
    result[..., rows, columns] = maps[..., from_rows, from_columns]
    return result


def add_neighbours(
    images: Tensor, labels: Tensor, chosen: Tensor, *, probability: float
) -> tuple[Tensor, Tensor]:
    """Put the object of another crop at the rim of a crop, as background.

    Salient images hold one object, boxes often more than theirs. So the network learns that an
    object that comes in from the side is not the one. In half of the cases it lies behind the
    crop's own object. Random numbers come from torch's global generator.

    ``images`` are (N, 3, S, S), ``labels`` (N, S, S) in 0..1. Only the ``chosen`` (N,) bool, whose
    labels are exact, give and get objects. Returns new images and labels, or the given ones if
    fewer than two are chosen.
    """
    rows = torch.nonzero(chosen.cpu()).flatten().tolist()
    if len(rows) < 2 or probability <= 0:
        return images, labels
    side = images.shape[-1]
    new_images, new_labels = images.clone(), labels.clone()
    for place, row in enumerate(rows):
        draws = torch.rand(6).tolist()
        if draws[0] >= probability:
            continue
        other = rows[(place + 1 + int(draws[1] * (len(rows) - 1))) % len(rows)]
        far = round((0.4 + 0.5 * draws[2]) * side) * (1 if draws[3] < 0.5 else -1)
        along = round((2 * draws[4] - 1) * 0.7 * side)
        shift = (far, along) if draws[3] % 0.5 < 0.25 else (along, far)
        inside = _moved(labels[other][None], shift)[0] > 0.5
        if draws[5] < 0.5:
            inside &= labels[row] <= 0.5
        new_images[row] = torch.where(inside, _moved(images[other], shift), images[row])
        new_labels[row] = torch.where(inside, 0.0, labels[row])
    return new_images, new_labels
