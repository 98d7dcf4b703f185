"""Gradients inside windows, and the operations backwards that peak back-propagation needs.

P peaks; a map is C x H x W, a peak's window of it C x A x B, at (top, left). Outside its window a
peak's gradient is 0. All windows of a value have one size, each its own place.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsis.layers.precision import map_layout

Size = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """Gradients of P peaks at one map.

    Attributes:
        data: (P, C, A, B).
        corners: P times (top, left); a window may reach over the map's border, where its values
            mean nothing.
        step: rows and columns from one cell of ``data`` to the next; zeros lie between.
    """

    data: Tensor
    corners: Sequence[Size]
    step: Size = (1, 1)

    def span(self, axis: int) -> int:
        """Rows (axis 0) or columns (1) from the first to the last, both included."""
        return (self.data.shape[2 + axis] - 1) * self.step[axis] + 1


@dataclass(frozen=True)
class Term:
    """What a gradient is multiplied by before it is added up.

    Attributes:
        register: where the gradient is.
        factor: broadcasts to (N, C, H, W), of the gradients' dtype; None is 1.
        sign: 1 or -1.
    """

    register: int
    factor: Tensor | None = None
    sign: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether it is the gradient itself."""
        return self.factor is None and self.sign == 1.0


def gather(
    parts: Sequence[tuple[Windows, Term]],
    size: Size,
    images: Sequence[int],
    *,
    whole: bool = False,
    reusable: Container[int] = (),
) -> Windows:
    """The sum of gradients times factors, in windows that lie inside the map.

    Args:
        parts: at least one.
        size: (H, W) of the map.
        images: P indices of images, for the factors.
        whole: make the windows as large as the map.
        reusable: registers that nobody reads afterwards; the sum may be made in place of one.
    """
    first, term = parts[0]
    if len(parts) == 1 and term.plain and not whole and _inside(first, size):
        return first
    # the largest fills the target, those with gaps are added
    parts = sorted(parts, key=lambda part: (part[0].step, -part[0].data.shape[2]))
    count, channels = first.data.shape[:2]
    extents, starts = [], []
    for axis, length in enumerate(size):
        low = [min(w.corners[p][axis] for w, _ in parts) for p in range(count)]
        high = [max(w.corners[p][axis] + w.span(axis) for w, _ in parts) for p in range(count)]
        kept = [min(b, length) - max(a, 0) for a, b in zip(low, high, strict=True)]
        extent = length if whole else max(1, *kept)
        extents.append(extent)
        starts.append([min(max(a, 0), length - extent) for a in low])
    corners = list(zip(*starts, strict=True))
    largest, term = parts[0]
    own = term.register in reusable and largest.step == (1, 1) and term.sign == 1.0
    if own and tuple(largest.data.shape[2:]) == tuple(extents) and [*largest.corners] == corners:
        target = largest.data
    else:
        target = _empty_like(first.data, (count, channels, *extents))
    for p in range(count):
        _gather_one_(target[p], corners[p], parts, p, images[p])
    return Windows(target, corners)


