"""Takes peaks back to the image along the graph that autograd records (`methods/prm.md` 5).

Every convolution hands on the rule's gradient; all else keeps its own, as its node of the graph
computes it. N images, P peaks of one of them, maps C x H x W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsis.layers.precision import map_layout

SMALLEST_NORMALISER = 1e-10
_BELOW_SMALLEST = float(np.nextafter(np.float32(SMALLEST_NORMALISER), np.float32(0)))
PHASES = True
OFFSETS = ("image", "batch")
# What autograd calls them. The gradient of the first is multiplied cell by cell ...
CELLWISE = {"Relu", "Hardtanh", "Clamp", "ClampMin", "LeakyRelu", "Mul", "Div"}
NORMS = {"NativeBatchNorm", "CudnnBatchNorm"}
CELLWISE |= NORMS
SUMS = {"Add", "Sub", "Clone", "Alias"}
# ... and these move it about, each image by itself.
RESAMPLING = {"AvgPool2D", "AdaptiveAvgPool2D", "UpsampleBilinear2D", "UpsampleNearest2D"}
RESAMPLING |= {"ConstantPadNd", "Slice"}
Node = Any
Size = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Gradients of P peaks at a map: 0 outside a window, the same for all.

    Attributes:
        data: (P, C, A, B).
        corner: (top, left); may lie outside the map, where values mean nothing.
        step: rows and columns from one cell of ``data`` to the next; zeros lie between.
    """

    data: Tensor
    corner: Size
    step: Size = (1, 1)

    def end(self, axis: int) -> int:
        """The row (axis 0) or column (1) after the last."""
        return self.corner[axis] + (self.data.shape[2 + axis] - 1) * self.step[axis] + 1


@dataclass
class _Term:
    """The window of a step, still to be multiplied by a factor (broadcasts to N x C x H x W)."""

    step: int
    factor: Tensor | None = None


@dataclass
class _Step:
    """Adds up terms on a map of a size, then does something to the sum."""

    terms: list[_Term]
    shape: tuple[int, ...]
    operation: Callable[[Window, int], Window] | None = None
    done_with: list[int] = field(default_factory=list)


def name_of(node: Node) -> str:
    """"MaxPool2DWithIndices" for MaxPool2DWithIndicesBackward0."""
    return node.name().split("Backward")[0]


def _walk(last: Node, image: Tensor) -> Iterator[tuple[Node, list[int]]]:
    """Nodes between a map and the image, last first, and which of their arguments lead there."""
    graph: dict[Node, list[Node]] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node not in graph:
            graph[node] = [parent for parent, _ in node.next_functions if parent is not None]
            waiting += graph[node]
    leading: dict[Node, list[int]] = {}
    for node in TopologicalSorter(graph).static_order():
        own = [i for i, (parent, _) in enumerate(node.next_functions) if parent in leading]
        if own or getattr(node, "variable", None) is image:
            leading[node] = own
    return reversed(leading.items())


