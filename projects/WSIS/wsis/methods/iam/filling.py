"""Instance filling: x spreads to its neighbours, T times, with weights that vary over the image.

IAM spec 3, steps 3 and 4. One iteration is a product with a sparse matrix per
channel (k k entries per row); T of them, and their gradient, are computed here without unfolding x
and, in the forward pass, without keeping what lies between.

P peaks, B images, C channels, k x k window, q a position in it (row-major), h x w grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsis.layers.precision import at_least_float32

# Bytes of the weights and maps of one chunk of channels: on a CPU they shall stay in its cache (of
# 1, 2, 4, 8 and 128 MiB, 8 was the fastest, by 1.6 and 1.2 times), a GPU wants large steps.
_CPU_CHUNK, _GPU_CHUNK = 8 << 20, 256 << 20
# Bytes of the maps between the iterations that the backward pass holds at once. A GPU wants few and
# large steps here too: 8 peaks of 16 channels at 112 x 112, 112 times, take 0.7 GiB.
_CPU_STATES, _GPU_STATES = 32 << 20, 1 << 30
# Bytes of the sums of the weights' gradient: as many peaks are summed at once as fit.
_CPU_SUMS, _GPU_SUMS = 512 << 10, 256 << 20


def filling_weights(features: Tensor, kernel_size: int) -> Tensor:
    """Features to filling weights that sum to 1 over the window (step 3).

    Of features (B, C k k, h, w), not negative, channel c k k + q, to (B, C, k k, h, w), float32 at
    least; where a window's features sum to 0 its weights are 0.

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

    Neighbours outside the grid count as 0. Differentiable, once, in ``maps`` and ``weights``. The
    backward pass repeats the iterations a few channels at a time; its memory does not grow with
    their number beyond 32 MiB (1 GiB on a GPU) or the maps of one peak and channel.

    Of maps (P, C, h, w) and weights (B, C, k k, h, w) of `filling_weights`, of one float type, and
    the image of each peak (P,), integers in 0..B-1, in any order, to (P, C, h, w).

    Raises:
        ValueError: shapes that do not fit, or an index out of range.
    """
    index = image_index.to(device=maps.device, dtype=torch.int64)
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


@dataclass(frozen=True)
class _Grid:
    """Planes laid out on a line, so that a neighbour is a fixed number of cells away.

    Each row of w cells is followed by ``reach`` empty ones and each plane by ``reach`` empty rows;
    ``margin`` cells lie before and behind the planes of a chunk. Weights are 0 on all of these,
    which keeps the empty cells of maps 0 and makes whatever gradients hold there harmless.
    """

    height: int
    width: int
    kernel_size: int

    @property
    def reach(self) -> int:
        return self.kernel_size // 2

    @property
    def pitch(self) -> int:
        return self.width + self.reach

    @property
    def plane(self) -> int:
        return (self.height + self.reach) * self.pitch

    @property
    def margin(self) -> int:
        return self.reach * (self.pitch + 1)

    def buffer(self, like: Tensor, rows: int, planes: int) -> Tensor:
        """Zeros for ``rows`` lines of ``planes`` planes each."""
        return like.new_zeros((rows, planes * self.plane + 2 * self.margin))

    def laid(self, planes: Tensor) -> Tensor:
        """Planes (rows, planes, h, w) as lines, with zeros around and between them."""
        buffer = self.buffer(planes, *planes.shape[:2])
        self.maps(buffer).copy_(planes)
        return buffer

    def cells(self, buffer: Tensor) -> Tensor:
        """The part of lines that holds planes."""
        return buffer[..., self.margin : buffer.shape[-1] - self.margin]

    def maps(self, buffer: Tensor) -> Tensor:
        """View (..., planes, h, w) of lines."""
        planes = self.cells(buffer).unflatten(-1, (-1, self.height + self.reach, self.pitch))
        return planes[..., : self.height, : self.width]

    def shifted(self, buffer: Tensor) -> list[Tensor]:
        """Views as long as `cells`: what lies under every position of the window, row-major."""
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
        tapes: dict[tuple[int, ...], _Tape] = {}
        for image, peaks, channels in _chunks(maps, weights, index, steps):
            kernel = grid.cells(grid.laid(weights[image, channels].transpose(0, 1)))
            start, above = maps[peaks, channels], gradient[peaks, channels]
            if start.shape not in tapes:
                tapes = {start.shape: _Tape(grid, start, steps)}
            tape = tapes[start.shape]
            if steps:
                tape.record(start, kernel)
            to_maps[peaks, channels] = tape.rewind(above, kernel, ctx.steps)
            if steps:
                rows = tape.sums.unflatten(-1, (-1, grid.height + grid.reach, grid.pitch))
                rows = rows[..., : grid.height, : grid.width]
                to_weights[image, channels] += rows.transpose(0, 1)
        return to_maps, to_weights if ctx.needs_input_grad[1] else None, None, None


class _Tape:
    """Space for the backward pass of one chunk, and all views of it, to be used again.

    Args:
        grid: the layout.
        like: (P, planes, h, w), the chunk's maps.
        steps: number of states to record; 0 where the weights need no gradient.
    """

    def __init__(self, grid: _Grid, like: Tensor, steps: int) -> None:
        self.grid = grid
        peaks, planes = like.shape[:2]
        line = grid.buffer(like, peaks, planes)
        self.turns = (line, torch.zeros_like(line))
        self.above = [grid.cells(turn) for turn in self.turns]
        self.targets = [grid.shifted(turn) for turn in self.turns]
        self.states = line.new_zeros((steps, *line.shape))
        self.cells = [grid.cells(state) for state in self.states]
        self.neighbours = [grid.shifted(state) for state in self.states]
        limit = _GPU_SUMS if like.is_cuda else _CPU_SUMS
        cells = self.above[0].shape[1]
        together = limit // (grid.kernel_size**2 * cells * like.element_size())
        together = max(1, min(together, peaks))
        self.totals = line.new_zeros((grid.kernel_size, grid.kernel_size, together, cells))
        self.parts = [above.split(together) for above in self.above]
        self.windows = [grid.windows(state).split(together, dim=2) for state in self.states]
        self.rooms = [self.totals[:, :, : len(part)] for part in self.parts[0]]

    @property
    def sums(self) -> Tensor:
        """(k k, cells): the gradient of the weights."""
        return self.totals.sum(dim=2).flatten(0, 1)

    def record(self, start: Tensor, kernel: Tensor) -> None:
        """Keep the maps before every iteration."""
        self.grid.maps(self.states[0]).copy_(start)
        for cells, neighbours in zip(self.cells[1:], self.neighbours, strict=False):
            _gather_step(cells, neighbours, kernel)
        self.totals.zero_()

    def rewind(self, gradient: Tensor, kernel: Tensor, steps: int) -> Tensor:
        """From the gradient after the iterations to that before; the weights' is in ``sums``."""
        self.turns[0].zero_()  # of what an earlier chunk left on empty cells
        self.grid.maps(self.turns[0]).copy_(gradient)
        for turn, step in enumerate(reversed(range(steps))):
            now = turn % 2
            if self.windows:
                for room, part, below in zip(
                    self.rooms, self.parts[now], self.windows[step], strict=True
                ):
                    room.addcmul_(part, below)
            _scatter_step(self.targets[1 - now], self.above[now], kernel)
        return self.grid.maps(self.turns[steps % 2])
