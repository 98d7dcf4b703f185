"""Which segment proposal belongs to a peak: PRM's retrieval; and which ones IAM draws from.

PRM (Zhou et al., CVPR 2018), prm spec 6 and 12; IAM's sampler, iam spec 4. All proposals of an
image are prepared once; then every score is a sum over atoms or over the pixels of a contour.

P peaks, R proposals, C classes, H x W pixels of the peak response maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy import sparse

from wsis.layers.masks import droppers, iou_of_areas, stays
from wsis.layers.region_overlap import region_intersection
from wsis.layers.regions import Regions

_EPSILON = 1e-10  # of the original's IoU
Factors = tuple[float, float, float]


def contour_pixels(regions: Regions, index: int, width: int) -> np.ndarray:
    """Contour of a region: OpenCV's morphological gradient with a square of ones.

    ``width`` is the side of the square, at least 1 (an even one has OpenCV's anchor). Returns (n,)
    int64, ascending places in the flattened image. The image border is no contour.
    """
    height, columns = regions.size
    x0, y0, x1, y1 = regions.boxes[index].tolist()
    x0, y0 = max(0, x0 - width), max(0, y0 - width)
    x1, y1 = min(columns, x1 + width), min(height, y1 + width)
    mask = regions.decode_box(index, (x0, y0, x1, y1)).view(np.uint8)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((width, width), np.uint8))
    rows, across = np.divmod(np.flatnonzero(edge.view(bool)), x1 - x0)
    return (rows + y0) * columns + (across + x0)


@dataclass(frozen=True)
class PreparedProposals:
    """Proposals of one image at the size of its peak response maps; see `prepare_proposals`."""

    regions: Regions
    valid: np.ndarray  # (R,) bool, whether the size limits admit it
    contours: sparse.csr_matrix  # (R, H W) float64, ones on the contour of valid regions

    def contour_sums(self, maps: np.ndarray) -> np.ndarray:
        """(R, P) float64: sum of each map (P, H, W) on each contour."""
        sums = np.zeros((len(self.regions), len(maps)))
        for column, values in enumerate(maps):  # one by one: a transposed copy would cost more
            sums[:, column] = self.contours @ values.ravel().astype(np.float64)
        return sums


def prepare_proposals(
    regions: Regions,
    size: tuple[int, int],
    *,
    contour_width: int = 5,
    size_limits: tuple[float, float] = (0.00002, 0.85),
) -> PreparedProposals:
    """Resize (nearest, as Pillow), check the size and draw the contour of each proposal once.

    Args:
        regions: proposals at any size, best first.
        size: (H, W) of the peak response maps.
        contour_width: side of the square of the morphological gradient, pixels.
        size_limits: shares of the image; a proposal is valid if its area is at least the lower
            and below the upper one. One that covers the whole image is never valid (the original
            scales masks by their range, which makes it empty).

    Raises:
        ValueError: a width below 1.
    """
    if contour_width < 1:
        raise ValueError(f"contour_width is {contour_width}; it must be 1 or more")
    whole = regions.areas == regions.labels.size
    resized = regions.resize(size)
    pixels = size[0] * size[1]
    low, high = size_limits
    valid = (resized.areas >= low * pixels) & (resized.areas < high * pixels) & ~whole
    places = [
        contour_pixels(resized, index, contour_width) if good else np.zeros(0, dtype=np.int64)
        for index, good in enumerate(valid.tolist())
    ]
    starts = np.concatenate([[0], np.cumsum([len(p) for p in places])])
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *places]).astype(np.int32)
    contours = sparse.csr_matrix(
        (np.ones(len(columns)), columns, starts), shape=(len(resized), pixels)
    )
    return PreparedProposals(resized, valid, contours)


def byte_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8: a map (h, w) scaled by its range to 0..255, and resized by Pillow (bicubic)."""
    low = values.min()
    extent = values.max() - low
    scale = 255.0 / (extent if extent != 0 else 1)
    scaled = (np.clip((values - low) * scale, 0, 255) + 0.5).astype(np.uint8)
    return np.asarray(Image.fromarray(scaled).resize(size[::-1], Image.Resampling.BICUBIC))


def background_map(values: np.ndarray, size: tuple[int, int], factor: float) -> np.ndarray:
    """(H, W) bool: where the class map (h, w), as bytes, is below ``factor`` times its mean."""
    resized = byte_map(values, size)
    return resized < factor * resized.mean()


def retrieval_scores(
    proposals: PreparedProposals,
    class_maps: np.ndarray,
    classes: np.ndarray,
    peak_maps: np.ndarray,
    *,
    factors: Factors | Sequence[Factors] = (0.95, 1e-5, 0.8),
) -> np.ndarray:
    """Score of every proposal for every peak (prm spec 6).

    balance * (R inside) + (R on the contour) - penalty * (background pixels inside): the cues of
    the instance, of its boundary and of its class.

    Args:
        proposals: of the image.
        class_maps: (C, h, w) float, class response maps.
        classes: (P,) int, class id of each peak.
        peak_maps: (P, H, W) float, peak response maps.
        factors: (background factor, penalty, balance): a tuple for all classes or a list of
            tuples by class id. The background of a class is where its map is below the background
            factor times its mean.

    Returns:
        (P, R) float64, NaN where the size limits reject the proposal.

    Raises:
        ValueError: maps of another size than the proposals.
    """
    size = proposals.regions.size
    if len(peak_maps) != len(classes) or peak_maps.shape[1:] != size:
        raise ValueError(
            f"{len(classes)} peaks, response maps {peak_maps.shape}, proposals of {size}"
        )
    present = sorted({int(c) for c in classes})
    triples = [factors if isinstance(factors, tuple) else factors[c] for c in present]
    background = np.zeros((len(present), *size), dtype=bool)
    for row, (class_id, triple) in enumerate(zip(present, triples, strict=True)):
        background[row] = background_map(class_maps[class_id], size, triple[0])
    place = np.searchsorted(present, classes) if present else np.zeros(0, dtype=np.int64)
    penalty = np.array([t[1] for t in triples])[place] if present else np.zeros(0)
    balance = np.array([t[2] for t in triples])[place] if present else np.zeros(0)
    scores = balance[:, None] * proposals.regions.sums(peak_maps).T
    scores += proposals.contour_sums(peak_maps).T
    scores -= penalty[:, None] * proposals.regions.sums(background).T[place]
    scores[:, ~proposals.valid] = np.nan
    return scores


class Retrieved(NamedTuple):
    """Instances of one image, best score first."""

    peaks: np.ndarray  # (n,) int64
    proposals: np.ndarray  # (n,) int64, each one's mask
    classes: np.ndarray  # (n,) int64
    scores: np.ndarray  # (n,) float64, of the retrieval: unbounded
    peak_maps: np.ndarray  # (n, H, W) float32, the peak's map plus those of peaks it suppressed


def retrieve_instances(
    proposals: PreparedProposals,
    class_maps: np.ndarray,
    classes: np.ndarray,
    peak_maps: np.ndarray,
    *,
    factors: Factors | Sequence[Factors] = (0.95, 1e-5, 0.8),
    nms_threshold: float | None = 0.3,
    merge: bool = True,
    within_class: bool = False,
) -> Retrieved:
    """The best proposal of each peak, without those that overlap a better one.

    An instance is dropped if its mask IoU with a better one is at least ``nms_threshold`` (None
    keeps all); ``within_class`` compares only instances of one class (the original compares all).
    ``merge`` adds the response map of a dropped instance to the one that dropped it. The other
    arguments are those of `retrieval_scores`.

    Returns:
        n instances; 0 without peaks or without valid proposals.
    """
    classes = np.asarray(classes, dtype=np.int64)
    scores = retrieval_scores(proposals, class_maps, classes, peak_maps, factors=factors)
    maps = np.array(peak_maps, dtype=np.float32)  # a copy: merging adds to it
    if len(classes) == 0 or not proposals.valid.any():
        none = np.zeros(0, dtype=np.int64)
        return Retrieved(none, none, none, np.zeros(0), maps[:0])
    winners = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)  # the first on equality
    best = scores[np.arange(len(classes)), winners]
    order = np.argsort(-best, kind="stable")
    if nms_threshold is None:
        return Retrieved(order, winners[order], classes[order], best[order], maps[order])
    regions = proposals.regions[winners]
    shared = region_intersection(regions)
    iou = iou_of_areas(shared, regions.areas[:, None], regions.areas[None, :], epsilon=_EPSILON)
    rivals = iou >= nms_threshold
    if within_class:
        rivals &= classes[:, None] == classes[None, :]
    by = droppers(rivals[np.ix_(order, order)])
    if merge:
        for other in np.flatnonzero(by != np.arange(len(by))):
            maps[order[by[other]]] += maps[order[other]]
    chosen = order[stays(by)]
    return Retrieved(chosen, winners[chosen], classes[chosen], best[chosen], maps[chosen])


