"""Instance filling: x spreads to its neighbours, T times, with weights that vary over the image.

Spec 3, steps 3 and 4. One iteration is a product with a sparse matrix per channel (k k entries per
row). T of them, and their gradient, are computed here without unfolding x and, in the forward pass,
without keeping the maps between the iterations.

P peaks, B images, C channels, k x k window, q a position in it (row-major), h x w grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsis.layers.precision import at_least_float32

# Bytes of the weights and maps of one chunk of channels: on a CPU they should stay in its cache (of
# 1, 2, 4, 8 and 128 MiB, 8 was the fastest, by 1.6 and 1.2 times); a GPU is faster in large steps.
_CPU_CHUNK, _GPU_CHUNK = 8 << 20, 256 << 20
# Bytes of the maps between the iterations that the backward pass holds at once. Large steps are
# faster on a GPU here too: 8 peaks of 16 channels at 112 x 112, 112 times, take 0.7 GiB.
_CPU_STATES, _GPU_STATES = 32 << 20, 1 << 30
# Bytes of the sums of the weights' gradient: as many peaks are summed at once as fit.
_CPU_SUMS, _GPU_SUMS = 512 << 10, 256 << 20


def filling_weights(features: Tensor, kernel_size: int) -> Tensor:
    """Filling weights, which sum to 1 over the window (step 3).

    ``features`` are (B, C k k, h, w), not negative; channel c k k + q belongs to c and q. The
    weights are (B, C, k k, h, w), at least float32. Where a window's features sum to 0, so do its
    weights.

    Raises:
        ValueError: an even k, or a number of channels that k k does not divide.
    """
    if kernel_size % 2 == 0 or features.ndim != 4 or features.shape[1] % kernel_size**2:
        raise ValueError(
            f"features must be (B, C k k, h, w) for an odd window k, not {tuple(features.shape)} "
            f"for {kernel_size}"
        )
    weights = at_least_float32(features).unflatten(1, (-1, kernel_size**2))
    total = weights.sum(dim=2, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total)


def fill(maps: Tensor, weights: Tensor, image_index: Tensor, *, num_iterations: int) -> Tensor:
    """T times x(c, i, j) <- sum over q of w(c, q, i, j) x(c, neighbour q of (i, j)) (step 4).

    ``maps`` are (P, C, h, w), ``weights`` (B, C, k k, h, w) come from `filling_weights`,
    ``image_index`` (P,) is the image of each peak, integers in 0..B-1 in any order. The result is
    (P, C, h, w). Neighbours outside the grid count as 0.

    Differentiable, once, in ``maps`` and ``weights``. The backward pass repeats the iterations for
    a few channels at a time, so that it needs at most 32 MiB (1 GiB on a GPU) more, or the maps of
    one peak and channel if these are larger.

    Raises:
        ValueError: shapes that do not fit, or an index out of range.
    """
    index = image_index.to(device="cpu", dtype=torch.int64)
    side = isqrt(weights.shape[2])
    fits = side % 2 == 1 and side**2 == weights.shape[2] and num_iterations >= 0
    fits &= maps.shape[1:] == weights.shape[1:2] + weights.shape[3:] and maps.ndim == 4
    fits &= index.shape == maps.shape[:1] and set(index.tolist()) <= {*range(len(weights))}
    if not fits:
        raise ValueError(
            f"maps {tuple(maps.shape)}, weights {tuple(weights.shape)} for an odd window, T "
            f"{num_iterations} and image_index {index.tolist()} do not fit together"
        )
    kind = torch.promote_types(maps.dtype, weights.dtype)  # at least: hundreds of roundings
    kind = torch.promote_types(kind, torch.float32)
    return _Fill.apply(maps.to(kind), weights.to(kind), index, num_iterations)


class _Grid:
    """Planes laid out on a line, so that a neighbour is a fixed number of cells away.

    Each row of w cells is followed by ``reach`` empty ones and each plane by ``reach`` empty rows;
    ``margin`` cells lie before and behind the planes of a chunk. Weights are 0 on all of these, so
    empty cells of maps stay 0, and it does not matter what gradients hold there.
    """

    def __init__(self, height: int, width: int, kernel_size: int) -> None:
        self.height, self.width, self.kernel_size = height, width, kernel_size
        self.reach = kernel_size // 2
        self.pitch = width + self.reach
        self.margin = self.reach * (self.pitch + 1)

    def laid(self, planes: Tensor) -> Tensor:
        """Planes (rows, planes, h, w) as lines, with zeros around and between them."""
        cells = planes.shape[1] * (self.height + self.reach) * self.pitch
        buffer = planes.new_zeros((len(planes), cells + 2 * self.margin))
        self.maps(buffer).copy_(planes)
        return buffer

    def cells(self, buffer: Tensor) -> Tensor:
        """The part of lines that holds planes."""
        return buffer[..., self.margin : buffer.shape[-1] - self.margin]

    def maps(self, buffer: Tensor) -> Tensor:
        """View (..., planes, h, w) of lines."""
        return self.planes(self.cells(buffer))

    def planes(self, cells: Tensor) -> Tensor:
        """View (..., planes, h, w) of lines without margins."""
        planes = cells.unflatten(-1, (-1, self.height + self.reach, self.pitch))
        return planes[..., : self.height, : self.width]

    def shifted(self, buffer: Tensor) -> list[Tensor]:
        """Views as long as `cells`: for every position of the window, row-major, its neighbours."""
        return [view for row in self.windows(buffer) for view in row]

    def windows(self, buffer: Tensor) -> Tensor:
        """View (k, k, rows, cells) of lines (rows, cells and margins): all of `shifted` at once."""
        length = buffer.shape[-1] - 2 * self.margin
        size = (self.kernel_size, self.kernel_size, len(buffer), length)
        return buffer.as_strided(
            size, (self.pitch, 1, buffer.stride(0), 1), buffer.storage_offset()
        )


def _chunks(
    maps: Tensor, weights: Tensor, index: Tensor, state_planes: int
) -> Iterator[tuple[int, Tensor, slice]]:
    """(image, its peaks, channels) of pieces whose maps and weights fit into the cache.

    ``state_planes`` is the number of planes of each peak and channel held beside them (at most
    ``_CPU_STATES`` bytes in all; peaks are split where one channel takes more).
    """
    limit, states = (_GPU_CHUNK, _GPU_STATES) if maps.is_cuda else (_CPU_CHUNK, _CPU_STATES)
    plane = maps.shape[2] * maps.shape[3] * maps.element_size()
    for image in index.unique().tolist():
        peaks = (index == image).nonzero().flatten()
        most = max(1, states // (max(state_planes, 1) * plane))
        for part in peaks.split(most):
            fitting = limit // ((weights.shape[2] + 2 * len(part)) * plane)
            width = max(1, min(fitting, most // len(part) if state_planes else fitting))
            for start in range(0, maps.shape[1], width):
                yield image, part, slice(start, start + width)


def _gather_step(result: Tensor, shifted: list[Tensor], weights: Tensor) -> None:
    """``result`` = the sum over the window of weight times neighbour."""
    torch.mul(weights[0], shifted[0], out=result)
    for position in range(1, len(shifted)):
        result.addcmul_(weights[position], shifted[position])


def _scatter_step(result: list[Tensor], source: Tensor, weights: Tensor) -> None:
    """The transposed product: every cell sends weight times ``source`` to its neighbours."""
    centre = len(result) // 2
    torch.mul(weights[centre], source, out=result[centre])
    for position, target in enumerate(result):
        if position != centre:
            target.addcmul_(weights[position], source)


def _rewind(
    grid: _Grid, start: Tensor, now: Tensor, kernel: Tensor, states: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The gradient before the iterations (P, channels, h, w) and that of the weights.

    ``start`` are the maps of a chunk before the iterations, ``now`` is the gradient after them, as
    lines. ``states`` is room for the maps before each step; without it the gradient of the weights
    (channels, k k, h, w) is 0.
    """
    states[:1] = start
    for before, after in zip(states, states[1:], strict=False):
        _gather_step(grid.cells(after), grid.shifted(before), kernel)
    then = torch.zeros_like(now)
    count, cells = grid.cells(now).shape
    limit = _GPU_SUMS if now.is_cuda else _CPU_SUMS
    together = limit // (grid.kernel_size**2 * cells * now.element_size())
    together = max(1, min(together, count))
    sums = now.new_zeros((grid.kernel_size, grid.kernel_size, together, cells))
    turns = [(grid.cells(a), grid.shifted(b)) for a, b in ((now, then), (then, now))]
    for turn, step in enumerate(reversed(range(steps))):
        above, targets = turns[turn % 2]
        if len(states):
            below = grid.windows(states[step]).split(together, dim=2)
            for part, window in zip(above.split(together), below, strict=True):
                sums[:, :, : len(part)].addcmul_(part, window)
        _scatter_step(targets, above, kernel)
    now = then if steps % 2 else now
    return grid.maps(now), grid.planes(sums.sum(dim=2).flatten(0, 1)).transpose(0, 1)


