"""Takes peaks back to the image along the graph that autograd records (`methods/prm.md` 5).

Every convolution shares out the score of a cell among its inputs in proportion to x' W+ (x' the
input less its minimum, W+ the positive weights); all else keeps its gradient, which its own node of
the graph computes. N images, P peaks of one of them, maps C x H x W.

Autograd alone would do, but at 20 peaks not twice as fast as the original. What is done better,
each measured alone (`docs/benchmarks.md`): all that multiplies a gradient between two convolutions
is one tensor of factors, made once for all peaks; a peak's gradient is computed inside the window
where it can differ from 0; a pixel's channels lie side by side; and 1x1 convolutions are matrix
products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsis.layers.precision import map_layout

SMALLEST_NORMALISER = 1e-10
_BELOW_SMALLEST = float(np.nextafter(np.float32(SMALLEST_NORMALISER), np.float32(0)))
OFFSETS = ("image", "batch")
# Names of autograd's nodes. The gradient is multiplied cell by cell, ...
NORMS = {"NativeBatchNorm", "CudnnBatchNorm"}
CELLWISE = {"Relu", "Hardtanh", "Clamp", "ClampMin", "LeakyRelu", "Mul", "Div"}
# ... handed on as it is, or with its sign changed, ...
SUMS = {"Add", "Sub", "Clone", "Alias"}
# ... or moved about, in each image by itself.
MOVES = {"MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "ConstantPadNd", "Slice"}
MOVES |= {"UpsampleBilinear2D", "UpsampleNearest2D"}
Node = Any  # torch.autograd.graph.Node
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Gradients of P peaks at a map; 0 outside a window, which all of them share.

    Attributes:
        data: (P, C, A, B).
        corner: (top, left); what lies outside the map means nothing.
    """

    data: Tensor
    corner: Shape


@dataclass(frozen=True)
class _Term:
    """The window that a step made, still to be multiplied by a factor.

    Attributes:
        step: its number.
        factor: broadcasts to (N, C, H, W); None is 1.
    """

    step: int
    factor: Tensor | None = None


@dataclass
class _Step:
    """Adds up terms on a map, then does something to the sum; later forgets some windows."""

    terms: list[_Term]
    shape: Shape
    operation: Callable[[Window, int], Window] | None = None
    done_with: list[int] = field(default_factory=list)


