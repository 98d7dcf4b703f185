"""BoxCaseg's loss terms on mask logits (spec 4).

N crops of H x W pixels; labels in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsis.layers.grids import line_maxima, neighbours

PAIRWISE_WEIGHT = 0.05


def projection_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Multiple-instance loss: a row or column is a bag, positive if the label has a pixel there.

    It is the binary cross-entropy of the highest logit of each bag, a mean over N (H + W) bags.
    ``logits`` and ``labels`` (a filled box, or a mask) are (N, H, W) floats.
    """
    bags, targets = (torch.cat(line_maxima(maps), dim=1) for maps in (logits, labels))
    return functional.binary_cross_entropy_with_logits(bags, targets)


def pairwise_loss(logits: Tensor) -> Tensor:
    """0.05 times the mean squared difference between the probabilities of a pixel and 8 neighbours.

    ``logits`` are (N, H, W). Neighbours outside have probability 0, which pulls the rim towards
    background.
    """
    padded = functional.pad(logits.sigmoid(), (1, 1, 1, 1))
    inner = padded[:, 1:-1, 1:-1]
    total = inner.new_zeros(())
    for other in neighbours(padded):
        total = total + (inner - other).square().mean()
    return PAIRWISE_WEIGHT * total / 8
