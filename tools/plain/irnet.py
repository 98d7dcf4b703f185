"""IRNet's kernels as the original computes them: dense squaring, index tables, full loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from wsis.methods.irnet.affinity import pair_labels
from wsis.methods.irnet.displacement import refine_centroids
from wsis.methods.irnet.losses import relation_losses
from wsis.methods.irnet.random_walk import random_walk

from plain import Benchmark, largest_difference, register

MAPS, BETA, DOUBLINGS, WALK_RADIUS, TRAIN_RADIUS = 24, 10, 8, 5, 10
MEASURED = (47, 63)  # largest grid on which the dense walk is run


def scene(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boundary (h, w), maps (24, h, w) and displacement (2, h, w) of eight round objects."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    boundary = generator.random((height, width), dtype=np.float32) * 0.3
    centres = generator.random((8, 2)) * (height, width)
    away = centres[:, :, None, None] - np.stack([y, x])
    distance = np.hypot(away[:, 0], away[:, 1])
    for number in range(8):
        radius = generator.uniform(0.1, 0.25) * min(height, width)
        boundary = np.maximum(boundary, np.exp(-np.abs(distance[number] - radius)) * 0.98)
    scale = generator.uniform(0.1, 0.4, (MAPS, 1, 1)) * min(height, width)
    maps = np.exp(-distance[np.arange(MAPS) % 8] / scale)
    nearest = distance.argmin(axis=0)[None, None]
    field = 0.7 * np.take_along_axis(away, nearest, axis=0)[0]
    field += generator.normal(0, 0.3, field.shape)
    return tuple(torch.from_numpy(a.astype(np.float32)) for a in (boundary, maps, field))


class PathIndex(NamedTuple):
    """The original's index tables for one map size: S sources, P partners of each."""

    sources: np.ndarray  # (S,) flat index of each source pixel
    partners: np.ndarray  # (P, S) flat index of the partner
    tables: tuple[np.ndarray, ...]  # by path length, ascending: (paths, points, S) flat indices


