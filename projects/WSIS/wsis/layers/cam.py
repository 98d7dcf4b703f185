"""Class activation maps: masked pooling, and the fusion of scales into one map per class.

Shapes: N images, C classes, K classes present in an image, H x W image, h x w feature grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def masked_average_pool(
    features: torch.Tensor, sizes: Sequence[tuple[int, int]], *, stride: int
) -> torch.Tensor:
    """Global average pooling that leaves out the cells of padding.

    Args:
        features: (N, C, h, w) of a batch padded right and bottom to its largest image.
        sizes: (H, W) of each image before padding, N of them.
        stride: pixels per cell; image i owns ceil(H_i / stride) x ceil(W_i / stride) cells.

    Returns:
        (N, C). Where all sizes are equal it is the plain mean over h and w.
    """
    full = tuple(max(side) for side in zip(*sizes, strict=True)) if sizes else (0, 0)
    if all(tuple(size) == full for size in sizes):
        return features.mean((2, 3))
    pooled = []
    for feature, size in zip(features, sizes, strict=True):
        rows, columns = (
            cells if own == most else min(cells, max(1, -(-own // stride)))
            for own, most, cells in zip(size, full, feature.shape[1:], strict=True)
        )
        pooled.append(feature[:, :rows, :columns].mean((1, 2)))
    return torch.stack(pooled)


def _resize(maps: torch.Tensor, size: Sequence[int], align_corners: bool) -> torch.Tensor:
    resized = F.interpolate(maps[None], size, mode="bilinear", align_corners=align_corners)
    return resized[0]


def fuse_cams(
    maps: Sequence[torch.Tensor],
    image_size: tuple[int, int],
    keys: torch.Tensor,
    *,
    stride: int = 16,
    cam_stride: int = 4,
    align_corners: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fuse the class maps of several scales (IRNet spec 3).

    Each map is resized and the results are summed, then divided by their maximum + 1e-5.

    Args:
        maps: per scale (C, h, w), already rectified and summed with the flipped image's map.
        image_size: (H, W) of the unscaled image.
        keys: (K,) int64, the classes to keep.
        stride: of the network: the high-resolution map is made for the image rounded up to a
            multiple of it, and then cut.
        cam_stride: of the small map, (H - 1) // cam_stride + 1 cells high.
        align_corners: False as IRNet has it. True puts the outer cells of ``maps`` on the outer
            pixels, which is where networks whose sides are ``stride * k + 1`` have them; the small
            map's cell i then lies on pixel ``cam_stride * i``.

    Returns:
        ``cam`` (K, h4, w4) and ``high_res`` (K, H, W), both in [0, 1), of the maps' dtype.
    """
    height, width = image_size
    small = tuple((side - 1) // cam_stride + 1 for side in image_size)
    kept = [m[keys.to(m.device)] for m in maps]
    if len(keys) == 0:
        return maps[0].new_zeros((0, *small)), maps[0].new_zeros((0, height, width))
    if align_corners:
        high_res = sum(_resize(m, image_size, True) for m in kept)
        cam = high_res[:, ::cam_stride, ::cam_stride]
    else:
        large = tuple((side - 1) // stride * stride + stride for side in image_size)
        high_res = sum(_resize(m, large, False) for m in kept)[:, :height, :width]
        cam = sum(_resize(m, small, False) for m in kept)
    return normalize_by_maximum(cam), normalize_by_maximum(high_res)


def normalize_by_maximum(maps: torch.Tensor) -> torch.Tensor:
    """Divide each of (K, h, w) non-negative maps by (its own maximum + 1e-5)."""
    return maps / (maps.amax((1, 2), keepdim=True) + 1e-5) if maps.numel() else maps