def sampling_candidates(
    proposals: PreparedProposals,
    peak_maps: np.ndarray,
    *,
    balance: float = 0.1,
    area_cost: float = 0.0,
    max_candidates: int = 5,
    discard_threshold: float | None = 0.2,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each peak the proposals from which IAM draws its pseudo mask (iam spec 4).

    The score is balance * (R inside) + (R on the contour) - area_cost * (share of the image), R the
    peak's response. Of the best ones, those that overlap the very best too little are dropped.

    Args:
        proposals: of the image.
        peak_maps: (P, H, W) float.
        balance: weight of the instance cue.
        area_cost: subtracted in full from a mask that covers the image, and in proportion from
            others. With 0, as the original, covering more than the object costs nothing. With c
            times ``balance`` a pixel raises the score if its response is above c times the mean.
        max_candidates: how many of the best are kept.
        discard_threshold: the best of these stays, and those whose mask IoU with it is larger;
            None keeps all.

    Returns:
        P pairs: (n,) int64 proposals, best first, and (n,) float64 scores; n is 0 where no
        proposal is valid.
    """
    size = proposals.regions.size
    if peak_maps.shape[1:] != size:
        raise ValueError(f"response maps {peak_maps.shape}, proposals of {size}")
    scores = balance * proposals.regions.sums(peak_maps) + proposals.contour_sums(peak_maps)
    scores -= area_cost * proposals.regions.areas[:, None] / (size[0] * size[1])
    valid = np.flatnonzero(proposals.valid)
    found = []
    for column in scores[valid].T:  # one peak
        order = np.argsort(-column, kind="stable")[:max_candidates]
        chosen, values = valid[order], column[order]
        if discard_threshold is not None and len(chosen):
            regions = proposals.regions[chosen]
            shared = region_intersection(regions[:1], regions)[0]
            iou = iou_of_areas(shared, regions.areas[:1], regions.areas, epsilon=_EPSILON)
            close = iou > discard_threshold
            close[0] = True
            chosen, values = chosen[close], values[close]
        found.append((chosen, values))
    return found
