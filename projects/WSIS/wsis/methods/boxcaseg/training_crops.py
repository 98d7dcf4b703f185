"""The two kinds of training samples of BoxCaseg, given their random draws (boxcaseg spec 3.2, 3.3).

H, W image, S side of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsis.layers.masks import mask_boxes
from wsis.methods.boxcaseg.crops import nearest_index, resize_crops, resize_nearest, shaken_crop

_DARK = 1e-6  # below this a maximum does not divide


def _resized(image: np.ndarray, side: int) -> Tensor:
    """(h, w, 3) uint8 to (3, side, side) float32."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).copy())
    whole = torch.tensor([[0, 0, image.shape[1], image.shape[0]]])
    return resize_crops(pixels, whole, size=(side, side))[0]


def box_sample(
    image: np.ndarray, box: Sequence[int], *, draws: Sequence[float], size: int
) -> tuple[Tensor, Tensor, tuple[int, int, int, int]]:
    """A crop around a box and the box in it.

    Args:
        image: (H, W, 3) uint8.
        box: x0, y0, x1, y1 in whole pixels inside the image.
        draws: see `shaken_crop`.
        size: S.

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

    So the object has the scale that it has in a box, where whole salient images show it smaller.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W), 0 outside the object, of which there is one.
        draws: see `shaken_crop`.
        size: S.

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
    """A part of a resized salient image with its mask.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W), 0 outside the object.
        offset: first row and column of the part, at most ``resized`` - ``size``.
        resized: side to which the whole image is resized.
        size: S.
        flips: top to bottom, left to right.
        stretch: divide the part by its largest value, as the original does.

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
    """(C, S, S) moved by (dy, dx), zeros where nothing comes from."""
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

    Salient images hold one object, boxes often more than theirs: so the network sees that what
    comes in from the side is not the object. In half of the cases the neighbour lies behind it.
    Random numbers come from torch's global generator, as everything that a network draws.

    Args:
        images: (N, 3, S, S).
        labels: (N, S, S) in 0..1.
        chosen: (N,) bool, crops that have exact labels, that get and give.
        probability: of a neighbour.

    Returns:
        new images and labels; where fewer than two are chosen, the given ones.
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
