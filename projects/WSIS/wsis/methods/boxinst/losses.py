"""BoxInst's two loss terms on the mask logits of regions (spec 2).

P regions (Mask R-CNN's foreground proposals), M side of their masks in cells, d distance of
neighbours in cells. Maps "with a margin" have d cells more on each side, (P, M + 2d, M + 2d).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsis.layers.grids import line_maxima, neighbours

BACKGROUND = -20.0  # the logit of what is known to be background


def cell_centres(regions: Tensor, side: int, margin: int = 0) -> tuple[Tensor, Tensor]:
    """x and y (P, M + 2 margin) of the cells' centres, of regions (P, 4) x0, y0, x1, y1."""
    steps = torch.arange(-margin, side + margin, device=regions.device) + 0.5
    corner, extent = regions[:, :2], regions[:, 2:] - regions[:, :2]
    x, y = (corner[:, :, None] + extent[:, :, None] * (steps / side)).unbind(dim=1)
    return x, y


def cells_in_boxes(centres: tuple[Tensor, Tensor], boxes: Tensor) -> Tensor:
    """(P, n, n) bool: cells whose centre lies in the box (P, 4) of their region."""
    x, y = centres
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)
    return ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None, :]


def stretched_regions(boxes: Tensor, factors: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (P, 4) whose width and height grow by ``factors`` (P, 2) about their centres.

    They are cut at the border of the image of ``size`` (H, W).
    """
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    grown = torch.cat([centres - halves * factors, centres + halves * factors], dim=1)
    return grown.clamp(min=0).minimum(grown.new_tensor((*size[::-1], *size[::-1])))


def dice_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """(P,): 1 - 2 sum(p q) / sum(p^2 + q^2) of rows p and q (P, n)."""
    total = (found.square() + wanted.square()).sum(dim=1)
    return 1 - 2 * (found * wanted).sum(dim=1) / total.clamp(min=1e-5)


def projection_loss(logits: Tensor, in_box: Tensor) -> Tensor:
    """How far the mask's extents are from the box's: the mean over P (paper, eq. 1 and 2).

    ``logits`` are (P, M, M), ``in_box`` (P, M, M) bool. A column of the mask is as high as its
    highest probability, and wanted 1 if the box has it, else 0; so are the rows. The loss is the
    dice loss of the columns plus that of the rows.
    """
    pairs = zip(line_maxima(logits.sigmoid()), line_maxima(in_box.to(logits.dtype)), strict=True)
    return sum(dice_loss(found, wanted) for found, wanted in pairs).mean()


def alike_neighbours(
    colors: Tensor, in_box: Tensor, in_image: Tensor, *, distance: int, difference: float
) -> Tensor:
    """(8, P, M, M) bool: which neighbours of a cell must have its label (paper, eq. 6 to 8).

    A pair counts if the cell lies in the box, both in the image, and their colours are no more than
    ``difference`` apart. A neighbour outside the region counts where the box does not reach: that
    it is background is known. In the box nothing is known of it.

    Args:
        colors: (P, 3, M + 2d, M + 2d), with a margin.
        in_box: with a margin.
        in_image: with a margin.
        distance: d.
        difference: of colours, Euclidean.
    """
    inner = (..., slice(distance, -distance), slice(distance, -distance))
    known = ~in_box
    known[inner] = True
    own, starts = colors[inner], (in_box & in_image)[inner]
    pairs = zip(neighbours(colors, distance), neighbours(known & in_image, distance), strict=True)
    return torch.stack(
        [starts & ends & ((other - own).norm(dim=1) <= difference) for other, ends in pairs]
    )


def pairwise_loss(logits: Tensor, in_box: Tensor, alike: Tensor, *, distance: int) -> Tensor:
    """Mean over all pairs that must agree of -log of the probability that they do (eq. 4, 5, 8).

    ``logits`` are (P, M, M), ``in_box`` (P, M, M) bool, ``alike`` is `alike_neighbours`'. A
    neighbour outside the box is known to be background. 0 where no pair must agree.
    """
    known = logits.masked_fill(~in_box, BACKGROUND)
    padded = functional.pad(known, (distance,) * 4, value=BACKGROUND)
    inside, outside = (functional.logsigmoid(sign * padded) for sign in (1, -1))
    own = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    total = logits.sum() * 0
    others = zip(neighbours(inside, distance), neighbours(outside, distance), alike, strict=True)
    for foreground, background, counts in others:
        agree = torch.logaddexp(own[0] + foreground, own[1] + background)
        total = total - (agree * counts).sum()
    return total / alike.sum().clamp(min=1)
