"""Random walk on a boundary map as a sparse operator, never a dense matrix.

IRNet (Ahn, Cho, Kwak, CVPR 2019), section 4.3; spec 6.4. K maps on an h x w grid, N = h w.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsis.methods.irnet.affinity import pair_offsets, path_maxima

# Weights below this are left out: products of tiny weights would become subnormal numbers, on which
# a CPU is many times slower. A row sums to at least 1 (its diagonal), so 256 steps change by less
# than 256 * 69 * 1e-12 of the largest value.
_SMALLEST_WEIGHT = 1e-12
# Largest error of the polynomial that stands for the power, relative to the largest map value.
_TOLERANCE = 1e-6
_MAPS_AT_ONCE = 64
_NUMBERS_AT_ONCE = 1 << 20  # float64; fewer maps are walked at once where they are so large


def walk_weights(boundary: Tensor, *, radius: int = 5, beta: float = 10.0) -> Tensor:
    """Affinity to the power ``beta`` of every pair inside the map.

    ``boundary`` is (h, w) float in [0, 1]. The result (P, h, w), in the order of `pair_offsets`, is
    the weight between a pixel and its partner, 0 where the partner lies outside. A larger ``beta``
    (above 0) keeps the walk further from boundaries.
    """
    if beta <= 0:
        raise ValueError(f"beta is {beta}; it must be above 0")
    reach = radius - 1
    padded = functional.pad(boundary[None], (reach, reach, 0, reach), value=1.0)
    maxima, _ = path_maxima(padded, radius=radius)
    return (1 - maxima[:, 0]).clamp_(min=0).pow_(beta)


def _transition_rows(weights: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """CSR arrays (row starts, columns, values) of T = A / row sums, and the largest row sum."""
    count, height, width = weights.shape
    offsets = pair_offsets(radius)
    order = np.lexsort((offsets[:, 1], offsets[:, 0]))
    size = height * width
    # Columns of one row ascend: partners above (mirrored offsets), the pixel, partners below.
    rows = weights.new_zeros((height, width, 2 * count + 1))
    steps = np.zeros(2 * count + 1, dtype=np.int64)
    rows[..., count] = 1
    for place, pair in enumerate(order, start=1):
        dy, dx = (int(step) for step in offsets[pair])
        rows[..., count + place] = weights[pair]
        left, right = max(0, dx), width + min(0, dx)
        if dy < height and left < right:
            mirrored = weights[pair, : height - dy, left - dx : right - dx]
            rows[dy:, left:right, count - place] = mirrored
        steps[count + place], steps[count - place] = dy * width + dx, -(dy * width + dx)
    rows = rows.reshape(size, -1)
    kept = rows > _SMALLEST_WEIGHT
    place = kept.flatten().nonzero()[:, 0]
    rows = rows * kept
    sums = rows.sum(dim=1, keepdim=True)
    values = (rows / sums).flatten()[place]
    steps = torch.from_numpy(steps).to(weights.device, torch.int32)
    base = torch.arange(size, device=weights.device, dtype=torch.int32)[:, None]
    columns = (base + steps).flatten()[place]
    starts = functional.pad(kept.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32)
    return starts, columns, values, float(sums.max())


def _operator(starts: Tensor, columns: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    """``y -> T y`` for y (N, K)."""
    size = (len(starts) - 1, len(starts) - 1)
    if starts.is_cuda or torch.backends.mkl.is_available():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse")
            matrix = torch.sparse_csr_tensor(
                starts, columns, values, size=size, check_invariants=False
            )
        return lambda y: matrix @ y
    from scipy.sparse import csr_matrix

    rows = csr_matrix((values.numpy(), columns.numpy(), starts.numpy()), shape=size)
    return lambda y: torch.from_numpy(rows @ y.numpy())


def chebyshev_coefficients(power: int, *, tolerance: float) -> np.ndarray:
    """Coefficients of ``x**power`` in Chebyshev polynomials, as few as the tolerance allows.

    ``x**n = sum_k c_k T_k(x)`` over the k that are even if n is, odd if n is; c_k = 2^(1-n)
    binom(n, (n-k)/2), halved for k = 0. All c_k are positive and |T_k| <= 1 on [-1, 1], so the
    error is at most the sum of the terms left out. A degree of about sqrt(2 n ln(2 / tolerance)) is
    enough (Sachdeva and Vishnoi, "Faster algorithms via approximation theory", 2014, theorem 3.3).

    Returns:
        (degree + 1,) float64; the coefficients of the other k are 0.
    """
    coefficients = np.zeros(power + 1)
    for k in range(power % 2, power + 1, 2):
        low, high = (power - k) // 2, (power + k) // 2
        log = math.lgamma(power + 1) - math.lgamma(low + 1) - math.lgamma(high + 1)
        coefficients[k] = math.exp(log - (power - 1) * math.log(2))
    if power % 2 == 0:
        coefficients[0] /= 2
    cut = np.cumsum(coefficients[::-1])[::-1]  # cut[k]: error of stopping before term k
    keep = np.flatnonzero(cut > tolerance)
    return coefficients[: keep[-1] + 1] if len(keep) else coefficients[:1]


def _power(apply: Callable[[Tensor], Tensor], y: Tensor, power: int, tolerance: float) -> Tensor:
    """``T^power y``; T's eigenvalues lie in [-1, 1]."""
    coefficients = chebyshev_coefficients(power, tolerance=tolerance)
    if len(coefficients) > power:
        for _ in range(power):
            y = apply(y)
        return y
    before, now = y, apply(y)
    total = coefficients[0] * before
    for k in range(1, len(coefficients)):
        if k > 1:
            before, now = now, apply(now).mul_(2).sub_(before)
        if coefficients[k]:
            total.add_(now, alpha=float(coefficients[k]))
    return total


