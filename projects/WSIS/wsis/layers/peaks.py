"""Peaks of class response maps, and their stimulation (prm spec 3; PRM, equations 1 and 2).

N images, C classes, h x w cells of a (possibly upsampled) class response map, P peaks. A peak is a
row (image, class, y, x) of int64; lists of peaks are in lexicographic order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsis.layers.precision import at_least_float32

FILTERS = ("median", "mean", "max", "none")
GRADIENTS = ("undivided", "mean")


def upsample_maps(maps: Tensor, factor: int) -> Tensor:
    """Class maps (N, C, h, w) enlarged for peaks between cells: bilinear, corner to corner.

    A sub-pixel locating factor of 1 returns ``maps`` themselves.
    """
    if factor < 1:
        raise ValueError(f"the sub-pixel locating factor must be at least 1, not {factor}")
    if factor == 1:
        return maps
    size = tuple(factor * side for side in maps.shape[-2:])
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def local_maxima(maps: Tensor, *, window: int = 3) -> Tensor:
    """Where a map is the maximum of the window around it.

    ``maps`` are (N, C, h, w) floating-point, the result is bool of that shape. If several cells of
    a window are equally high, only the first of them (row by row) can be a maximum, so a constant
    map has exactly one, at (0, 0). Outside the map counts as minus infinity.

    Raises:
        ValueError: the side of the window, in cells, is not odd or below 3.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"the peak window must be an odd number of at least 3 cells, not {window}")
    height, width = maps.shape[-2:]
    if maps.numel() == 0:
        return torch.zeros_like(maps, dtype=torch.bool)
    _, first = F.max_pool2d(maps, window, stride=1, padding=window // 2, return_indices=True)
    own = torch.arange(height * width, device=maps.device).view(height, width)
    return first == own


@torch.no_grad()
def find_peaks(maps: Tensor, *, window: int = 3, peak_filter: str | float = "median") -> Tensor:
    """The `local_maxima` that reach a value, which is computed for each image and class.

    Args:
        maps: (N, C, h, w).
        window: see `local_maxima`.
        peak_filter: the value: "median" (the lower of the two middle ones where their number is
            even), "mean" or "max" of the map, a number, or "none".

    Returns:
        (N, C, h, w) bool.
    """
    kept = local_maxima(maps, window=window)
    if not isinstance(peak_filter, str):
        return kept & (maps >= float(peak_filter))
    flat = maps.flatten(2)
    if peak_filter == "none" or flat.shape[2] == 0:
        return kept
    if peak_filter not in FILTERS:
        raise ValueError(f"peak filter {peak_filter!r}: use a number or one of {FILTERS}")
    if peak_filter == "median":
        values = flat.median(dim=2).values
    else:
        values = flat.mean(dim=2) if peak_filter == "mean" else flat.amax(dim=2)
    return kept & (maps >= values[:, :, None, None])


class _PeakMean(torch.autograd.Function):
    """Mean over peaks whose gradient is either the true one or, as in the original, undivided."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kept: Tensor, undivided: bool) -> Tensor:
        count = kept.sum(dim=(2, 3))
        ctx.save_for_backward(kept, count)
        ctx.undivided, ctx.kind = undivided, maps.dtype
        values = at_least_float32(torch.where(kept, maps, maps.new_zeros(())))
        return values.sum(dim=(2, 3)) / count.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        kept, count = ctx.saved_tensors
        share = gradient if ctx.undivided else gradient / count.clamp(min=1)
        share = share[:, :, None, None].to(ctx.kind)
        return torch.where(kept, share, share.new_zeros(())), None, None


def peak_stimulation(
    maps: Tensor,
    *,
    window: int = 3,
    peak_filter: str | float = "median",
    gradient: str = "undivided",
) -> tuple[Tensor, Tensor]:
    """The confidence of each class: the mean of its map over its peaks.

    Args:
        maps: (N, C, h, w) floating-point; differentiable.
        window: see `local_maxima`.
        peak_filter: see `find_peaks`; the threshold gets no gradient.
        gradient: "mean" is the derivative of the mean, 1/N_c for each of N_c peaks (the paper);
            "undivided" hands 1 to each (the original code).

    Returns:
        scores (N, C), float32 at least, NaN for a class without a kept peak (possible where the
        filter is a number), and peaks (P, 4) int64, rows (image, class, y, x) in lexicographic
        order.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient of peak stimulation {gradient!r}: use one of {GRADIENTS}")
    kept = find_peaks(maps, window=window, peak_filter=peak_filter)
    return _PeakMean.apply(maps, kept, gradient == "undivided"), kept.nonzero()


def peak_values(maps: Tensor, peaks: Tensor) -> Tensor:
    """Values (P,) of ``maps`` (N, C, h, w) at ``peaks`` (P, 4) int64."""
    return maps[tuple(peaks.unbind(1))]


def confident_peaks(
    maps: Tensor,
    scores: Tensor,
    peaks: Tensor,
    *,
    class_threshold: float = 0.0,
    peak_threshold: float = 30.0,
) -> Tensor:
    """The peaks that are back-propagated (prm spec 5).

    Keeps those of ``peaks`` (P, 4), in their order, that are higher than ``peak_threshold`` on
    ``maps`` (N, C, h, w) and whose class has at least ``class_threshold`` in ``scores`` (N, C). A
    score of NaN is too low. A class whose score is infinite is there for certain, and the highest
    peak of its map counts whatever its height.
    """
    own, values = scores[peaks[:, 0], peaks[:, 1]], peak_values(maps, peaks)
    highest = maps.amax(dim=(2, 3))[peaks[:, 0], peaks[:, 1]]
    high = (values > peak_threshold) | (own.isposinf() & (values == highest))
    return peaks[(own >= class_threshold) & high]
