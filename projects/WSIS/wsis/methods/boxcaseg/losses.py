"""BoxCaseg's loss terms on mask logits (spec 4).

N crops of H x W pixels; labels in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PAIRWISE_WEIGHT = 0.05


def _line_maxima(maps: Tensor) -> Tensor:
    """(N, W + H): maxima of the columns, then of the rows; the first of equals has the gradient."""
    maps = maps[:, None]
    height, width = maps.shape[-2:]
    columns = functional.max_pool2d(maps, (height, 1)).flatten(1)
    rows = functional.max_pool2d(maps, (1, width)).flatten(1)
    return torch.cat([columns, rows], dim=1)


def projection_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Multiple-instance loss: a row or column is a bag, positive if the label has a pixel there.

    It is the binary cross-entropy of the highest logit of each bag, a mean over N (H + W) bags.
    ``logits`` and ``labels`` (a filled box, or a mask) are (N, H, W) floats.
    """
    return functional.binary_cross_entropy_with_logits(_line_maxima(logits), _line_maxima(labels))


def pairwise_loss(logits: Tensor) -> Tensor:
    """0.05 times the mean squared difference between the probabilities of a pixel and 8 neighbours.

    ``logits`` are (N, H, W). Neighbours outside have probability 0, which pulls the rim towards
    background.
    """
    padded = functional.pad(logits.sigmoid(), (1, 1, 1, 1))
    height, width = logits.shape[-2:]
    inner = padded[:, 1:-1, 1:-1]
    total = inner.new_zeros(())
    for dy in range(3):
        for dx in range(3):
            if (dy, dx) != (1, 1):
                other = padded[:, dy : dy + height, dx : dx + width]
                total = total + (inner - other).square().mean()
    return PAIRWISE_WEIGHT * total / 8