@torch.no_grad()
def random_walk(
    maps: Tensor,
    boundary: Tensor,
    *,
    radius: int = 5,
    beta: float = 10.0,
    exp_times: int = 8,
    out: Tensor | None = None,
) -> Tensor:
    """Spread maps within boundaries by ``2**exp_times`` steps of a random walk.

    Spec 6.4: ``T^(2^exp_times) (map * (1 - boundary))``, where row i of T holds the affinities of
    pixel i to the power ``beta`` (see `walk_weights`), divided by their sum. The power is taken as
    a Chebyshev series: about 96 products for 256 steps on a 94 x 125 grid, error under 1e-6 of the
    largest value. It is computed in float64: 256 averages in float32 are off by 2e-4, and the
    series in float32 takes 0.6 of the time, but is off by 3e-5, where 1e-5 is allowed. Maps are
    walked some at a time, so memory beside input and output does not grow with their number:
    about 50 MB for 94 x 125 with radius 5.

    ``maps`` are (K, h, w), ``boundary`` is (h, w) float in [0, 1]. The result goes to ``out``,
    which may be ``maps`` itself; None allocates it. Each map stays between the lowest and the
    highest value that it starts with.

    Raises:
        ValueError: the grids of ``maps`` and ``boundary`` differ.
    """
    if maps.ndim != 3 or boundary.shape != maps.shape[1:]:
        raise ValueError(
            f"expected maps (K, h, w) and a boundary (h, w) of the same grid, "
            f"got {tuple(maps.shape)} and {tuple(boundary.shape)}"
        )
    if exp_times < 0:
        raise ValueError(f"exp_times must not be negative, got {exp_times}")
    if maps.numel() == 0:
        return maps.clone() if out is None else out
    boundary = boundary.double()
    *rows, largest = _transition_rows(walk_weights(boundary, radius=radius, beta=beta), radius)
    apply = _operator(*rows)
    # T is similar to a symmetric matrix by the square root of the row sums, which lie in
    # [1, largest]: a polynomial's error on [-1, 1] grows at most by this factor per element.
    tolerance = _TOLERANCE / math.sqrt(largest * boundary.numel())
    out = torch.empty_like(maps) if out is None else out
    at_once = min(_MAPS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // boundary.numel()))
    for given, found in zip(maps.split(at_once), out.split(at_once), strict=True):
        start = (given.double() * (1 - boundary)).flatten(1).t().contiguous()  # (N, K)
        walked = _power(apply, start, 2**exp_times, tolerance)
        walked = torch.minimum(torch.maximum(walked, start.amin(0)), start.amax(0))
        found.copy_(walked.t().reshape(given.shape))
    return out
