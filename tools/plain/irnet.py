"""IRNet's kernels as the original computes them: dense squaring, index tables, full loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from wsis.methods.irnet.affinity import pair_offsets, search_paths
from wsis.methods.irnet.displacement import refine_centroids
from wsis.methods.irnet.losses import relation_losses
from wsis.methods.irnet.random_walk import random_walk

from plain import Benchmark, difference, register

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
    """The tables by one loop over points (irnet spec 5.1)."""
    by_length: dict[int, list[list[tuple[int, int]]]] = {}
    for dy, dx in itertools.product(range(radius), range(1 - radius, radius)):
        if dy * dy + dx * dx >= radius * radius or (dy == 0 and dx <= 0):
            continue
        points = itertools.product(range(dy + 1), range(min(0, dx), max(0, dx) + 1))
        path = [(y, x) for y, x in points if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
        path.sort(key=lambda point: -abs(point[0]) - abs(point[1]))
        by_length.setdefault(len(path), []).append(path)
    reach = radius - 1
    flat = np.arange(height * width).reshape(height, width)
    rows, columns = height - reach, width - 2 * reach

    def moved(y: int, x: int) -> np.ndarray:
        return flat[y : y + rows, reach + x : reach + x + columns].reshape(-1)

    tables = tuple(
        np.stack([np.stack([moved(*point) for point in path]) for path in paths])
        for _, paths in sorted(by_length.items())
    )
    return PathIndex(moved(0, 0), np.concatenate([table[:, 0] for table in tables]), tables)


def dense_matrix(boundary: np.ndarray, *, radius: int, beta: float) -> np.ndarray:
    """The whole transition matrix (N, N) float64 of a boundary map (irnet spec 6.1), pair by pair.

    Its columns sum to 1.
    """
    height, width = boundary.shape
    matrix = np.eye(height * width)
    for path in search_paths(radius):
        dy, dx = path[0]
        for y, x in np.ndindex(height, width):
            if y + dy < height and 0 <= x + dx < width:
                value = (1 - max(boundary[y + a, x + b] for a, b in path)) ** beta
                i, j = y * width + x, (y + dy) * width + x + dx
                matrix[i, j] = matrix[j, i] = value
    return matrix / matrix.sum(axis=0)


def dense_walk(maps: Tensor, boundary: Tensor) -> Tensor:
    """The original's way: the matrix squared eight times, in float32."""
    matrix = dense_matrix(boundary.numpy(), radius=WALK_RADIUS, beta=BETA)
    matrix = torch.from_numpy(matrix).float()
    for _ in range(DOUBLINGS):
        matrix = matrix @ matrix
    return ((maps * (1 - boundary)).flatten(1) @ matrix).view_as(maps)


def exact_walk(
    maps: np.ndarray, boundary: np.ndarray, *, radius: int, beta: float, steps: int
) -> np.ndarray:
    """The matrix applied step by step in float64, free of the squarings' rounding."""
    matrix = dense_matrix(boundary, radius=radius, beta=beta)
    y = (maps * (1 - boundary)).reshape(len(maps), -1).astype(np.float64)
    for _ in range(steps):
        y = y @ matrix
    return y.reshape(maps.shape)


def build_walk(height: int, width: int) -> Benchmark:
    """The random walk; its plain way beyond 47x63 by N^3 from there.

    The error is that of our result at 47x63 against the dense matrix in float64: the squarings in
    float32 are off by 2e-5 themselves.
    """
    boundary, maps, _ = scene(height, width)
    walk = partial(random_walk, radius=WALK_RADIUS, beta=BETA, exp_times=DOUBLINGS)
    small_boundary, small_maps, _ = scene(*MEASURED)
    growth = (height * width / (MEASURED[0] * MEASURED[1])) ** 3

    def error(_: Tensor, result: Tensor) -> float:
        if growth != 1:
            result = walk(small_maps, small_boundary)
        small = small_maps.numpy(), small_boundary.numpy()
        exact = exact_walk(*small, radius=WALK_RADIUS, beta=BETA, steps=2**DOUBLINGS)
        return difference(exact, result)

    return Benchmark(
        ours=partial(walk, maps, boundary),
        plain=partial(dense_walk, small_maps, small_boundary),
        error=error,
        extrapolate=None if growth == 1 else lambda seconds: seconds * growth,
        note="dense squaring" + ("" if growth == 1 else f", 47x63 times {growth:.1f} = N^3"),
    )


