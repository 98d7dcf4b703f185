"""Takes peaks back to the image along the graph that autograd records (prm spec 5).

Every convolution shares out the score of a cell among its inputs in proportion to x' W+ (x' the
input less its minimum, W+ the positive weights); all else keeps its gradient, which its own node of
the graph computes. N images, P peaks of one of them, maps C x H x W.

Autograd alone would also do, but at 20 peaks it is not twice as fast as the original. Four things
make this code faster; each was measured alone (`docs/benchmarks.md`). All that multiplies a
gradient between two convolutions is one tensor of factors, made once for all peaks. A peak's
gradient is computed inside the window where it can differ from 0. A pixel's channels lie side by
side. 1x1 convolutions are matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsis.layers.precision import map_layout

SMALLEST_NORMALISER = 1e-10
_BELOW_SMALLEST = float(np.nextafter(np.float32(SMALLEST_NORMALISER), np.float32(0)))
# Names of autograd's nodes. The gradient is multiplied cell by cell, ...
NORMS = {"NativeBatchNorm", "CudnnBatchNorm"}
CELLWISE = {"Relu", "Hardtanh", "Clamp", "ClampMin", "LeakyRelu", "Mul", "Div"}
# ... handed on as it is, or with its sign changed, ...
SUMS = {"Add", "Sub", "Clone", "Alias"}
# ... or moved about, in each image by itself.
MOVES = {"MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "ConstantPadNd", "Slice", "Cat"}
MOVES |= {"UpsampleBilinear2D", "UpsampleNearest2D"}
Node = Any  # torch.autograd.graph.Node
Shape = tuple[int, ...]
# The number of the step that made a window, and a factor by which the window must still be
# multiplied: it broadcasts to (N, C, H, W), None is 1.
Term = tuple[int, Tensor | None]


@dataclass(frozen=True)
class Window:
    """Gradients of P peaks at a map; 0 outside a window, which all of them share."""

    data: Tensor  # (P, C, A, B)
    corner: Shape  # (top, left); what lies outside the map means nothing


class _Step(NamedTuple):
    """Adds up terms on a map, then does something to the sum."""

    terms: Sequence[Term]
    shape: Shape
    operation: Callable[[Window, int], Window] | None = None


class PeakProgram:
    """Gradients of any number of peaks at the images of a recorded pass.

    Args:
        output: (N, C, h, w), what a network made of ``images``, with its graph.
        images: (N, Ci, H, W), the leaf of that graph.
        over_batch: a convolution's input is made non-negative by subtracting its minimum. True
            takes the minimum over the batch, as the original. False takes that of each image, so
            the result for an image does not depend on the others.

    Raises:
        ValueError: peaks would have to pass an operation without a rule, named in the message.
    """

    def __init__(self, output: Tensor, images: Tensor, *, over_batch: bool = False) -> None:
        self._dims = (0, 1, 2, 3) if over_batch else (1, 2, 3)
        self._one = output.detach().new_ones(())
        nodes = [] if output.grad_fn is None else list(_walk(output.grad_fn, images))
        if not nodes:
            raise ValueError("the class maps do not depend on the images: peaks lead nowhere")
        self._steps = [_Step([], tuple(output.shape))]  # the seeds
        self._terms: dict[Node, list[Term]] = {nodes[0][0]: [(0, None)]}
        self._shapes: dict[Node, Shape] = {nodes[0][0]: tuple(output.shape)}
        with torch.no_grad():
            for node, places in nodes:
                self._compile(node, places)
        self._last_use = {t: n for n, step in enumerate(self._steps) for t, _ in step.terms}

    @property
    def values_per_peak(self) -> int:
        """An upper estimate of how many numbers in memory the gradients of one peak take."""
        return 4 * max(int(np.prod(step.shape[1:])) for step in self._steps)

    def run(self, seeds: Window, image: int) -> Tensor:
        """Gradients (P, Ci, H, W) at image number ``image``, from ``seeds`` at its output."""
        made, last = {0: seeds}, len(self._steps) - 1
        for number, step in enumerate(self._steps[1:], 1):
            parts = [(made[term], factor) for term, factor in step.terms]
            window = add_up(parts, step.shape[2:], image, whole=number == last)
            made[number] = window if step.operation is None else step.operation(window, image)
            made = {n: w for n, w in made.items() if self._last_use.get(n, n + 1) > number}
        return made[last].data

    def _compile(self, node: Node, places: list[int]) -> None:
        """Bring the gradient from a node to those of its arguments that come from the image."""
        terms, shape, name = self._terms.pop(node), self._shapes.pop(node), _name(node)
        rules = dict.fromkeys(CELLWISE | NORMS, self._scale) | dict.fromkeys(SUMS, self._sum)
        rules |= dict.fromkeys(MOVES, self._move) | {"Convolution": self._convolve}
        if not places:  # the image
            self._emit(terms, shape)
        elif name not in rules:
            _refuse(name)
        else:
            try:
                rules[name](node, places, terms, shape)
            except RuntimeError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
                _refuse(f"{name}, whose arguments are written to afterwards")

    def _emit(
        self,
        terms: Sequence[Term],
        shape: Shape,
        operation: Callable[[Window, int], Window] | None = None,
    ) -> list[Term]:
        self._steps.append(_Step(terms, shape, operation))
        return [(len(self._steps) - 1, None)]

    def _give(self, node: Node, place: int, terms: Sequence[Term], shape: Sequence[int]) -> None:
        parent, output = node.next_functions[place]
        if output != 0 or len(shape) != 4 or shape[0] != self._steps[0].shape[0]:
            _refuse(_name(parent if output else node))
        self._shapes[parent] = tuple(shape)
        self._terms.setdefault(parent, []).extend(terms)

    def _scale(self, node: Node, places: list[int], terms: Sequence[Term], shape: Shape) -> None:
        name, place = _name(node), places[0]
        if name in ("Mul", "Div") and (len(places) > 1 or name == "Div" and place):
            _refuse("product of two maps (a gate)" if name == "Mul" else "division by a map")
        layout = map_layout(self._one.device)
        for term, factor in terms:
            factor = self._one if factor is None else factor
            if name in NORMS:
                factor = factor * _norm_scale(node)
            else:
                factor = factor.expand(shape).contiguous(memory_format=layout)
                (factor,) = _pull(node, factor, place)
                if tuple(factor.shape) != shape:
                    _refuse(f"{name} of maps of different shapes")
            self._give(node, place, [(term, factor)], shape)

    def _sum(self, node: Node, places: list[int], terms: Sequence[Term], shape: Shape) -> None:
        weights = _pull(node, self._one.expand(shape), *places)
        if any(tuple(weight.shape) != shape for weight in weights):
            _refuse("sum of maps of different shapes")
        if len(places) > 1 and (len(terms) > 1 or terms[0][1] is not None):
            terms = self._emit(terms, shape)
        alpha = getattr(node, "_saved_alpha", 1)  # of the second argument
        for place in places:
            scale = 1 if place == 0 else -alpha if _name(node) == "Sub" else alpha
            own = terms
            if scale != 1:
                weight = self._one.new_full((1, 1, 1, 1), scale)
                own = [(term, _times(weight, factor)) for term, factor in terms]
            self._give(node, place, own, shape)

    def _move(self, node: Node, places: list[int], terms: Sequence[Term], shape: Shape) -> None:
        if len(places) > 1:
            terms = self._emit(terms, shape)
        for place, part in zip(places, _pull(node, self._one.expand(shape), *places), strict=True):
            made = self._emit(terms, shape, partial(_move_whole, node, place, shape))
            self._give(node, place, made, part.shape)

    def _convolve(self, node: Node, places: list[int], terms: Sequence[Term], shape: Shape) -> None:
        if places != [0]:
            _refuse("convolution with weights that depend on the image")
        if node._saved_transposed or len(shape) != 4:
            _refuse("transposed or not two-dimensional convolution")
        image, layout = node._saved_input.detach(), map_layout(self._one.device)
        weight = node._saved_weight.detach().clamp(min=0).contiguous(memory_format=layout)
        options: dict[str, Any] = {
            name: tuple(getattr(node, f"_saved_{name}"))
            for name in ("stride", "padding", "dilation")
        }
        options["groups"] = node._saved_groups
        lowest = image.amin(dim=self._dims, keepdim=True)
        # a map after a ReLU stays itself; a GPU is not asked, for it would be waited for
        shifted = image - lowest if image.is_cuda or bool(lowest.any()) else image
        normaliser = F.conv2d(shifted, weight, **options)
        # below the smallest the share is nothing: 1 / infinity
        share = torch.threshold_(normaliser, _BELOW_SMALLEST, torch.inf).add_(1e-10).reciprocal_()
        shared = [(term, _times(share, factor)) for term, factor in terms]
        ((spread, _),) = self._emit(shared, shape, partial(convolve_back, weight, options))
        self._give(node, 0, [(spread, shifted)], image.shape)


def _name(node: Node) -> str:
    """MaxPool2DWithIndices for MaxPool2DWithIndicesBackward0."""
    return node.name().split("Backward")[0]


def _refuse(what: str) -> NoReturn:
    raise ValueError(
        f"peaks cannot be traced back through {what}: peak back-propagation serves convolutional "
        "networks with ReLU and batch norm in evaluation mode; use such a backbone"
    )


def _walk(last: Node, image: Tensor) -> Iterator[tuple[Node, list[int]]]:
    """Nodes from a map back to the image, with the places of the arguments that come from there."""
    graph: dict[Node, list[Node]] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node not in graph:
            graph[node] = [parent for parent, _ in node.next_functions if parent is not None]
            waiting += graph[node]
    found: dict[Node, list[int]] = {}
    for node in TopologicalSorter(graph).static_order():
        places = [i for i, (parent, _) in enumerate(node.next_functions) if parent in found]
        if places or getattr(node, "variable", None) is image:
            found[node] = places
    return reversed(found.items())


def _pull(node: Node, gradient: Tensor, *places: int) -> list[Tensor]:
    """The gradients that a node passes on to some of its arguments."""
    made = node(gradient)
    return [(made if isinstance(made, tuple) else (made,))[place] for place in places]


def _norm_scale(node: Node) -> Tensor:
    if node._saved_training:
        _refuse("batch norm in training mode; call .eval() first")
    epsilon = node._saved_eps if hasattr(node, "_saved_eps") else node._saved_epsilon
    scale = torch.rsqrt(node._saved_running_var + epsilon)
    scale = scale if node._saved_weight is None else scale * node._saved_weight.detach()
    return scale[None, :, None, None]


def _times(first: Tensor, second: Tensor | None) -> Tensor:
    return first if second is None else first * second


def _move_whole(node: Node, place: int, shape: Shape, window: Window, image: int) -> Window:
    """The gradient that a node itself computes, on whole maps and for one peak after the other."""
    made, layout = [], map_layout(window.data.device)
    for one in add_up([(window, None)], shape[2:], image, whole=True).data:
        given = torch.empty(shape, dtype=one.dtype, device=one.device, memory_format=layout).zero_()
        given[image] = one
        made.append(_pull(node, given, place)[0][image : image + 1])
    return Window(made[0] if len(made) == 1 else torch.cat(made), (0, 0))


def convolve_back(weight: Tensor, options: dict[str, Any], window: Window, image: int) -> Window:
    """The window at the input that a convolution's gradients reach; it may cross the border.

    ``weight`` is (Co, Ci / groups, kh, kw), ``options`` are stride, padding, dilation (pairs) and
    groups.
    """
    stride = options["stride"]
    corner = [c * s - p for c, s, p in zip(window.corner, stride, options["padding"], strict=True)]
    if tuple(weight.shape[2:]) == (1, 1) == tuple(stride) and options["groups"] == 1:
        made = window.data.permute(0, 2, 3, 1) @ weight[:, :, 0, 0]
        return Window(made.permute(0, 3, 1, 2), (corner[0], corner[1]))
    made = F.conv_transpose2d(window.data, weight, None, **options | {"padding": (0, 0)})
    return Window(made, (corner[0], corner[1]))


def add_up(
    parts: Sequence[tuple[Window, Tensor | None]],
    size: Sequence[int],
    image: int,
    *,
    whole: bool = False,
) -> Window:
    """The sum of windows times factors, in a window inside a map of ``size`` (H, W), or all of it.

    Factors broadcast to (N, C, H, W) and are taken for one image; None is 1.
    """
    low, high = [0, 0], list(size)
    for axis in () if whole else (0, 1):
        corners = [(w.corner[axis], w.corner[axis] + w.data.shape[2 + axis]) for w, _ in parts]
        low[axis] = min(max(0, min(first for first, _ in corners)), size[axis] - 1)
        high[axis] = max(low[axis] + 1, min(size[axis], max(end for _, end in corners)))
    total: Tensor | None = None
    for window, factor in sorted(parts, key=lambda part: -part[0].data.shape[2]):
        cells: list[slice] = []
        pads: list[int] = []
        for bottom, top, corner, length in zip(
            low, high, window.corner, window.data.shape[2:], strict=True
        ):
            first, end = (min(max(bottom, c), top) for c in (corner, corner + length))
            cells.append(slice(first - corner, end - corner))
            pads = [first - bottom, top - end, *pads]
        data = window.data[:, :, *cells]
        data = F.pad(data, pads) if any(pads) else data
        if factor is not None:
            factor = factor[min(image, len(factor) - 1)]
            if factor.shape[1:] == tuple(size):
                factor = factor[:, low[0] : high[0], low[1] : high[1]]
        if total is None:
            total = data if factor is None else data * factor
        else:
            total = total + data if factor is None else torch.addcmul(total, data, factor)
    assert total is not None
    return Window(total, (low[0], low[1]))
