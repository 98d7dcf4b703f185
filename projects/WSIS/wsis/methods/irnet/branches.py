"""IRNet's two branches on the features of a frozen backbone (spec 5.3).

The input is five feature maps (taps), from fine to coarse. The original takes ResNet-50's after the
max-pool (stride 4), layer1 (4), layer2 (8), layer3 (16) and layer4 (16). Any other five will do,
for example MobileNetV2's of strides 2, 4, 8, 16, 32. The output has the grid of the second tap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional

NUM_TAPS = 5


def group_count(channels: int) -> int:
    """Number of groups of a group norm: 4, 8, 16, 16 for the original's 32, 64, 128, 256 channels.

    It divides the channels, is at most 16, and a group has 8 channels or more where possible.
    """
    return math.gcd(channels, min(16, max(1, channels // 8)))


class Reduce(nn.Module):
    """1x1 convolution, group norm, bilinear upsampling by ``scale``, ReLU.

    ``align_corners`` of the upsampling suits networks whose input sides are 32 k + 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        scale: float = 1.0,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.GroupNorm(group_count(out_channels), out_channels)
        self.scale = scale
        self.align_corners = align_corners

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Reduce ``x`` (N, in, h, w) and bring it to (N, out, *size), see `resize`."""
        return resize(self.norm(self.conv(x)), size, self.scale, self.align_corners).relu()


def resize(x: Tensor, size: tuple[int, int], scale: float, align_corners: bool) -> Tensor:
    """Resize maps to ``size`` (h, w), bilinear.

    They are enlarged by the factor ``scale`` and cut at the right and bottom; if they are then too
    small (strides that do not divide) they are stretched. ``align_corners`` resizes corner to
    corner instead.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if align_corners:
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
    if scale != 1:
        x = functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    x = x[..., : size[0], : size[1]]
    if tuple(x.shape[-2:]) != tuple(size):
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x


class BoundaryBranch(nn.Module):
    """Logit of a class boundary at each cell.

    ``shapes`` are channels and stride of each tap; each is reduced to ``width`` channels (paper:
    32).
    """

    def __init__(
        self, shapes: Sequence[ShapeSpec], width: int = 32, *, align_corners: bool = False
    ) -> None:
        super().__init__()
        grid = shapes[1].stride
        self.reduce = nn.ModuleList(
            Reduce(tap.channels, width, scale=tap.stride / grid, align_corners=align_corners)
            for tap in shapes
        )
        self.predict = nn.Conv2d(NUM_TAPS * width, 1, 1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Logits (N, 1, h, w) on the grid of the second of five taps (N, c, h_i, w_i)."""
        size = tuple(taps[1].shape[-2:])
        maps = [reduce(tap, size) for reduce, tap in zip(self.reduce, taps, strict=True)]
        return self.predict(torch.cat(maps, dim=1))


class DisplacementBranch(nn.Module):
    """Displacement (dy, dx), in cells, from each cell to its instance's centroid.

    The three deep taps are reduced to ``width`` channels (paper: 256), the first tap to a quarter
    of it, the second to half.
    """

    def __init__(
        self, shapes: Sequence[ShapeSpec], width: int = 256, *, align_corners: bool = False
    ) -> None:
        super().__init__()
        fine, coarse = shapes[1].stride, shapes[2].stride
        widths = (width // 4, width // 2, width, width, width)
        grids = (fine, fine, coarse, coarse, coarse)
        self.reduce = nn.ModuleList(
            Reduce(tap.channels, w, scale=tap.stride / grid, align_corners=align_corners)
            for tap, w, grid in zip(shapes, widths, grids, strict=True)
        )
        self.merge_deep = Reduce(3 * width, width, scale=coarse / fine, align_corners=align_corners)
        self.merge = Reduce(width // 4 + width // 2 + width, width)
        self.predict = nn.Conv2d(width, 2, 1, bias=False)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Displacements (N, 2, h, w) on the grid of the second of five taps (N, c, h_i, w_i)."""
        fine, coarse = (tuple(tap.shape[-2:]) for tap in taps[1:3])
        sizes = (fine, fine, coarse, coarse, coarse)
        maps = [r(tap, size) for r, tap, size in zip(self.reduce, taps, sizes, strict=True)]
        deep = self.merge_deep(torch.cat(maps[2:], dim=1), fine)
        return self.predict(self.merge(torch.cat([*maps[:2], deep], dim=1), fine))
