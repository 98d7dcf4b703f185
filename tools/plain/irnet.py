"""IRNet's kernels as the original computes them: dense squaring, index tables, full loops.

The walk is also there as SciPy's sparse products, what a good engineer would write first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from wsis.methods.irnet.affinity import pair_offsets, search_paths
from wsis.methods.irnet.displacement import refine_centroids
from wsis.methods.irnet.losses import relation_losses
from wsis.methods.irnet.random_walk import random_walk

from plain import Benchmark, difference

RADIUS = 10  # of pairs in training
MEASURED = (47, 63)  # largest grid on which the dense walk is run
PathIndex = tuple[np.ndarray, np.ndarray, list[np.ndarray]]


def scene(height: int, width: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Boundary (h, w), maps (24, h, w) and displacement (2, h, w) of eight round objects."""
    generator, side = np.random.default_rng(0), min(height, width)
    centres = generator.random((8, 2)) * (height, width)
    away = centres[:, :, None, None] - np.mgrid[:height, :width]
    distance = np.hypot(away[:, 0], away[:, 1])
    rims = np.exp(-np.abs(distance - generator.uniform(0.1, 0.25, (8, 1, 1)) * side))
    boundary = np.maximum(generator.random((height, width)) * 0.3, rims.max(axis=0) * 0.98)
    maps = np.exp(-np.tile(distance, (3, 1, 1)) / generator.uniform(0.1, 0.4, (24, 1, 1)) / side)
    nearest = np.take_along_axis(away, distance.argmin(axis=0)[None, None], axis=0)[0]
    field = 0.7 * nearest + generator.normal(0, 0.3, nearest.shape)
    arrays = (a.astype(np.float32) for a in (boundary, maps, field))
    return tuple(torch.from_numpy(a).to(device) for a in arrays)


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


def dense_walk(
    maps: Tensor, boundary: Tensor, *, radius: int = 5, beta: float = 10, exp_times: int = 8
) -> Tensor:
    """Maps (M, h, w) after 2 ** ``exp_times`` steps: the matrix squared, in the maps' precision."""
    matrix = torch.from_numpy(dense_matrix(boundary.numpy(), radius=radius, beta=beta)).to(maps)
    for _ in range(exp_times):
        matrix = matrix @ matrix
    return ((maps * (1 - boundary)).flatten(1) @ matrix).view_as(maps)


def sparse_walk(
    maps: Tensor, boundary: Tensor, *, radius: int = 5, beta: float = 10, exp_times: int = 8
) -> Tensor:
    """`dense_walk` as 2 ** ``exp_times`` products with a SciPy CSR matrix, in the same precision.

    Weights below 1e-12 are left out: subnormal numbers would slow the products down.
    """
    values, (height, width) = boundary.numpy(), boundary.shape
    number = np.arange(boundary.numel()).reshape(height, width)
    upper = sparse.coo_matrix((boundary.numel(), boundary.numel()), dtype=values.dtype)
    for path in search_paths(radius):
        dy, dx = (int(step) for step in path[0])
        own = np.s_[: max(0, height - dy), max(0, -dx) : max(0, width - max(0, dx))]
        y, x = np.divmod(number[own], width)
        weight = (1 - np.max([values[y + a, x + b] for a, b in path], axis=0)) ** beta
        kept = weight > 1e-12
        place = (number[own][kept], (number[own] + dy * width + dx)[kept])
        upper = upper + sparse.coo_matrix((weight[kept], place), shape=upper.shape)
    matrix = sparse.csr_matrix(upper + upper.T + sparse.identity(len(number.flat), values.dtype))
    matrix = sparse.diags(1 / np.asarray(matrix.sum(axis=1)).ravel()) @ matrix
    state = (maps * (1 - boundary)).flatten(1).numpy().T
    for _ in range(2**exp_times):
        state = matrix @ state
    return torch.from_numpy(state.T).reshape(maps.shape)


def build_sparse_walk(height: int, width: int) -> Benchmark:
    """The random walk against SciPy's."""
    boundary, maps, _ = scene(height, width)
    return Benchmark(
        ours=partial(random_walk, maps, boundary),
        plain=partial(sparse_walk, maps, boundary),
        error=difference,
        note="256 products of SciPy's CSR in float32",
    )


def build_walk(height: int, width: int, device: str = "cpu") -> Benchmark:
    """The random walk; beyond 47x63 the plain time is scaled by N^3 and the error left out."""
    boundary, maps, _ = scene(height, width, device)
    small_boundary, small_maps, _ = scene(*MEASURED)
    growth = (height * width / (MEASURED[0] * MEASURED[1])) ** 3
    return Benchmark(
        ours=partial(random_walk, maps, boundary),
        plain=partial(dense_walk, small_maps, small_boundary) if device == "cpu" else None,
        error=difference if growth == 1 else None,
        scale=growth,
        note="dense squaring" + ("" if growth == 1 else f", 47x63 times {growth:.1f} = N^3"),
    )