class _Fill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weights: Tensor, index: Tensor, steps: int) -> Tensor:
        ctx.save_for_backward(maps, weights, index)
        ctx.steps = steps
        grid = _Grid(*maps.shape[2:], isqrt(weights.shape[2]))
        result = torch.empty_like(maps, memory_format=torch.contiguous_format)
        for image, peaks, channels in _chunks(maps, weights, index, 0):
            kernel = grid.cells(grid.laid(weights[image, channels].transpose(0, 1)))
            now = grid.laid(maps[peaks, channels])
            then = torch.zeros_like(now)
            # Two buffers take turns; their views are made once.
            turns = [(grid.cells(b), grid.shifted(a)) for a, b in ((now, then), (then, now))]
            for step in range(steps):
                _gather_step(*turns[step % 2], kernel)
            result[peaks, channels] = grid.maps(then if steps % 2 else now)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weights, index = ctx.saved_tensors
        grid = _Grid(*maps.shape[2:], isqrt(weights.shape[2]))
        steps = ctx.steps if ctx.needs_input_grad[1] else 0
        to_maps = torch.empty_like(maps, memory_format=torch.contiguous_format)
        to_weights = torch.zeros_like(weights, memory_format=torch.contiguous_format)
        states = maps.new_zeros(0)
        for image, peaks, channels in _chunks(maps, weights, index, steps):
            kernel = grid.cells(grid.laid(weights[image, channels].transpose(0, 1)))
            start, end = grid.laid(maps[peaks, channels]), grid.laid(gradient[peaks, channels])
            if states.shape[1:] != start.shape:  # new memory costs half as much as all the rest
                states = start.new_zeros((steps, *start.shape))
            own, shared = _rewind(grid, start, end, kernel, states, ctx.steps)
            to_maps[peaks, channels] = own
            to_weights[image, channels] += shared
        return to_maps, to_weights if ctx.needs_input_grad[1] else None, None, None