def plain_losses(
    logits: Tensor, field: Tensor, labels: Tensor, *, radius: int, index: PathIndex
) -> dict[str, Tensor]:
    """IRNet spec 5.4 with every pair of the batch in memory, by autograd.

    Args:
        logits: (B, 1, h, w) of the boundary.
        field: (B, 2, h, w) displacement.
        labels: (B, h, w), 255 for unknown.
        radius: of the search paths.
        index: their tables for maps of this size.
    """
    boundary, parts = logits.sigmoid().flatten(1), []
    for table in index.tables:
        values = boundary[:, torch.from_numpy(table).reshape(-1)].view(-1, *table.shape)
        parts.append(1 - values.amax(dim=2))
    affinity = torch.cat(parts, dim=1)
    sources, partners = torch.from_numpy(index.sources), torch.from_numpy(index.partners)
    one, two = labels.flatten(1)[:, None, sources], labels.flatten(1)[:, partners]
    known = (one != 255) & (two != 255)
    background, foreground = known & (one == two) & (one == 0), known & (one == two) & (one > 0)
    step = field.flatten(2)[:, :, None, sources] - field.flatten(2)[:, :, partners]
    offsets = torch.from_numpy(pair_offsets(radius)).to(field)
    error = (step - offsets.t()[None, :, :, None]).abs().sum(1)
    positive, negative = -(affinity + 1e-5).log(), -(1 + 1e-5 - affinity).log()

    def mean(values: Tensor, mask: Tensor, channels: int = 1) -> Tensor:
        return (values * mask).sum() / (channels * mask.sum() + 1e-5)

    return {
        "loss_affinity_background": mean(positive, background) / 4,
        "loss_affinity_foreground": mean(positive, foreground) / 4,
        "loss_affinity_different": mean(negative, known & (one != two)) / 2,
        "loss_displacement_foreground": mean(error, foreground, 2) / 2,
        "loss_displacement_background": mean(step.abs().sum(1), background, 2) / 2,
    }


def with_gradients(losses: Callable[..., dict[str, Tensor]], *inputs: Tensor) -> list[Tensor]:
    """Sum of the losses and its gradients to two maps."""
    inputs = [values.clone().requires_grad_() for values in inputs]
    value = sum(losses(*inputs).values())
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def build_losses(side: int, count: int) -> Benchmark:
    """Loss terms and gradients of ``count`` crops."""
    boundary, _, field = scene(side, side)
    logits = torch.stack([boundary.clamp(0.01, 0.99).logit().roll(i, -1) for i in range(count)])
    inputs = logits[:, None], torch.stack([field] * count)
    blocks = torch.from_numpy(np.random.default_rng(1).choice([0, 0, 1, 2, 255], (count, 8, 8)))
    labels = blocks.repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)
    options = {"labels": labels.to(torch.uint8), "radius": TRAIN_RADIUS}
    index = plain_path_index(side, side, TRAIN_RADIUS)
    return Benchmark(
        ours=partial(with_gradients, partial(relation_losses, **options), *inputs),
        plain=partial(with_gradients, partial(plain_losses, index=index, **options), *inputs),
        error=difference,
        note="forward and backward, index tables (made beforehand) and autograd",
    )


def plain_refinement(field: np.ndarray, *, steps: int) -> np.ndarray:
    """All steps of all pixels (irnet spec 6.2); float32 field (2, h, w) to int64 of that shape."""
    height, width = field.shape[1:]
    y, x = (grid.astype(np.float32) for grid in np.mgrid[:height, :width])
    for _ in range(steps):
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
        plain=lambda: plain_refinement(field.numpy(), steps=300),
        error=difference,
        note="NumPy, 300 full steps",
    )


register("random_walk/47x63", partial(build_walk, 47, 63))
register("random_walk/94x125", partial(build_walk, 94, 125))
register("relation_loss/128x128x2", partial(build_losses, 128, 2))
register("refine_centroids/94x125", partial(build_refinement, 94, 125))