class PeakProgram:
    """Gradients of any number of peaks at the images of a recorded pass.

    Args:
        output: (N, C, h, w), what a network made of ``images``, with its graph.
        images: (N, Ci, H, W), the leaf of the graph.
        offset: a convolution's input is shifted to be non-negative by its minimum over each image
            ("image": the same result for an image alone and in a batch), or over the batch.

    Raises:
        ValueError: peaks would have to pass an operation without a rule, named in the message.
    """

    def __init__(self, output: Tensor, images: Tensor, *, offset: str = "image") -> None:
        if offset not in OFFSETS:
            raise ValueError(f"offset {offset!r}: use one of {OFFSETS}")
        self._dims = (1, 2, 3) if offset == "image" else (0, 1, 2, 3)
        self._zero = output.detach().new_zeros(())
        self._steps: list[_Step] = []
        nodes = [] if output.grad_fn is None else list(_walk(output.grad_fn, images))
        if not nodes:
            raise ValueError("the class maps do not depend on the images: peaks lead nowhere")
        self._shapes = {nodes[0][0]: tuple(output.shape)}
        self._terms = {nodes[0][0]: [_Term(0)]}
        self._emit(self._terms[nodes[0][0]], self._shapes[nodes[0][0]])  # the seeds
        with torch.no_grad():
            for node, leading in nodes:
                self._compile(node, leading)
        last_use = {term.step: step for step in self._steps[1:] for term in step.terms}
        for index, step in last_use.items():
            step.done_with.append(index)

    def run(self, seeds: Window, image: int) -> Tensor:
        """Back-propagate gradients of the output, all at once.

        Args:
            seeds: gradients of P peaks at the output, in a window inside it.
            image: which they are of.

        Returns:
            (P, Ci, H, W) gradients at the image.
        """
        made = {0: seeds}
        for index, step in enumerate(self._steps[1:], 1):
            parts = [(made[term.step], term.factor) for term in step.terms]
            whole = index == len(self._steps) - 1
            window = _add_up(parts, step.shape, image, whole=whole)
            made[index] = step.operation(window, image) if step.operation else window
            for old in step.done_with:
                del made[old]
        return made[len(self._steps) - 1].data

    @property
    def values_per_peak(self) -> int:
        """Numbers that one peak's gradients hold at a time at the most, about."""
        return 4 * max(step.shape[1] * step.shape[2] * step.shape[3] for step in self._steps)

    def _emit(
        self, terms: list[_Term], shape: tuple[int, ...], operation: Any = None
    ) -> list[_Term]:
        self._steps.append(_Step(terms, shape, operation))
        return [_Term(len(self._steps) - 1)]

    def _give(self, node: Node, place: int, terms: list[_Term], shape: tuple[int, ...]) -> None:
        parent, output = node.next_functions[place]
        if output != 0 or len(shape) != 4:
            _refuse(name_of(parent))
        if self._shapes.setdefault(parent, shape) != shape:
            _refuse(name_of(parent))
        self._terms.setdefault(parent, []).extend(terms)

    def _compile(self, node: Node, leading: list[int]) -> None:
        terms, shape, name = self._terms.pop(node), self._shapes.pop(node), name_of(node)
        if not leading:
            self._emit(terms, shape)
        elif name == "Convolution":
            self._convolution(node, leading, terms, shape)
        elif name in CELLWISE:
            self._cellwise(node, leading, terms, shape)
        elif name in SUMS:
            self._sum(node, leading, terms, shape)
        elif name == "Cat":
            self._cat(node, leading, terms, shape)
        elif name == "MaxPool2DWithIndices" or name in RESAMPLING:
            back = partial(_whole, node, shape)
            made = _pull(node, self._zero.expand(shape))
            self._give(node, 0, self._emit(terms, shape, back), tuple(made[0].shape))
        else:
            _refuse(name)

    def _cellwise(
        self, node: Node, leading: list[int], terms: list[_Term], shape: tuple[int, ...]
    ) -> None:
        name = name_of(node)
        if getattr(node, "_saved_training", False):
            _refuse("batch norm in training mode; call .eval() first")
        if len(leading) > 1 or name == "Div" and leading != [0]:
            _refuse("product of two maps (a gate)" if name == "Mul" else f"{name} by a map")
        for term in terms:
            made = self._through(node, name, leading[0], term.factor, shape)
            self._give(node, leading[0], [_Term(term.step, made)], shape)

    def _through(self, node, name, place, factor, shape):
        if name in NORMS:
            epsilon = getattr(node, "_saved_eps", None) or node._saved_epsilon
            own = torch.rsqrt(node._saved_running_var + epsilon)
            own = own if node._saved_weight is None else own * node._saved_weight
            own = own[None, :, None, None]
            return own if factor is None else own * factor
        whole = torch.empty(shape, dtype=self._zero.dtype, device=self._zero.device, memory_format=map_layout(self._zero.device))
        whole = whole.fill_(1) if factor is None else whole.copy_(factor) if factor.shape != whole.shape else factor
        return _pull(node, whole)[place]

    def _sum(
        self, node: Node, leading: list[int], terms: list[_Term], shape: tuple[int, ...]
    ) -> None:
        made = _pull(node, (self._zero + 1).expand(shape))
        if any(tuple(made[place].shape) != shape for place in leading):
            _refuse("sum of maps of different shapes")
        if len(leading) > 1 and (len(terms) > 1 or terms[0].factor is not None):
            terms = self._emit(terms, shape)
        for place in leading:
            weight = float(made[place][0, 0, 0, 0])
            own = [_Term(t.step, _times(t.factor, weight)) for t in terms]
            self._give(node, place, own, shape)

    def _cat(
        self, node: Node, leading: list[int], terms: list[_Term], shape: tuple[int, ...]
    ) -> None:
        numbers = torch.arange(shape[1], device=self._zero.device, dtype=self._zero.dtype)
        made = _pull(node, numbers[None, :, None, None].expand(shape))
        terms = self._emit(terms, shape)
        for place in leading:
            own = tuple(made[place].shape)
            if (own[0], *own[2:]) != (shape[0], *shape[2:]):
                _refuse("concatenation of other than channels")
            first = int(made[place][0, 0, 0, 0])
            part = partial(_channels, slice(first, first + own[1]))
            self._give(node, place, self._emit(terms, shape, part), own)

    def _convolution(
        self, node: Node, leading: list[int], terms: list[_Term], shape: tuple[int, ...]
    ) -> None:
        if leading != [0]:
            _refuse("convolution of weights that depend on the image")
        image = node._saved_input
        if node._saved_transposed or image.dim() != 4:
            _refuse("transposed or not two-dimensional convolution")
        weight = node._saved_weight.clamp(min=0)
        geometry = {
            key: tuple(getattr(node, f"_saved_{key}")) for key in ("stride", "padding", "dilation")
        }
        geometry["groups"] = node._saved_groups
        offset = image.amin(dim=self._dims, keepdim=True)
        shifted = image - offset if bool(offset.any()) else image
        normaliser = F.conv2d(shifted, weight, **geometry)
        share = F.threshold_(normaliser, _BELOW_SMALLEST, torch.inf).add_(1e-10).reciprocal_()
        terms = [_Term(t.step, share if t.factor is None else share * t.factor) for t in terms]
        back = _Transposed(weight, **geometry)
        spread = self._emit(terms, shape, back)
        own = tuple(image.shape)
        self._give(node, 0, [_Term(spread[0].step, shifted)], own)