class PeakProgram:
    """Gradients of any number of peaks at the images of a recorded pass.

    Args:
        output: (N, C, h, w), what a network made of ``images``, with its graph.
        images: (N, Ci, H, W), the leaf of that graph.
        offset: a convolution's input is shifted to be non-negative by its minimum over each image
            ("image": the same result for an image alone and in a batch), or over the batch.

    Raises:
        ValueError: peaks would have to pass an operation without a rule, named in the message.
    """

    def __init__(self, output: Tensor, images: Tensor, *, offset: str = "image") -> None:
        if offset not in OFFSETS:
            raise ValueError(f"offset {offset!r}: use one of {OFFSETS}")
        self._dims = (1, 2, 3) if offset == "image" else (0, 1, 2, 3)
        self._one = output.detach().new_ones(())
        nodes = [] if output.grad_fn is None else list(_walk(output.grad_fn, images))
        if not nodes:
            raise ValueError("the class maps do not depend on the images: peaks lead nowhere")
        self._steps = [_Step([], tuple(output.shape))]  # the seeds
        self._terms: dict[Node, list[_Term]] = {nodes[0][0]: [_Term(0)]}
        self._shapes: dict[Node, Shape] = {nodes[0][0]: tuple(output.shape)}
        with torch.no_grad():
            for node, places in nodes:
                self._compile(node, places)
        last_use = {term.step: step for step in self._steps for term in step.terms}
        for number, step in last_use.items():
            step.done_with.append(number)

    @property
    def values_per_peak(self) -> int:
        """Numbers that one peak's gradients hold at a time at the most, about."""
        return 4 * max(int(np.prod(step.shape[1:])) for step in self._steps)

    def run(self, seeds: Window, image: int) -> Tensor:
        """Back-propagate gradients of the output, all at once.

        Args:
            seeds: gradients of P peaks at the output, in a window inside it.
            image: that they are of.

        Returns:
            (P, Ci, H, W) gradients at the image.
        """
        made = {0: seeds}
        last = len(self._steps) - 1
        for number, step in enumerate(self._steps[1:], 1):
            parts = [(made[term.step], term.factor) for term in step.terms]
            window = add_up(parts, step.shape[2:], image, whole=number == last)
            made[number] = window if step.operation is None else step.operation(window, image)
            for old in step.done_with:
                del made[old]
        return made[last].data

    def _compile(self, node: Node, places: list[int]) -> None:
        """Bring the gradient from a node to those of its arguments that come from the image."""
        terms, shape, name = self._terms.pop(node), self._shapes.pop(node), _name(node)
        rule = {"Convolution": self._convolve, "Cat": self._split}.get(name)
        for names, other in (
            (CELLWISE | NORMS, self._scale),
            (SUMS, self._sum),
            (MOVES, self._move),
        ):
            rule = other if name in names else rule
        if not places:  # the image
            self._emit(terms, shape)
        elif rule is None:
            _refuse(name)
        else:
            try:
                rule(node, places, terms, shape)
            except RuntimeError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
                _refuse(f"{name}, whose arguments are written to afterwards")

    def _emit(
        self,
        terms: list[_Term],
        shape: Shape,
        operation: Callable[[Window, int], Window] | None = None,
    ) -> list[_Term]:
        self._steps.append(_Step(terms, shape, operation))
        return [_Term(len(self._steps) - 1)]

    def _give(self, node: Node, place: int, terms: list[_Term], shape: Sequence[int]) -> None:
        parent, output = node.next_functions[place]
        if output != 0 or len(shape) != 4 or shape[0] != self._steps[0].shape[0]:
            _refuse(_name(parent if output else node))
        self._shapes[parent] = tuple(shape)
        self._terms.setdefault(parent, []).extend(terms)

    def _scale(self, node: Node, places: list[int], terms: list[_Term], shape: Shape) -> None:
        name, place = _name(node), places[0]
        if name in ("Mul", "Div") and (len(places) > 1 or name == "Div" and place):
            _refuse("product of two maps (a gate)" if name == "Mul" else "division by a map")
        layout = map_layout(self._one.device)
        for term in terms:
            factor = self._one if term.factor is None else term.factor
            if name in NORMS:
                factor = factor * _norm_scale(node)
            else:
                (factor,) = _pull(
                    node, factor.expand(shape).contiguous(memory_format=layout), place
                )
                if tuple(factor.shape) != shape:
                    _refuse(f"{name} of maps of different shapes")
            self._give(node, place, [_Term(term.step, factor)], shape)

    def _sum(self, node: Node, places: list[int], terms: list[_Term], shape: Shape) -> None:
        weights = _pull(node, self._one.expand(shape), *places)
        if any(tuple(weight.shape) != shape for weight in weights):
            _refuse("sum of maps of different shapes")
        if len(places) > 1 and (len(terms) > 1 or terms[0].factor is not None):
            terms = self._emit(terms, shape)
        for place, weight in zip(places, weights, strict=True):
            weight = weight[:1, :1, :1, :1]
            if bool(weight != 1):
                terms_here = [_Term(t.step, _times(weight, t.factor)) for t in terms]
            else:
                terms_here = terms
            self._give(node, place, terms_here, shape)

    def _split(self, node: Node, places: list[int], terms: list[_Term], shape: Shape) -> None:
        """Concatenation: what it makes of the channels' numbers tells which ones it gives whom."""
        numbers = torch.arange(shape[1], dtype=self._one.dtype, device=self._one.device)
        parts = _pull(node, numbers[None, :, None, None].expand(shape), *places)
        terms = self._emit(terms, shape)
        for place, part in zip(places, parts, strict=True):
            if (part.shape[0], *part.shape[2:]) != (shape[0], *shape[2:]):
                _refuse("concatenation of other than channels")
            first = int(part[0, 0, 0, 0])
            own = partial(_some_channels, slice(first, first + part.shape[1]))
            self._give(node, place, self._emit(terms, shape, own), part.shape)

    def _move(self, node: Node, places: list[int], terms: list[_Term], shape: Shape) -> None:
        (part,) = _pull(node, self._one.expand(shape), *places)
        made = self._emit(terms, shape, partial(_move_whole, node, places[0], shape))
        self._give(node, places[0], made, part.shape)

    def _convolve(self, node: Node, places: list[int], terms: list[_Term], shape: Shape) -> None:
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
        shifted = image - lowest if bool(lowest.any()) else image
        normaliser = F.conv2d(shifted, weight, **options)
        # below the smallest the share is nothing: 1 / infinity
        share = torch.threshold_(normaliser, _BELOW_SMALLEST, torch.inf).add_(1e-10).reciprocal_()
        shared = [_Term(term.step, _times(share, term.factor)) for term in terms]
        back = partial(convolve_back, weight, options)
        (spread,) = self._emit(shared, shape, back)
        self._give(node, 0, [_Term(spread.step, shifted)], image.shape)


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
    """What a node makes of a gradient, for some of its arguments."""
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


