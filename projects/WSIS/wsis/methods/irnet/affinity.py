"""Pairs of pixels, the paths between them, and what the paths and labels say about a pair.

IRNet (Ahn, Cho, Kwak, CVPR 2019), sections 3.2 and 4.1. A *pair* is a source pixel and a partner
within a radius; its *affinity* is 1 minus the largest boundary value on the path between the two.

Shapes: B images, h x w map, P pairs of one source (152 for radius 10, 34 for radius 5). Sources are
h' x w' pixels, rows 0..h-f-1 and columns f..w-f-1 with f = radius - 1: there all partners lie in
the map. An offset (dy, dx) leads from the source to its partner, in a lower row or to the right in
the same row, so that each pair occurs once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wsis.methods.irnet.labels import UNKNOWN

PAIR_IGNORED = 0  # one of the labels is unknown
PAIR_BACKGROUND = 1  # both are background
PAIR_FOREGROUND = 2  # both are the same class
PAIR_DIFFERENT = 3  # the labels differ


def _path(dy: int, dx: int) -> np.ndarray:
    points = [
        (y, x)
        for y in range(min(0, dy), max(0, dy) + 1)
        for x in range(min(0, dx), max(0, dx) + 1)
        if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    ]
    points.sort(key=lambda point: -abs(point[0]) - abs(point[1]))
    return np.array(points, dtype=np.int64)


@lru_cache(maxsize=8)
def search_paths(radius: int) -> tuple[np.ndarray, ...]:
    """The paths of all pairs of one source, in the order of the original's tables.

    The two pixels of a pair are closer than ``radius``, an integer of at least 1, in pixels.

    Returns:
        P arrays (L, 2) int64 of (dy, dx), from the end point to (0, 0), sorted by L. A path has the
        points of the bounding rectangle that are closer than 1 to the straight line. Do not write
        into them.
    """
    if radius != int(radius) or radius < 1:
        raise ValueError(f"the radius must be a whole number of at least 1, not {radius}")
    reach = range(1 - radius, radius)
    ends = [(0, x) for x in range(1, radius)]
    ends += [(y, x) for y in range(1, radius) for x in reach if x * x + y * y < radius * radius]
    paths = [_path(dy, dx) for dy, dx in ends]
    return tuple(sorted(paths, key=len))


@lru_cache(maxsize=8)
def pair_offsets(radius: int) -> np.ndarray:
    """End points of `search_paths`: (P, 2) int64, (dy, dx)."""
    ends = [path[0] for path in search_paths(radius)]
    return np.array(ends, dtype=np.int64).reshape(-1, 2)


def shifted(maps: Tensor, offset: tuple[int, int], *, radius: int) -> Tensor:
    """The part (..., h', w') of ``maps`` (..., h, w) at all sources plus ``offset``, a view."""
    reach = radius - 1
    rows, columns = max(0, maps.shape[-2] - reach), max(0, maps.shape[-1] - 2 * reach)
    top, left = int(offset[0]), reach + int(offset[1])
    return maps[..., top : top + rows, left : left + columns]


@lru_cache(maxsize=8)
def _merge_plan(radius: int) -> tuple[np.ndarray, tuple[tuple[tuple[int, int], ...], ...]]:
    """How to build each path's maximum from those of shorter paths that it contains.

    Parts may overlap, since a point may enter a maximum twice. A greedy cover needs 638 merges
    instead of 1982 for radius 10, and 76 instead of 208 for radius 5.

    Returns:
        the distinct points (n, 2); for each path its parts, (0, point number) or (1, path number).
    """
    paths = [frozenset(map(tuple, path.tolist())) for path in search_paths(radius)]
    points = sorted(set().union(*paths)) if paths else []
    number = {point: index for index, point in enumerate(points)}
    plan = []
    for index, path in enumerate(paths):
        inside = [j for j in range(index) if paths[j] <= path]
        missing, parts = set(path), []
        while missing:
            best = max(inside, key=lambda j: len(paths[j] & missing), default=None)
            if best is None or len(paths[best] & missing) <= 1:
                parts += [(0, number[point]) for point in sorted(missing)]
                break
            parts.append((1, best))
            missing -= paths[best]
        plan.append(tuple(parts))
    return np.array(points, dtype=np.int64).reshape(-1, 2), tuple(plan)


def path_points(radius: int) -> np.ndarray:
    """The distinct points (n, 2) of all paths; `path_maxima` numbers them in this order."""
    return _merge_plan(radius)[0]


@torch.no_grad()
def path_maxima(
    boundary: Tensor, *, radius: int, with_argmax: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The largest boundary value on the path of every pair (spec 5.4, ``a = 1 - max``).

    ``boundary`` is (B, h, w) float. The function works on views and allocates only the result: P x
    h' x w' floats for an image, and a byte for each pair with ``with_argmax``.

    Returns:
        maxima (P, B, h', w') in the order of `pair_offsets`; with ``with_argmax`` also, of the same
        shape, which point of the path is largest (any of equal ones), as a row of `path_points`
        (uint8, or int32 for more than 256 points), otherwise None.
    """
    points, plan = _merge_plan(radius)
    views = [shifted(boundary, point, radius=radius) for point in points]
    shape = (len(plan), *shifted(boundary, (0, 0), radius=radius).shape)
    maxima = boundary.new_empty(shape)
    kind = torch.uint8 if len(points) <= 256 else torch.int32
    argmax = maxima.new_empty(shape, dtype=kind) if with_argmax else None
    for index, ((first_kind, first), *others) in enumerate(plan):
        out = maxima[index].copy_(maxima[first] if first_kind else views[first])
        if argmax is not None:
            if first_kind:
                argmax[index].copy_(argmax[first])
            else:
                argmax[index].fill_(first)
        for part_kind, part in others:
            values = maxima[part] if part_kind else views[part]
            if argmax is not None:
                greater = values > out
                if part_kind:
                    torch.where(greater, argmax[part], argmax[index], out=argmax[index])
                else:
                    argmax[index].masked_fill_(greater, part)
            torch.maximum(out, values, out=out)
    return maxima, argmax


def pair_labels(labels: Tensor, *, radius: int) -> Tensor:
    """What a label map says about every pair (spec 5.2).

    ``labels`` (B, h, w) are integers: 0 background, class id + 1, 255 unknown. The result (P, B,
    h', w') uint8 is ``PAIR_IGNORED``, ``PAIR_BACKGROUND``, ``PAIR_FOREGROUND`` or
    ``PAIR_DIFFERENT``.
    """
    source = shifted(labels, (0, 0), radius=radius)
    offsets = pair_offsets(radius)
    kinds = torch.empty((len(offsets), *source.shape), dtype=torch.uint8, device=labels.device)
    same = torch.where(source == 0, PAIR_BACKGROUND, PAIR_FOREGROUND)
    known = source != UNKNOWN
    for index, offset in enumerate(offsets):
        partner = shifted(labels, offset, radius=radius)
        kind = torch.where(partner == source, same, PAIR_DIFFERENT)
        kinds[index] = kind * (known & (partner != UNKNOWN))
    return kinds
