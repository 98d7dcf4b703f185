"""What the peak classifier finds in an image, the places of its cells, and what is kept.

C classes, P peaks, H x W image, h x w class response map (enlarged by the sub-pixel factor).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_REPORT_SIDE = 112  # longer side of the maps that are kept for the report


@dataclass(frozen=True)
class MapFrame:
    """The place of class maps that were enlarged corner to corner (`upsample_maps`), for pictures.

    Cell c of a padded network sees the pixels around c x stride. Drawn as the c-th part of the
    image, the cell would lie up to a cell too far to the right and down. ``first`` is the pixel
    around which cell 0 sees: 0 with the usual padding, see `TimmBackbone.first_cell` for others.
    """

    size: tuple[int, int]  # (H, W) of the image, pixels
    stride: int  # of a cell before the enlargement, pixels
    factor: int = 1  # of the enlargement
    first: tuple[float, float] = (0.0, 0.0)  # (y, x) of cell 0, pixels

    def places(self, cells: Tensor, shape: tuple[int, int]) -> Tensor:
        """(P, 2) float32 in 0..1: cells (y, x) of maps (h, w) as shares of the image."""
        enlarged = cells.new_tensor([self._enlargement(n) for n in shape], dtype=torch.float32)
        pixels = cells.float() / enlarged * self.stride + enlarged.new_tensor(self.first)
        return ((pixels + 0.5) / pixels.new_tensor(self.size)).clamp(0, 1)

    def cells(self, places: Tensor, shape: tuple[int, int]) -> Tensor:
        """(P, 2) int64: the cells (y, x) of maps (h, w) nearest to ``places``; undoes `places`."""
        enlarged = places.new_tensor([self._enlargement(n) for n in shape])
        pixels = places * places.new_tensor(self.size) - 0.5 - places.new_tensor(self.first)
        found = (pixels / self.stride * enlarged).round().long()
        return torch.minimum(found.clamp(min=0), found.new_tensor(shape) - 1)

    def _enlargement(self, length: int) -> float:
        """Enlarged cells to a cell, corner to corner."""
        before = length // self.factor
        return 1.0 if before < 2 else (length - 1) / (before - 1)

    def on_image(self, maps: Tensor) -> Tensor:
        """Maps (K, h, w) resampled to h x w cells that tile the image."""
        grids = []
        for axis in (0, 1):
            length = maps.shape[1 + axis]
            shares = (torch.arange(length, device=maps.device) + 0.5) / length
            pixels = shares * self.size[axis] - 0.5
            cells = (pixels - self.first[axis]) / self.stride * self._enlargement(length)
            grids.append(2 * cells / max(length - 1, 1) - 1)
        rows, columns = torch.meshgrid(*grids, indexing="ij")
        grid = torch.stack([columns, rows], dim=-1)[None].to(maps.dtype)
        options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
        return F.grid_sample(maps[None], grid, **options)[0] if len(maps) else maps


@dataclass(frozen=True)
class PeakResponses:
    """What the classifier finds in one image."""

    scores: Tensor  # (C,) confidences, NaN where a class has no peak
    class_maps: Tensor  # (C, h, w) class response maps
    all_peaks: Tensor  # (Q, 3) int64 rows (class, y, x) of all stimulated peaks
    peaks: Tensor  # (P, 3) those that passed the thresholds, in their order
    values: Tensor  # (P,) class response at each of them
    responses: Tensor | None  # (P, H, W) peak response maps, of sum 1; None: not asked for
    features: dict[str, Tensor]  # the backbone's maps, (1, channels, h', w') each
    frame: MapFrame  # where the class maps lie in the image

    @property
    def logits(self) -> Tensor:
        """(C,) confidences; a class without a peak has the maximum of its map."""
        return self.scores.where(~self.scores.isnan(), self.class_maps.amax(dim=(1, 2)))


def small_maps(maps: Tensor, side: int = _REPORT_SIDE) -> np.ndarray:
    """Maps (K, H, W) reduced to at most ``side`` by averaging, see `compact`."""
    factor = -(-max(maps.shape[1:]) // side)
    if factor > 1 and len(maps):
        maps = F.avg_pool2d(maps[None], factor, ceil_mode=True, count_include_pad=False)[0]
    return compact(maps)


def compact(maps: Tensor) -> np.ndarray:
    """Maps as float16, or float32 where that would make them infinite."""
    values = maps.float().cpu().numpy()
    fits = np.abs(values).max(initial=0.0) <= np.finfo(np.float16).max
    return values.astype(np.float16 if fits else np.float32)


def response_artifact(found: PeakResponses) -> dict[str, np.ndarray]:
    """What is kept of the peaks of an image, for the report and for choosing thresholds.

    Returns:
        ``map_classes`` (K,) int64 and ``class_maps`` (K, h, w) float16, the class response maps of
        the classes that have peaks, in cells that tile the image; ``peaks`` (P, 3) int64 rows
        (class, y, x); ``peak_places`` (P, 2) float32, (y, x) as shares of the image;
        ``peak_values`` (P,) float32; ``responses`` (P, h', w') float16, reduced, of maximum 1;
        ``candidates`` (Q, 2) float32, class and value of every peak before the thresholds.
    """
    peaks, every = found.peaks.cpu(), found.all_peaks
    classes = peaks[:, 0].unique()
    values = found.class_maps[tuple(every.unbind(1))]
    shape = tuple(found.class_maps.shape[1:])
    kept = {
        "map_classes": classes.numpy(),
        "class_maps": small_maps(found.frame.on_image(found.class_maps[classes])),
        "peaks": peaks.numpy(),
        "peak_places": found.frame.places(peaks[:, 1:], shape).numpy(),
        "peak_values": found.values.cpu().numpy().astype(np.float32),
    }
    if found.responses is not None:
        highest = found.responses.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
        kept["responses"] = small_maps(found.responses / highest)
    table = torch.stack([every[:, 0].to(values.dtype), values], dim=1)
    return kept | {"candidates": table.cpu().numpy().astype(np.float32)}
