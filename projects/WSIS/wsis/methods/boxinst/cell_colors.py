"""Colours of regions in CIE LAB (spec 3). P regions, M their side in cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

# Linear sRGB to CIE XYZ, divided by the white point D65.
_TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)


def rgb_to_lab(image: Tensor) -> Tensor:
    """(..., 3, H, W) sRGB in 0..255 to CIE LAB: L in 0..100, a and b about -128..127."""
    share = (image / 255).clamp(0, 1)
    linear = torch.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    channels = linear.unbind(dim=-3)
    # No matrix product: under mixed precision it would be one of half precision.
    xyz = torch.stack(
        [sum(w * c for w, c in zip(row, channels, strict=True)) for row in _TO_XYZ], dim=-3
    )
    root = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(dim=-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def pool_colors(image: Tensor, regions: Tensor, side: int, margin: int) -> Tensor:
    """The mean colour of every cell of the regions, and of ``margin`` cells around them.

    Takes an image (3, H, W) and regions (P, 4) float x0, y0, x1, y1 in its pixels, returns
    (P, 3, M + 2 margin, M + 2 margin). A cell smaller than a pixel is interpolated.
    """
    around = (regions[:, 2:] - regions[:, :2]) * (margin / side)
    grown = torch.cat([regions[:, :2] - around, regions[:, 2:] + around], dim=1)
    cells = side + 2 * margin
    return roi_align(image[None], [grown], (cells, cells), sampling_ratio=-1, aligned=True)
