"""CIM's overlap maps as the original computes them, and by pycocotools' run lengths."""

from __future__ import annotations

from functools import partial

import numpy as np
from pycocotools import mask as coco_mask
from wsis.layers.regions import Regions
from wsis.methods.cim.overlaps import Overlaps, overlaps_of_regions

from plain import Benchmark, difference, superpixel_unions

COLUMNS = 4  # proposals whose overlaps with all others the plain way computes


def plain_overlaps(masks: np.ndarray, columns: int) -> list[np.ndarray]:
    """IoU and containment of all masks with the first few, pair by pair over all pixels.

    Returns:
        two arrays (N, columns) float16, by way of float32; 0 where nothing is shared.
    """
    iou = np.zeros((len(masks), columns), dtype=np.float32)
    containment = np.zeros((len(masks), columns), dtype=np.float32)
    for i, j in np.ndindex(iou.shape):
        shared = (masks[i] & masks[j]).sum()
        iou[i, j] = shared / max((masks[i] | masks[j]).sum(), 1)
        containment[i, j] = shared / max(masks[j].sum(), 1)
    return [iou.astype(np.float16), containment.astype(np.float16)]


def build(count: int) -> Benchmark:
    """Overlap maps of ``count`` proposals, from the stack of their masks."""
    masks = superpixel_unions(count, 300, ((20, 150),))
    stored = masks.astype(np.uint8)  # as MATLAB files give them

    def error(plain: list[np.ndarray], ours: Overlaps) -> float:
        return difference(plain, [ours.iou[:, :COLUMNS], ours.containment[:, :COLUMNS]])

    return Benchmark(
        ours=lambda: overlaps_of_regions(Regions.from_masks(masks)),
        plain=lambda: plain_overlaps(stored, COLUMNS),
        error=error,
        scale=count / COLUMNS,
        note=f"pair by pair; {COLUMNS} of {count} columns",
    )


def coco_overlaps(masks: np.ndarray) -> list[np.ndarray]:
    """IoU and containment of all masks, (N, N) float16 each, from their run lengths."""
    runs = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    iou, shares = (coco_mask.iou(runs, runs, [crowd] * len(runs)) for crowd in (0, 1))
    return [iou.astype(np.float16), shares.T.astype(np.float16)]


def build_coco(count: int) -> Benchmark:
    """The same overlap maps against pycocotools."""
    masks = superpixel_unions(count, 300, ((20, 150),))
    stored = masks.astype(np.uint8)

    def error(plain: list[np.ndarray], ours: Overlaps) -> float:
        return difference(plain, [ours.iou, ours.containment])

    return Benchmark(
        ours=lambda: overlaps_of_regions(Regions.from_masks(masks)),
        plain=lambda: coco_overlaps(stored),
        error=error,
        note="pycocotools: encode, iou of all pairs twice",
    )


BENCHMARKS = {
    "cim_overlap/2000": partial(build, 2000),
    "cim_overlap/2000/pycocotools": partial(build_coco, 2000),
}
