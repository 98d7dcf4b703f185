"""PRM's retrieval as the original does it: every proposal treated anew for every peak."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
from PIL import Image
from wsis.layers.regions import Regions
from wsis.layers.retrieval import prepare_proposals, retrieve_instances

from plain import Benchmark, register

SIDE, PROPOSALS, IMAGE, CLASSES = 448, 100, (375, 500), 20
FACTORS = (0.95, 1e-5, 0.8)
SIZE_LIMITS, CONTOUR, SUPPRESSION = (0.00002, 0.85), 5, 0.3
Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # classes, masks, response maps


def scene(num_peaks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Proposals (100, 375, 500), class maps (20, 14, 14), P classes, response maps (P, 448, 448).

    As in the files of PRM's demo, half of the proposals cover less than 0.3 % of the image, and
    they are unions of superpixels.
    """
    generator = np.random.default_rng(0)
    height, width = IMAGE
    ys, xs = np.mgrid[:height, :width]
    seeds = generator.uniform(size=(600, 2)) * IMAGE
    rough = (ys[::5, ::5, None] - seeds[:, 0]) ** 2 + (xs[::5, ::5, None] - seeds[:, 1]) ** 2
    cells = rough.argmin(axis=2).repeat(5, axis=0).repeat(5, axis=1)
    masks = np.zeros((PROPOSALS, *IMAGE), dtype=bool)
    for number, mask in enumerate(masks):
        radius = generator.uniform(6, 14) if number % 2 else generator.uniform(20, 180)
        centre = seeds[generator.integers(len(seeds))]
        near = np.hypot(*(seeds - centre).T) < radius * generator.uniform(0.7, 1.3, len(seeds))
        mask[:] = near[cells]
    class_maps = generator.normal(size=(CLASSES, SIDE // 32, SIDE // 32)).astype(np.float32)
    classes = generator.integers(0, CLASSES, num_peaks)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = generator.uniform(40, SIDE - 40, (num_peaks, 2, 1, 1))
    spread = generator.uniform(15, 60, (num_peaks, 1, 1))
    maps = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / (2 * spread**2))
    maps *= generator.random(maps.shape)
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    return masks, class_maps, classes, maps.astype(np.float32)


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Scaled by the range to 0..255."""
    low, high = values.min(), values.max()
    scale = 255.0 / ((high - low) or 1)
    return (np.clip((values - low) * scale, 0, 255) + 0.5).astype(np.uint8)


def resized(values: np.ndarray, method: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(as_bytes(values)).resize((SIDE, SIDE), method))


def best_proposal(
    masks: list[np.ndarray], class_map: np.ndarray, peak_map: np.ndarray
) -> tuple[float, np.ndarray | None]:
    """Score and mask of the best proposal of one peak."""
    back, penalty, balance = FACTORS
    class_bytes = resized(class_map, Image.Resampling.BICUBIC)
    background = (class_bytes < back * class_bytes.mean()).astype(np.float32)
    best, winner = -np.inf, None
    for proposal in masks:
        mask = (resized(proposal, Image.Resampling.NEAREST) > 0).astype(np.float32)
        area = mask.sum()
        if not SIZE_LIMITS[0] * mask.size <= area < SIZE_LIMITS[1] * mask.size:
            continue
        kernel = np.ones((CONTOUR, CONTOUR), np.uint8)
        contour = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel)
        score = balance * (peak_map * mask).sum() + (peak_map * contour).sum()
        score -= penalty * (background * mask).sum()
        if score > best:
            best, winner = score, mask
    return best, winner


def plain_retrieval(
    masks: np.ndarray, class_maps: np.ndarray, classes: np.ndarray, maps: np.ndarray
) -> Found:
    """Peak by peak, proposal by proposal, then suppression with merging."""
    stack = [mask.astype(np.uint8) for mask in masks]
    found = []
    for class_id, peak_map in zip(classes, maps, strict=True):
        score, mask = best_proposal(stack, class_maps[class_id], peak_map)
        if mask is not None:
            found.append([score, class_id, mask > 0, peak_map.copy()])
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
    return tuple(np.array([instance[i] for instance in kept]) for i in (1, 2, 3))


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
    return found.classes, prepared.regions.decode(found.proposals), found.peak_maps


def difference(plain: Found, ours: Found) -> float:
    """Of the response maps; infinite where classes, order or a pixel of a mask differ."""
    same = all(np.array_equal(a, b) for a, b in zip(plain[:2], ours[:2], strict=True))
    return float(np.abs(plain[2] - ours[2]).max()) if same else float("inf")


def build_retrieval(num_peaks: int) -> Benchmark:
    """Retrieval at 448 x 448 with 100 proposals of an image of 375 x 500, each way as stored."""
    masks, *rest = scene(num_peaks)
    regions = Regions.from_masks(masks)
    return Benchmark(
        ours=lambda: our_retrieval(Regions(**_stored(regions)), *rest),
        plain=lambda: plain_retrieval(masks, *rest),
        error=difference,
        note="resize, contour and three sums for each peak and proposal",
    )


def _stored(regions: Regions) -> dict[str, np.ndarray | int]:
    """Its fields alone: nothing that an earlier run may have remembered."""
    return {name: getattr(regions, name) for name in ("labels", "starts", "atoms", "num_atoms")}


register("prm_retrieval/5", partial(build_retrieval, 5))
register("prm_retrieval/20", partial(build_retrieval, 20))