def _empty_like(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    layout = map_layout(data.device)
    return torch.empty(shape, dtype=data.dtype, device=data.device, memory_format=layout)


def _inside(windows: Windows, size: Size) -> bool:
    extents = windows.data.shape[2:]
    return windows.step == (1, 1) and all(
        start >= 0 and start + extent <= length
        for corner in windows.corners
        for start, extent, length in zip(corner, extents, size, strict=True)
    )


def _gather_one_(
    target: Tensor, corner: Size, parts: Sequence[tuple[Windows, Term]], peak: int, image: int
) -> None:
    """Fill one peak's window (C, A, B)."""
    fresh = True
    for windows, term in parts:
        into, whence, where = [], [], []
        for axis in (0, 1):
            own, step = windows.corners[peak][axis], windows.step[axis]
            first = max(0, -((own - corner[axis]) // step))  # the first cell inside the target
            start = own + first * step
            end = corner[axis] + target.shape[1 + axis]
            cells = min(windows.data.shape[2 + axis] - first, -((start - end) // step))
            stop = start + max(cells, 0) * step
            into.append(slice(start - corner[axis], max(stop - corner[axis], 0), step))
            whence.append(slice(first, first + max(cells, 0)))
            where.append(slice(start, stop, step))
        part = target[:, into[0], into[1]]
        source = windows.data[peak][:, whence[0], whence[1]]
        factor = None if term.factor is None else _cut(term.factor, image, where)
        covers = part.shape == target.shape
        if fresh and not covers:
            target.zero_()
        _add_(part, source, factor, term.sign, overwrite=fresh and covers)
        fresh = False


def _cut(factor: Tensor, image: int, where: Sequence[slice]) -> Tensor:
    """An image's window of a factor, whose extents may be 1."""
    part = factor[image if factor.shape[0] > 1 else 0]
    if part.shape[1] > 1:
        part = part[:, where[0]]
    return part[:, :, where[1]] if part.shape[2] > 1 else part


def _add_(
    part: Tensor, source: Tensor, factor: Tensor | None, sign: float, *, overwrite: bool
) -> None:
    if overwrite and sign == 1.0:
        if factor is None:
            part.copy_(source)  # does nothing where they are the same
        else:
            torch.mul(source, factor, out=part)
        return
    if overwrite:
        part.zero_()
    if factor is None:
        part.add_(source, alpha=sign)
    else:
        part.addcmul_(source, factor, value=sign)


@dataclass
class TransposedConvolution:
    """Gradient of a convolution with other weights (Co, Ci / groups, kh, kw).

    Attributes:
        weight: the weights.
        size: (H, W) of the convolution's input.
        output_size: (h, w) of its output.
        stride: of the convolution, as the following.
        padding: zeros at each side.
        dilation: spacing of the kernel.
        groups: of channels.
    """

    weight: Tensor
    size: Size
    output_size: Size
    stride: Size
    padding: Size
    dilation: Size
    groups: int

    @cached_property
    def flipped(self) -> Tensor:
        """Weights (Ci, Co / groups, kh, kw) of the convolution that is the gradient at stride 1."""
        out, per_group, *kernel = self.weight.shape
        grouped = self.weight.reshape(self.groups, out // self.groups, per_group, *kernel)
        flipped = grouped.transpose(1, 2).flip(-1, -2).reshape(-1, out // self.groups, *kernel)
        return flipped.contiguous(memory_format=map_layout(self.weight.device))

    @cached_property
    def laid_out(self) -> Tensor:
        """The weights as maps lie in memory."""
        return self.weight.contiguous(memory_format=map_layout(self.weight.device))

    @cached_property
    def phases(self) -> Tensor | None:
        """Weights of a dense convolution whose channels are the phases of a strided one.

        Row s q + r of the result takes the weights s u + r: with the phases r as channels that is
        one convolution of stride 1 and `torch.nn.functional.pixel_shuffle`. It pays where few
        weights have to be padded (3 times faster for 7x7, stride 2), not for 3x3, stride 2.
        """
        step, kernel = self.stride[0], tuple(self.weight.shape[2:])
        square = self.stride == (step, step) and kernel[0] == kernel[1]
        if step == 1 or not square or self.groups > 1 or self.dilation != (1, 1):
            return None
        taps = -(-kernel[0] // step)
        if (taps * step) ** 2 > 1.4 * kernel[0] ** 2:
            return None
        lack = taps * step - kernel[0]
        padded = F.pad(self.weight, (0, lack, 0, lack))
        split = padded.view(*padded.shape[:2], taps, step, taps, step).permute(1, 3, 5, 0, 2, 4)
        return split.flip(-1, -2).reshape(-1, padded.shape[0], taps, taps).contiguous()

    def __call__(self, windows: Windows, images: Sequence[int]) -> Windows:
        """Windows of the output to those of the input; the margin over the border may remain."""
        pointwise = tuple(self.weight.shape[2:]) == (1, 1)
        dense = pointwise or self.phases is not None
        crops, extra = (0, 0), (0, 0)
        if not dense:
            crops, extra = zip(*(self._crop(axis, windows.data) for axis in (0, 1)), strict=True)
        corners = [
            tuple(c * self.stride[a] - self.padding[a] + crops[a] for a, c in enumerate(corner))
            for corner in windows.corners
        ]
        if pointwise:
            return Windows(self._pointwise(windows.data), corners, self.stride)
        return Windows(self._transposed(windows.data, crops, extra), corners)

    def _pointwise(self, data: Tensor) -> Tensor:
        if self.groups > 1:
            return F.conv2d(data, self.flipped, groups=self.groups)
        made = F.linear(data.permute(0, 2, 3, 1), self.flipped.flatten(1))
        # on a CPU it lies so already; convolutions on a GPU take the layout of what they are given
        return made.permute(0, 3, 1, 2).contiguous(memory_format=map_layout(data.device))

    def _crop(self, axis: int, data: Tensor) -> Size:
        """Cells to leave out at both borders, to add at the end: where windows are whole maps."""
        cells, pad = data.shape[2 + axis], self.padding[axis]
        if cells != self.output_size[axis]:
            return 0, 0
        grown = (cells - 1) * self.stride[axis] + self._reach(axis) + 1
        lack = self.size[axis] - (grown - 2 * pad)
        fits = 0 <= lack < max(self.stride[axis], self.dilation[axis])
        return (pad, lack) if fits else (0, 0)

    def _reach(self, axis: int) -> int:
        return self.dilation[axis] * (self.weight.shape[2 + axis] - 1)

    def _transposed(self, data: Tensor, crops: Size, extra: Size) -> Tensor:
        if self.phases is not None:
            made = F.conv2d(data, self.phases, padding=self.phases.shape[2] - 1)
            return F.pixel_shuffle(made, self.stride[0])
        border = [self._reach(axis) - crops[axis] for axis in (0, 1)]
        if self.stride == (1, 1) and not any(extra) and min(border) >= 0:
            return F.conv2d(
                data, self.flipped, padding=border, dilation=self.dilation, groups=self.groups
            )
        return F.conv_transpose2d(
            data,
            self.laid_out,
            stride=self.stride,
            padding=crops,
            output_padding=extra,
            groups=self.groups,
            dilation=self.dilation,
        )


@dataclass
class Unpool:
    """Max pooling backwards: each cell's gradient goes to the pixel that it was taken from.

    Attributes:
        indices: (N, C, h, w) int64, y W + x of that pixel.
        size: (H, W) of the pooled map.
        stride: of the pooling, as the following.
        padding: at each side.
        extent: of the window that a cell looks at.
        places: (N, h, w, C) int64, where that pixel and channel lie in rows of pixels of C
            channels that have ``padding`` pixels before them and the last window's reach behind.
        row: pixels of such a row.
    """

    indices: InitVar[Tensor]
    size: Size
    stride: Size
    padding: Size
    extent: Size
    places: Tensor = field(init=False)
    row: int = field(init=False)

    def __post_init__(self, indices: Tensor) -> None:
        channels, _, width = indices.shape[1:]
        reach = (width - 1) * self.stride[1] + self.extent[1]
        self.row = max(reach, self.padding[1] + self.size[1])
        y = indices.div(self.size[1], rounding_mode="floor")
        pixels = indices + y * (self.row - self.size[1]) + self.padding[1]
        pixels = pixels.permute(0, 2, 3, 1).contiguous()
        self.places = pixels * channels + torch.arange(channels, device=pixels.device)

    def __call__(self, windows: Windows, images: Sequence[int]) -> Windows:
        """Windows of the pooled map to those of the map before; they must lie inside."""
        data = windows.data.permute(0, 2, 3, 1)
        count, height, width, channels = data.shape
        rows = (height - 1) * self.stride[0] + self.extent[0]
        columns = (width - 1) * self.stride[1] + self.extent[1]
        result = data.new_zeros((count, rows * self.row * channels))
        # Cells this far apart share no pixel; taken together with no others, sums have one order
        # on a GPU too.
        apart = [-(-e // s) for e, s in zip(self.extent, self.stride, strict=True)]
        parts = [
            (slice(y, None, apart[0]), slice(x, None, apart[1])) for y, x in np.ndindex(*apart)
        ]
        made, corners = [], []
        for p, (top, left) in enumerate(windows.corners):
            y0, x0 = top * self.stride[0] - self.padding[0], left * self.stride[1]
            places = self.places[images[p], top : top + height, left : left + width]
            places = places - y0 * self.row * channels
            for part in parts:
                result[p].scatter_add_(0, places[part].flatten(), data[p][part].flatten())
            made.append(result[p].view(rows, self.row, channels)[:, x0 : x0 + columns])
            corners.append((y0, x0 - self.padding[1]))
        whole = made[0][None] if count == 1 else torch.stack(made)
        return Windows(whole.permute(0, 3, 1, 2), corners)


@dataclass(frozen=True)
class Resample:
    """A linear operation on each image by itself: its own gradient, over the whole map.

    Attributes:
        function: called as ``function(map, *arguments)``.
        arguments: see there.
        shape: (N, C, H, W) of its input.
        output_size: (h, w) of its output.
    """

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    output_size: Size

    def __call__(self, windows: Windows, images: Sequence[int]) -> Windows:
        """Windows of the output to whole maps of the input."""
        whole = gather([(windows, Term(0))], self.output_size, images, whole=True).data
        with torch.inference_mode(False), torch.enable_grad():
            given = torch.zeros(
                (len(whole), *self.shape[1:]), dtype=whole.dtype, device=whole.device
            ).requires_grad_()
            made = self.function(given, *self.arguments)
            if made.shape != whole.shape:
                raise ValueError(f"peaks cannot pass {self.function}, which mixes images")
            (gradient,) = torch.autograd.grad(made, given, whole.clone())
        return Windows(gradient, [(0, 0)] * len(whole))


@dataclass(frozen=True)
class Channels:
    """Concatenation backwards: some of the channels.

    Attributes:
        kept: which.
    """

    kept: slice

    def __call__(self, windows: Windows, images: Sequence[int]) -> Windows:
        """The windows of those channels."""
        return Windows(windows.data[:, self.kept], windows.corners)
