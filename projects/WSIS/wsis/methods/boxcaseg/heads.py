"""BoxCaseg's two mask heads and the transfer from one to the other (spec 2).

N crops, C channels of the feature, h x w its grid.
"""

from __future__ import annotations

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional

_SLOPE = 0.1  # of the transfer's LeakyReLU
_FACTOR = 4  # of its hidden width


class MaskHead(nn.Sequential):
    """1x1 convolution, norm, ReLU, 1x1 convolution: (N, C, h, w) becomes one logit (N, 1, h, w).

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

    def forward(self, x: Tensor, source: nn.Conv2d) -> Tensor:
        """Convolve ``x`` with the weights made from ``source``, which gets no gradient."""
        weight = self.weight(source.weight.detach().flatten(1))
        bias = self.k * source.bias.detach() + self.b
        return functional.conv2d(x, weight[:, :, None, None], bias)


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

    def forward(self, x: Tensor, weak: MaskHead) -> Tensor:
        """Logits (N, 1, h, w) of ``x`` (N, C, h, w); ``weak``'s parameters get no gradient."""
        hidden = functional.relu(self.transfer_norm(self.transfer1(x, weak[0])))
        transferred = self.transfer2(hidden, weak[3])
        return self.own_share * self.own(x) + (1 - self.own_share) * transferred
