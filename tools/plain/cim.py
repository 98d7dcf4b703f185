"""CIM's overlap maps, mining and training step as the original computes them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from wsis.layers.regions import Regions
from wsis.methods.cim.mining import MiningOptions, assign, mine
from wsis.methods.cim.overlaps import Overlaps, overlaps_of_regions

from plain import IMAGE, Benchmark, difference, register, superpixel_unions

COLUMNS = 4  # proposals whose overlaps with all others the plain way computes


def grouped_masks(count: int) -> np.ndarray:
    """(N, H, W) bool, which share their borders as proposals do."""
    return superpixel_unions(count, 300, ((20, 150),))


def unrelated_masks(count: int) -> np.ndarray:
    """(N, H, W) bool: ellipses anywhere, which share no borders."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[: IMAGE[0], : IMAGE[1]]
    masks = np.zeros((count, *IMAGE), dtype=bool)
    for mask in masks:
        (row, column), (tall, wide) = generator.random((2, 2)) * IMAGE
        tall, wide, angle = tall / 2 + 3, wide / 2 + 3, generator.uniform(0, math.pi)
        u = (x - column) * math.cos(angle) + (y - row) * math.sin(angle)
        v = (y - row) * math.cos(angle) - (x - column) * math.sin(angle)
        mask[:] = (u / wide) ** 2 + (v / tall) ** 2 < 1
        mask[int(row), int(column)] = True
    return masks


def plain_overlaps(masks: np.ndarray, columns: int) -> list[np.ndarray]:
    """IoU and containment of all masks with the first few, pair by pair over all pixels.

    Returns:
        two arrays (N, columns) float16, by way of float32; 0 where nothing is shared.
    """
    iou = np.zeros((len(masks), columns), dtype=np.float32)
    containment = np.zeros((len(masks), columns), dtype=np.float32)
    for j in range(columns):
        for i in range(len(masks)):
            shared = np.bitwise_and(masks[i], masks[j]).sum()
            iou[i, j] = shared / max(np.bitwise_or(masks[i], masks[j]).sum(), 1)
            containment[i, j] = shared / max(masks[j].sum(), 1)
    return [iou.astype(np.float16), containment.astype(np.float16)]


def build_overlap(make: Any, count: int) -> Benchmark:
    """Overlap maps of ``count`` masks, from the stack of masks."""
    masks = make(count)
    stored = masks.astype(np.uint8)  # as MATLAB files give them

    def error(plain: list[np.ndarray], ours: Overlaps) -> float:
        return difference(plain, [ours.iou[:, :COLUMNS], ours.containment[:, :COLUMNS]])

    return Benchmark(
        ours=lambda: overlaps_of_regions(Regions.from_masks(masks)),
        plain=lambda: plain_overlaps(stored, COLUMNS),
        error=error,
        extrapolate=lambda seconds: seconds * count / COLUMNS,
        note=f"pair by pair; {COLUMNS} of {count} columns",
    )


def build_regions(count: int) -> Benchmark:
    """The same from regions, which is what a training step does: they lie on disk, not maps."""
    regions = Regions.from_masks(grouped_masks(count))
    return Benchmark(
        ours=lambda: overlaps_of_regions(regions),
        note=f"from stored regions: {regions.num_atoms} atoms, {regions.nbytes / 2**20:.1f} MiB",
    )


def scores(count: int, num_classes: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Class scores and detection scores (N, C)."""
    generator = torch.Generator().manual_seed(0)
    by_class = torch.randn(count, num_classes + 1, generator=generator).mul(2).softmax(1)
    part = torch.randn(count, num_classes + 1, generator=generator).softmax(0)
    return by_class[:, 1:], part[:, 1:]


def plain_mining(
    by_class: torch.Tensor, part: torch.Tensor, classes: list[int], maps: Overlaps
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, weights and integrity of a branch; suppression goes through lists, pair by pair."""
    options = MiningOptions()
    count, product = len(by_class), by_class * part
    small = (maps.containment > options.containment).sum(dim=1) < options.too_big * count
    weight, label = torch.full((count,), -1.0), torch.full((count,), -1)
    for c in classes:
        order = by_class[:, c].argsort(descending=True)[: math.ceil(options.seed_share * count)]
        table = maps.iou[order][:, order]
        left, kept = list(range(len(order))), []
        while left:
            first = left.pop(0)
            kept.append(first)
            left = [other for other in left if table[first][other] < options.nms]
        seeds = order[torch.tensor(kept)]
        around = (maps.containment[:, seeds] > options.containment) & small[:, None]
        around = around[:, around.any(dim=0)]
        winners = torch.unique((around * part[:, c, None]).argmax(dim=0))
        better = winners[product[winners, c] > weight[winners]]
        weight[better], label[better] = product[better, c], c
    truth = (label >= 0).nonzero()[:, 0]
    values, best = maps.iou[:, truth].max(dim=1)
    labels = torch.where(values < options.nms, 0, label[truth[best]] + 1)
    labels = torch.where(values > 0, labels, -1)
    weights = torch.where(values > 0, weight[truth[best]], 0.0)
    return labels, weights, values > options.integrity


def build_mining(count: int) -> Benchmark:
    """One branch's labels of ``count`` proposals and three classes."""
    maps = overlaps_of_regions(Regions.from_masks(grouped_masks(count)))
    by_class, part = scores(count)
    classes, options = [2, 7, 14], MiningOptions()

    def ours() -> Any:
        truth = mine(
            by_class,
            part,
            classes=torch.tensor(classes),
            overlaps=maps,
            branch=0,
            options=options,
        )
        return assign(truth, maps, branch=0, options=options)

    def error(plain: Any, found: Any) -> float:
        plain = [value.double() for value in plain]
        return difference(plain, [found.labels, found.weights, found.integrity])

    return Benchmark(
        ours=ours,
        plain=lambda: plain_mining(by_class, part, classes, maps),
        error=error,
        note="one branch, three classes; suppression by lists",
    )


register("cim_overlap/2000", partial(build_overlap, grouped_masks, 2000))
register("cim_overlap_unrelated/1000", partial(build_overlap, unrelated_masks, 1000))
register("cim_overlap_stored/2000", partial(build_regions, 2000))
register("cim_mining/2000", partial(build_mining, 2000))
