"""BoxCaseg's two mask heads and the transfer from one to the other (spec 2).

N crops, C channels of all features together, h x w the grid of the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional

_SLOPE = 0.1  # of the transfer's LeakyReLU
_FACTOR = 4  # of its hidden width


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, h, w) on a grid of ``size``, bilinear between the centres of cells."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def convolve(maps: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution of maps on the grid of the first, their channels one after another.

    Each map passes its part of ``weight`` on its own grid and is enlarged then: a product over the
    channels and one over the pixels may change places, and a coarse grid has few pixels.

    Args:
        maps: (N, C_i, h_i, w_i) each.
        weight: (outputs, sum of C_i, 1, 1).
        bias: (outputs,).
    """
    size = tuple(maps[0].shape[-2:])
    first, *parts = weight.split([one.shape[1] for one in maps], dim=1)
    total = functional.conv2d(maps[0], first, bias)
    for one, part in zip(maps[1:], parts, strict=True):
        total = total + enlarge(functional.conv2d(one, part), size)
    return total


class MaskHead(nn.Sequential):
    """1x1 convolution, norm, ReLU, 1x1 convolution: of maps (see `convolve`) to (N, 1, h, w).

    ``norm`` is a name that Detectron2 knows, ``momentum`` is for the statistics of batch norm.
    """

    def __init__(self, channels: int, *, norm: str, momentum: float) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 1),
            _norm(norm, channels, momentum),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 1),
        )
        for layer in (self[0], self[3]):
            nn.init.normal_(layer.weight, std=0.001)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One logit (N, 1, h, w)."""
        first, norm, relu, last = self
        return last(relu(norm(convolve(maps, first.weight, first.bias))))


def _norm(name: str, channels: int, momentum: float) -> nn.Module:
    layer = get_norm(name, channels)
    if hasattr(layer, "momentum"):
        layer.momentum = momentum
    return layer


class WeightTransfer(nn.Module):
    """Makes the weights of a 1x1 convolution from those of another one, each row (C,) by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _FACTOR * channels)
        self.fc2 = nn.Linear(_FACTOR * channels, channels)
        self.k = nn.Parameter(torch.ones(1))
        self.b = nn.Parameter(torch.zeros(1))
        for layer in (self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.normal_(layer.bias, std=0.01)

    def weight(self, source: Tensor) -> Tensor:
        """The weights (rows, C) of the new convolution, from those of the source (rows, C)."""
        return self.fc2(functional.leaky_relu(self.fc1(source), _SLOPE))

    def forward(self, maps: Sequence[Tensor], source: nn.Conv2d) -> Tensor:
        """`convolve` with the weights made from ``source``, which gets no gradient."""
        weight = self.weight(source.weight.detach().flatten(1))
        bias = self.k * source.bias.detach() + self.b
        return convolve(maps, weight[:, :, None, None], bias)


class TransferredHead(nn.Module):
    """The head of full supervision: its own head blended with one transferred from the weak head.

    ``own_share`` is the weight of the own head in the blend of logits (the paper's alpha); the
    other arguments are those of `MaskHead`.
    """

    def __init__(self, channels: int, *, own_share: float, norm: str, momentum: float) -> None:
        super().__init__()
        self.own_share = own_share
        self.own = MaskHead(channels, norm=norm, momentum=momentum)
        self.transfer1 = WeightTransfer(channels)
        self.transfer2 = WeightTransfer(channels)
        self.transfer_norm = _norm(norm, channels, momentum)

    def forward(self, maps: Sequence[Tensor], weak: MaskHead) -> Tensor:
        """Logits (N, 1, h, w) of maps, see `convolve`; ``weak``'s parameters get no gradient."""
        hidden = functional.relu(self.transfer_norm(self.transfer1(maps, weak[0])))
        transferred = self.transfer2([hidden], weak[3])
        return self.own_share * self.own(maps) + (1 - self.own_share) * transferred