def _refuse(what: str) -> None:
    raise ValueError(
        f"peaks cannot be traced back through {what}: peak back-propagation serves convolutional "
        "networks with ReLU and batch norm in evaluation mode; use such a backbone"
    )


def _times(factor: Tensor | None, weight: float) -> Tensor | None:
    if weight == 1:
        return factor
    return torch.full((1, 1, 1, 1), weight) if factor is None else factor * weight


def _pull(node: Node, gradient: Tensor) -> tuple[Tensor, ...]:
    """What a node of the graph makes of a gradient, for each of its arguments."""
    made = node(gradient)
    return made if isinstance(made, tuple) else (made,)


def _add_up(
    parts: list[tuple[Window, Tensor | None]],
    shape: tuple[int, ...],
    image: int,
    *,
    whole: bool = False,
) -> Window:
    """The sum of windows times factors, in a window that lies inside the map."""
    low, high = [0, 0], list(shape[2:])
    if not whole:
        for axis, length in enumerate(shape[2:]):
            low[axis] = min(max(0, min(w.corner[axis] for w, _ in parts)), length - 1)
            end = min(length, max(w.end(axis) for w, _ in parts))
            high[axis] = max(end, low[axis] + 1)
    extent = (high[0] - low[0], high[1] - low[1])
    first = parts[0][0].data
    total = None
    for window, factor in parts:
        whence, into, where = _overlaps(window, low, high)
        data = window.data[:, :, whence[0], whence[1]]
        if factor is not None:
            factor = factor[image if len(factor) > 1 else 0]
            if factor.shape[1] > 1 or factor.shape[2] > 1:
                factor = factor[:, where[0], where[1]]
        if total is None and tuple(data.shape[2:]) == extent and window.step == (1, 1):
            total = data if factor is None else data * factor
            fresh = factor is not None
            continue
        if total is None:
            size = (*first.shape[:2], *extent)
            total = _zeros(size, first)
            fresh = True
        elif not fresh:
            total = total.clone()
            fresh = True
        part = total[:, :, into[0], into[1]]
        part.add_(data) if factor is None else part.addcmul_(data, factor)
    return Window(total, (low[0], low[1]))