def path_index(size: tuple[int, int], *, radius: int) -> PathIndex:
    """Index tables of a map of ``size`` (h, w) (irnet spec 5.1); 223 MB for 128 x 128.

    Returns:
        flat indices of the source pixels (S,), of their partners (P, S), and of the points on the
        paths between them: by path length, ascending, (paths, points, S).
    """
    (height, width), reach = size, radius - 1
    flat = np.arange(height * width).reshape(height, width)
    sources = flat[: max(0, height - reach), reach : width - reach].reshape(-1)
    paths = [path @ (width, 1) for path in search_paths(radius)]  # as steps in a flat index
    lengths = sorted({len(path) for path in paths})
    offsets = [np.stack([path for path in paths if len(path) == length]) for length in lengths]
    tables = [steps[..., None] + sources for steps in offsets]
    return sources, np.concatenate([table[:, 0] for table in tables]), tables


def plain_losses(
    logits: Tensor, field: Tensor, labels: Tensor, *, radius: int, index: PathIndex
) -> dict[str, Tensor]:
    """irnet spec 5.4 with every pair of the batch in memory, by autograd.

    Args:
        logits: (B, 1, h, w) of the boundary.
        field: (B, 2, h, w) displacement.
        labels: (B, h, w), 255 for unknown.
        radius: of the search paths.
        index: their `path_index` for maps of this size.
    """
    boundary, (sources, partners, tables) = logits.sigmoid().flatten(1), index
    affinity = torch.cat([1 - boundary[:, table].amax(dim=2) for table in tables], dim=1)
    one, two = labels.flatten(1)[:, None, sources], labels.flatten(1)[:, partners]
    known, same = (one != 255) & (two != 255), one == two
    background, foreground = known & same & (one == 0), known & same & (one > 0)
    step = field.flatten(2)[:, :, None, sources] - field.flatten(2)[:, :, partners]
    error = (step - torch.from_numpy(pair_offsets(radius)).to(field).t()[None, ..., None]).abs()
    positive, negative = -(affinity + 1e-5).log(), -(1 + 1e-5 - affinity).log()

    def mean(values: Tensor, mask: Tensor, channels: int = 1) -> Tensor:
        return (values * mask).sum() / (channels * mask.sum() + 1e-5)

    return {
        "loss_affinity_background": mean(positive, background) / 4,
        "loss_affinity_foreground": mean(positive, foreground) / 4,
        "loss_affinity_different": mean(negative, known & ~same) / 2,
        "loss_displacement_foreground": mean(error.sum(1), foreground, 2) / 2,
        "loss_displacement_background": mean(step.abs().sum(1), background, 2) / 2,
    }


def with_gradients(losses: Callable[..., dict[str, Tensor]], *inputs: Tensor) -> list[Tensor]:
    """Sum of the losses and its gradients to two maps."""
    inputs = [values.clone().requires_grad_() for values in inputs]
    value = sum(losses(*inputs).values())
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def build_losses(side: int, count: int, device: str = "cpu") -> Benchmark:
    """Loss terms and gradients of ``count`` crops."""
    boundary, _, field = scene(side, side, device)
    logits = torch.stack([boundary.clamp(0.01, 0.99).logit().roll(i, -1) for i in range(count)])
    inputs = logits[:, None], torch.stack([field] * count)
    blocks = torch.from_numpy(np.random.default_rng(1).choice([0, 0, 1, 2, 255], (count, 8, 8)))
    labels = blocks.repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)
    options = {"labels": labels.to(device, torch.uint8), "radius": RADIUS}
    index = path_index((side, side), radius=RADIUS)
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


def build_refinement(height: int, width: int, device: str = "cpu") -> Benchmark:
    """Centroids of one map."""
    field = scene(height, width, device)[2]
    return Benchmark(
        ours=partial(refine_centroids, field),
        plain=lambda: plain_refinement(field.cpu().numpy(), steps=300),
        error=difference,
        note="NumPy, 300 full steps",
    )


BENCHMARKS = {
    "random_walk/47x63": partial(build_walk, 47, 63),
    "random_walk/94x125": partial(build_walk, 94, 125),
    "random_walk/94x125/scipy": partial(build_sparse_walk, 94, 125),
    "relation_loss/128x128x2": partial(build_losses, 128, 2),
    "refine_centroids/94x125": partial(build_refinement, 94, 125),
}
