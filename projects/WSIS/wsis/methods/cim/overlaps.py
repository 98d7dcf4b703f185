"""IoU and containment of all pairs of the candidates of one image, as mining compares them.

N candidates. Maps are kept in half precision, as CIM's are: 2 x 2 N^2 bytes, 16 MB for 2000. A
threshold is rounded to the map's precision before it is compared (`rounded`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsis.layers.masks import box_iou, droppers, iou_of_areas, stays
from wsis.layers.region_overlap import region_intersection
from wsis.layers.regions import Regions


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How the candidates of one image overlap.

    Attributes:
        iou: (N, N) in [0, 1], symmetric, any floating dtype.
        containment: (N, N) in [0, 1]; ``[i, j]`` is the share of j that i covers. Callers read
            whole columns; store them contiguously.
        suppress_equal: Does an IoU equal to the threshold suppress? Yes for masks, no for boxes
            (torchvision's rule).
    """

    iou: Tensor
    containment: Tensor
    suppress_equal: bool = True

    def __len__(self) -> int:
        return len(self.iou)

    def to(self, device: torch.device | str) -> Overlaps:
        """The same on another device."""
        return Overlaps(
            self.iou.to(device, non_blocking=True),
            self.containment.to(device, non_blocking=True),
            self.suppress_equal,
        )


def exceeds(values: Tensor, threshold: float) -> Tensor:
    """``values > threshold``, with the threshold rounded to their dtype; neither is negative.

    Half-precision values are compared as integers: the order is the same, and it is faster.
    """
    limit = rounded(threshold, values)
    if values.dtype == torch.float16:
        return values.view(torch.int16) > int(np.float16(limit).view(np.int16))
    return values > limit


def rounded(value: float, like: Tensor) -> float:
    """A threshold in the dtype of what it is compared with: 0.35 is 0.35009765625 in half."""
    return float(torch.tensor(value, dtype=like.dtype))


def overlaps_of_intersections(shared: Tensor, areas: Tensor, *, rows: int = 512) -> Overlaps:
    """Half-precision maps from counts of common pixels, rounded as in the original's files.

    A quotient is rounded to float32, then to float16; for empty masks it is 0.

    Args:
        shared: (N, N) symmetric, floating: common pixels of two masks, whole numbers below 2^24.
        areas: (N,) whole numbers, pixels of each mask.
        rows: how many rows are computed at a time, which limits memory.
    """
    count = len(areas)
    areas = areas.to(torch.float32)
    iou = torch.empty((count, count), dtype=torch.float16)
    covered = torch.empty_like(iou)  # [j, i]: the share of j that i covers
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        block = shared[part].to(torch.float32)
        # Whole numbers below 2^24 divide in float32 as in float64 rounded to float32.
        covered[part] = block / areas[part, None].clamp(min=1)
        iou[part] = iou_of_areas(block, areas[part, None], areas)
    return Overlaps(iou, covered.T)


def overlaps_of_regions(regions: Regions) -> Overlaps:
    """Half-precision maps of the masks of an image, on the CPU; see `overlaps_of_intersections`."""
    shared = torch.from_numpy(region_intersection(regions))
    return overlaps_of_intersections(shared, torch.from_numpy(regions.areas))


def overlaps_of_boxes(boxes: Tensor) -> Overlaps:
    """Maps of boxes (N, 4) XYXY in float32, for mining without masks (an ablation of CIM)."""
    width_height = (boxes[:, None, 2:].minimum(boxes[:, 2:])) - boxes[:, None, :2].maximum(
        boxes[:, :2]
    )
    shared = width_height.clamp(min=0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    containment = torch.where(area > 0, shared / area, torch.zeros_like(shared))
    return Overlaps(box_iou(boxes, boxes), containment, suppress_equal=False)


def overlap_nms(overlaps: Overlaps, order: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
    """Greedy suppression on an IoU map, in each row of ``order`` by itself.

    A row of ``order`` (C, K) int64 has some of the N candidates, the best first. A candidate stays
    if its IoU with each one that stayed before it in its row is below ``threshold``.

    Returns:
        the rows (n,) and the candidates (n,) int64 of those that stay, row after row, in the order
        of their row. All rows together are copied to the CPU and back once.
    """
    table = overlaps.iou[order[:, :, None], order[:, None]]
    limit = rounded(threshold, table)
    rivals = table >= limit if overlaps.suppress_equal else table > limit
    kept = [stays(droppers(row)) for row in rivals.cpu().numpy()]
    rows = np.repeat(np.arange(len(kept)), [len(places) for places in kept])
    places = np.stack([rows, np.concatenate([np.zeros(0, dtype=np.int64), *kept])])
    row, place = torch.from_numpy(places).to(order.device)
    return row, order[row, place]