def _overlaps(window: Window, low: list[int], high: list[int]) -> Any:
    found = []
    for axis in (0, 1):
        start, step, cells = window.corner[axis], window.step[axis], window.data.shape[2 + axis]
        first = max(0, -((start - low[axis]) // step))
        count = max(0, min(cells, (high[axis] - 1 - start) // step + 1) - first)
        begin = start + first * step
        into = begin - low[axis]
        found.append(
            (
                slice(first, first + count),
                slice(into, into + count * step, step) if count else slice(0, 0),
                slice(begin, begin + count * step, step) if count else slice(0, 0),
            )
        )
    return list(zip(*found, strict=True))


def _channels(kept: slice, window: Window, image: int) -> Window:
    return Window(window.data[:, kept], window.corner)


def _whole(node: Node, shape: tuple[int, ...], window: Window, image: int) -> Window:
    """Any other operation, over whole maps, a peak at a time."""
    whole = _add_up([(window, None)], shape, image, whole=True).data
    result = []
    for one in whole:
        given = _zeros(shape, whole)
        given[image] = one
        result.append(_pull(node, given)[0][image : image + 1])
    return Window(torch.cat(result) if len(result) > 1 else result[0], (0, 0))


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    layout = map_layout(like.device)
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=layout
    ).zero_()


class _Transposed:
    def __init__(self, weight, stride, padding, dilation, groups):
        self.weight, self.stride, self.padding = weight, stride, padding
        self.dilation, self.groups = dilation, groups
        out, per_group, *kernel = weight.shape
        layout = map_layout(weight.device)
        grouped = weight.reshape(groups, out // groups, per_group, *kernel)
        flipped = grouped.transpose(1, 2).flip(-1, -2).reshape(-1, out // groups, *kernel)
        self.flipped = flipped.contiguous(memory_format=layout)
        self.phases = None
        step, size = stride[0], kernel[0]
        if step > 1 and stride == (step, step) and kernel == [size, size] and groups == 1 and dilation == (1, 1):
            taps = -(-size // step)
            lack = taps * step - size
            if PHASES and (taps * step) ** 2 <= 1.4 * size**2:
                split = F.pad(weight, (0, lack, 0, lack)).view(*weight.shape[:2], taps, step, taps, step)
                split = split.permute(1, 3, 5, 0, 2, 4).flip(-1, -2)
                self.phases = split.reshape(-1, out, taps, taps).contiguous()
        self.laid = weight.contiguous(memory_format=layout)

    def __call__(self, window: Window, image: int) -> Window:
        corner = tuple(
            c * s - p for c, s, p in zip(window.corner, self.stride, self.padding, strict=True)
        )
        if tuple(self.weight.shape[2:]) == (1, 1) and self.groups == 1:
            made = F.linear(window.data.permute(0, 2, 3, 1), self.flipped.flatten(1))
            return Window(made.permute(0, 3, 1, 2), corner, self.stride)
        if self.stride == (1, 1):
            reach = [d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:])]
            made = F.conv2d(window.data, self.flipped, padding=reach, dilation=self.dilation, groups=self.groups)
            return Window(made, corner)
        if self.phases is not None:
            made = F.conv2d(window.data, self.phases, padding=self.phases.shape[2] - 1)
            return Window(F.pixel_shuffle(made, self.stride[0]), corner)
        made = F.conv_transpose2d(window.data, self.laid, stride=self.stride, dilation=self.dilation, groups=self.groups)
        return Window(made, corner)