def _zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    layout = map_layout(like.device)
    made = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)
    return made.zero_()


def _some_channels(kept: slice, window: Window, image: int) -> Window:
    return Window(window.data[:, kept], window.corner)


def _move_whole(node: Node, place: int, shape: Shape, window: Window, image: int) -> Window:
    """A node's own gradient, of whole maps and one peak after the other."""
    made = []
    for one in add_up([(window, None)], shape[2:], image, whole=True).data:
        given = _zeros(shape, one)
        given[image] = one
        made.append(_pull(node, given, place)[0][image : image + 1])
    return Window(made[0] if len(made) == 1 else torch.cat(made), (0, 0))


def convolve_back(weight: Tensor, options: dict[str, Any], window: Window, image: int) -> Window:
    """The gradient of a convolution at its input.

    Args:
        weight: (Co, Ci / groups, kh, kw).
        options: stride, padding, dilation (pairs) and groups of the convolution.
        window: gradients at the output.
        image: not used.

    Returns:
        the window that they reach, which may lie over the border.
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
    """The sum of windows times factors, in a window that lies inside the map.

    Args:
        parts: at least one; factors broadcast to (N, C, H, W), None is 1.
        size: (H, W) of the map.
        image: of the factors.
        whole: make the window as large as the map.
    """
    low: Shape = (0, 0)
    high = tuple(size)
    if not whole:
        ends = [[c + n for c, n in zip(w.corner, w.data.shape[2:], strict=True)] for w, _ in parts]
        low = tuple(min(max(0, min(w.corner[a] for w, _ in parts)), size[a] - 1) for a in (0, 1))
        high = tuple(max(low[a] + 1, min(size[a], max(e[a] for e in ends))) for a in (0, 1))
    total, own = None, False
    for window, factor in sorted(parts, key=lambda part: -part[0].data.shape[2]):
        corner, data = window.corner, window.data
        shared = [
            (max(low[a], corner[a]), min(high[a], corner[a] + data.shape[2 + a])) for a in (0, 1)
        ]
        place, inside, cells = (
            tuple(
                slice(max(0, b - o), max(0, e - o))
                for (b, e), o in zip(shared, origin, strict=True)
            )
            for origin in ((0, 0), low, corner)
        )
        data = data[:, :, *cells]
        if factor is not None:
            factor = factor[min(image, len(factor) - 1)]
            factor = factor[:, *place] if factor.shape[1:] == tuple(size) else factor
        if total is None and data.shape[2:] == (high[0] - low[0], high[1] - low[1]):
            total, own = (data, False) if factor is None else (data * factor, True)
            continue
        if total is None:
            total = _zeros((*data.shape[:2], high[0] - low[0], high[1] - low[1]), data)
        elif not own:
            total = total.clone()
        own = True
        part = total[:, :, *inside]
        part.add_(data) if factor is None else part.addcmul_(data, factor)
    assert total is not None
    return Window(total, (low[0], low[1]))
