"""PRM's retrieval as the original does it: every proposal treated anew for every peak."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from PIL import Image
from wsis.layers.regions import Regions
from wsis.layers.retrieval import prepare_proposals, retrieve_instances

from plain import Benchmark, difference, superpixel_unions

SIDE, PROPOSALS, CLASSES = 448, 100, 20
FACTORS = (0.95, 1e-5, 0.8)
SIZE_LIMITS, CONTOUR, SUPPRESSION = (0.00002, 0.85), 5, 0.3
Found = list[np.ndarray]  # classes, masks, response maps


def scene(num_peaks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Proposals (100, 375, 500), class maps (20, 14, 14), P classes, response maps (P, 448, 448).

    As in the files of PRM's demo, half of the proposals cover less than 0.3 % of the image, and
    they are unions of superpixels.
    """
    masks = superpixel_unions(PROPOSALS, 600, ((20, 180), (6, 14)))
    generator = np.random.default_rng(0)
    class_maps = generator.normal(size=(CLASSES, SIDE // 32, SIDE // 32)).astype(np.float32)
    away = np.mgrid[:SIDE, :SIDE] - generator.uniform(40, SIDE - 40, (num_peaks, 2, 1, 1))
    spread = generator.uniform(15, 60, (num_peaks, 1, 1))
    maps = np.exp(-(away**2).sum(axis=1) / (2 * spread**2)) * generator.random((SIDE, SIDE))
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    return masks, class_maps, generator.integers(0, CLASSES, num_peaks), maps.astype(np.float32)


def resized(values: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """Scaled by the range to 0..255, then resized by Pillow to (h, w)."""
    low, high = values.min(), values.max()
    scale = 255.0 / ((high - low) or 1)
    values = (np.clip((values - low) * scale, 0, 255) + 0.5).astype(np.uint8)
    return np.asarray(Image.fromarray(values).resize(size[::-1], method))


def plain_scores(
    masks: np.ndarray,
    class_map: np.ndarray,
    peak_map: np.ndarray,
    *,
    factors: tuple[float, float, float] = FACTORS,
    size_limits: tuple[float, float] = SIZE_LIMITS,
    contour_width: int = CONTOUR,
) -> tuple[list[float], list[np.ndarray]]:
    """Score of each proposal for one peak, NaN for those of a wrong size, and the resized masks."""
    (back, penalty, balance), size = factors, peak_map.shape
    class_bytes = resized(class_map, size, Image.Resampling.BICUBIC)
    background = (class_bytes < back * class_bytes.mean()).astype(np.float32)
    scores, small = [], []
    for proposal in masks.astype(np.uint8):
        mask = (resized(proposal, size, Image.Resampling.NEAREST) > 0).astype(np.float32)
        small.append(mask)
        if not size_limits[0] * mask.size <= mask.sum() < size_limits[1] * mask.size:
            scores.append(np.nan)
            continue
        kernel = np.ones((contour_width, contour_width), np.uint8)
        contour = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel)
        score = balance * (peak_map * mask).sum() + (peak_map * contour).sum()
        scores.append(score - penalty * (background * mask).sum())
    return scores, small


def plain_retrieval(
    masks: np.ndarray, class_maps: np.ndarray, classes: np.ndarray, maps: np.ndarray
) -> Found:
    """Peak by peak, proposal by proposal, then suppression with merging."""
    found = []
    for class_id, peak_map in zip(classes, maps, strict=True):
        scores, small = plain_scores(masks, class_maps[class_id], peak_map)
        if not np.isnan(scores).all():
            best = int(np.nanargmax(scores))
            found.append([scores[best], class_id, small[best] > 0, peak_map.copy()])
    found.sort(key=lambda instance: -instance[0])
    kept = []
    while found:
        best, rest = found[0], []
        for other in found[1:]:
            shared, union = (best[2] & other[2]).sum(), (best[2] | other[2]).sum()
            if shared / (union + 1e-10) < SUPPRESSION:
                rest.append(other)
            else:
                best[3] += other[3]
        kept.append(best)
        found = rest
    return [np.array([instance[i] for instance in kept]) for i in (1, 2, 3)]


def our_retrieval(
    regions: Regions, class_maps: np.ndarray, classes: np.ndarray, maps: np.ndarray
) -> Found:
    """The same, masks decoded at the end."""
    prepared = prepare_proposals(
        regions, (SIDE, SIDE), contour_width=CONTOUR, size_limits=SIZE_LIMITS
    )
    found = retrieve_instances(
        prepared, class_maps, classes, maps, factors=FACTORS, nms_threshold=SUPPRESSION
    )
    return [found.classes, prepared.regions.decode(found.proposals), found.peak_maps]


def build(num_peaks: int) -> Benchmark:
    """Retrieval at 448 x 448 with 100 proposals of an image of 375 x 500, each way as stored."""
    masks, *rest = scene(num_peaks)
    regions = Regions.from_masks(masks)
    return Benchmark(
        ours=lambda: our_retrieval(replace(regions), *rest),  # a copy remembers no earlier run
        plain=lambda: plain_retrieval(masks, *rest),
        error=difference,
        note="resize, contour and three sums for each peak and proposal",
    )


BENCHMARKS = {f"prm_retrieval/{peaks}": partial(build, peaks) for peaks in (5, 20)}