def plain_path_index(height: int, width: int, radius: int) -> PathIndex:
    """Index tables by one loop over points (irnet spec 5.1)."""
    reach = radius - 1
    flat = np.arange(height * width).reshape(height, width)
    rows, columns = height - reach, width - 2 * reach

    def at(dy: int, dx: int) -> np.ndarray:
        return flat[dy : dy + rows, reach + dx : reach + dx + columns].reshape(-1)

    ends = [(0, x) for x in range(1, radius)]
    ends += [
        (dy, dx)
        for dy, dx in product(range(1, radius), range(1 - radius, radius))
        if dx * dx + dy * dy < radius * radius
    ]
    by_length: dict[int, list[np.ndarray]] = {}
    for dy, dx in ends:
        around = product(range(dy + 1), range(min(0, dx), max(0, dx) + 1))
        path = [(y, x) for y, x in around if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
        path.sort(key=lambda point: -abs(point[0]) - abs(point[1]))
        by_length.setdefault(len(path), []).append(np.stack([at(*point) for point in path]))
    tables = tuple(np.stack(by_length[length]) for length in sorted(by_length))
    return PathIndex(at(0, 0), np.concatenate([t[:, 0] for t in tables]), tables)


def gathered_affinity(boundary: Tensor, index: list[Tensor]) -> Tensor:
    """(B, P, S): 1 - max over the gathered values of every path; boundary (B, N)."""
    parts = []
    for table in index:
        values = boundary.index_select(1, table.reshape(-1)).view(len(boundary), *table.shape)
        parts.append(1 - values.amax(dim=2))
    return torch.cat(parts, dim=1)


def dense_matrix(boundary: Tensor) -> Tensor:
    """The whole transition matrix (N, N); its columns sum to 1."""
    reach = WALK_RADIUS - 1
    height, width = boundary.shape
    padded = torch.nn.functional.pad(boundary[None], (reach, reach, 0, reach), value=1.0)[0]
    index = plain_path_index(*padded.shape, WALK_RADIUS)
    tables = [torch.from_numpy(table) for table in index.tables]
    affinity = gathered_affinity(padded.reshape(1, -1), tables)[0] ** BETA  # (P, S)
    number = torch.full(padded.shape, -1)
    number[:height, reach : reach + width] = torch.arange(height * width).view(height, width)
    number = number.reshape(-1)
    source = number[torch.from_numpy(index.sources)].expand_as(affinity)
    partner = number[torch.from_numpy(index.partners)]
    inside = (partner >= 0) & (source >= 0)
    matrix = torch.eye(height * width, dtype=boundary.dtype)
    matrix[source[inside], partner[inside]] = affinity[inside]
    matrix[partner[inside], source[inside]] = affinity[inside]
    return matrix.div_(matrix.sum(dim=0, keepdim=True))


def dense_walk(maps: Tensor, boundary: Tensor) -> Tensor:
    """The original's way: the matrix squared eight times, in float32."""
    matrix = dense_matrix(boundary)
    for _ in range(DOUBLINGS):
        matrix = matrix @ matrix
    return ((maps * (1 - boundary)).flatten(1) @ matrix).view_as(maps)


def exact_walk(maps: Tensor, boundary: Tensor) -> Tensor:
    """The same matrix applied step by step in float64, free of the squarings' rounding."""
    matrix = dense_matrix(boundary.double())
    y = (maps.double() * (1 - boundary.double())).flatten(1)
    for _ in range(2**DOUBLINGS):
        y = y @ matrix
    return y.view_as(maps)


def build_walk(height: int, width: int) -> Benchmark:
    """The random walk; its plain way beyond 47x63 by N^3 from there.

    The error is that of our result at 47x63 against the dense matrix in float64: the squarings in
    float32 are off by 2e-5 themselves.
    """
    boundary, maps, _ = scene(height, width)
    ours = partial(random_walk, maps, boundary, radius=WALK_RADIUS, beta=BETA, exp_times=DOUBLINGS)
    small_boundary, small_maps, _ = scene(*MEASURED)
    growth = (height * width / (MEASURED[0] * MEASURED[1])) ** 3

    def error(_: Tensor, result: Tensor) -> float:
        if growth != 1:
            result = random_walk(small_maps, small_boundary)
        return largest_difference(exact_walk(small_maps, small_boundary), result)

    return Benchmark(
        ours=ours,
        plain=partial(dense_walk, small_maps, small_boundary),
        error=error,
        extrapolate=None if growth == 1 else lambda seconds: seconds * growth,
        note="dense squaring" + ("" if growth == 1 else f", 47x63 times {growth:.1f} = N^3"),
    )


def _pairs(maps: Tensor, index: PathIndex) -> tuple[Tensor, Tensor]:
    """Values (..., 1, S) at the sources and (..., P, S) at the partners of maps (..., h, w)."""
    flat = maps.flatten(-2)
    return flat[..., torch.from_numpy(index.sources)].unsqueeze(-2), flat[
        ..., torch.from_numpy(index.partners)
    ]


def plain_losses(
    logits: Tensor, field: Tensor, labels: Tensor, index: PathIndex, offsets: Tensor
) -> Tensor:
    """IRNet spec 5.4 with every pair of the batch in memory, by autograd."""
    tables = [torch.from_numpy(table) for table in index.tables]
    affinity = gathered_affinity(logits.sigmoid().flatten(1), tables)
    one, two = _pairs(labels, index)
    known = (one != 255) & (two != 255)
    background = ((one == two) & (one == 0) & known).float()
    foreground = ((one == two) & (one > 0) & known).float()
    different = ((one != two) & known).float()
    here, there = _pairs(field, index)
    error = (here - there - offsets.t()[None, :, :, None]).abs().sum(1)
    length = (here - there).abs().sum(1)
    positive, negative = -(affinity + 1e-5).log(), -(1 + 1e-5 - affinity).log()

    def mean(values: Tensor, mask: Tensor, channels: int = 1) -> Tensor:
        return (values * mask).sum() / (channels * mask.sum() + 1e-5)

    return (
        mean(positive, background) / 4
        + mean(positive, foreground) / 4
        + mean(negative, different) / 2
        + mean(error, foreground, 2) / 2
        + mean(length, background, 2) / 2
    )


def with_gradients(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, field: Tensor
) -> list[Tensor]:
    """Loss and its two gradients."""
    logits, field = logits.clone().requires_grad_(), field.clone().requires_grad_()
    value = loss(logits, field)
    value.backward()
    return [value.detach(), logits.grad, field.grad]


def build_losses(side: int, count: int) -> Benchmark:
    """Loss terms and gradients of ``count`` crops."""
    boundary, _, field = scene(side, side)
    logits = torch.stack([boundary.clamp(0.01, 0.99).logit().roll(i, -1) for i in range(count)])
    fields = torch.stack([field] * count)
    blocks = torch.from_numpy(np.random.default_rng(1).choice([0, 0, 1, 2, 255], (count, 8, 8)))
    labels = blocks.repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)
    index = plain_path_index(side, side, TRAIN_RADIUS)
    steps = index.partners[:, 0] - index.sources[0]
    middle = (steps + side // 2) // side
    offsets = torch.from_numpy(np.stack([middle, steps - middle * side], axis=1)).float()
    kinds = labels.to(torch.uint8)
    assert pair_labels(kinds, radius=TRAIN_RADIUS).any()
    return Benchmark(
        ours=lambda: with_gradients(
            lambda a, b: sum(relation_losses(a[:, None], b, kinds, radius=TRAIN_RADIUS).values()),
            logits,
            fields,
        ),
        plain=lambda: with_gradients(
            lambda a, b: plain_losses(a, b, labels, index, offsets), logits, fields
        ),
        error=largest_difference,
        note="forward and backward, index tables (made beforehand) and autograd",
    )


def plain_refinement(field: np.ndarray) -> np.ndarray:
    """All 300 steps of all pixels (irnet spec 6.2)."""
    height, width = field.shape[1:]
    y, x = (grid.astype(np.float32) for grid in np.mgrid[:height, :width])
    for _ in range(300):
        top, left = np.floor(y).astype(int), np.floor(x).astype(int)
        down, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        fy, fx = y - top.astype(np.float32), x - left.astype(np.float32)
        upper = field[:, top, left] * (1 - fx) + field[:, top, right] * fx
        lower = field[:, down, left] * (1 - fx) + field[:, down, right] * fx
        step = upper * (1 - fy) + lower * fy
        y, x = np.clip(y + step[0], 0, height - 1), np.clip(x + step[1], 0, width - 1)
    return np.stack([np.round(y), np.round(x)]).astype(np.int64)


def build_refinement(height: int, width: int) -> Benchmark:
    """Centroids of one map."""
    field = scene(height, width)[2]
    return Benchmark(
        ours=partial(refine_centroids, field),
        plain=lambda: plain_refinement(field.numpy()),
        error=largest_difference,
        note="NumPy, 300 full steps",
    )


register("random_walk/47x63", partial(build_walk, 47, 63))
register("random_walk/94x125", partial(build_walk, 94, 125))
register("relation_loss/128x128x2", partial(build_losses, 128, 2))
register("refine_centroids/94x125", partial(build_refinement, 94, 125))
