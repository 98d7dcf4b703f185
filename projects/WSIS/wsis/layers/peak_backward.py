"""A `wsis.layers.peak_tape.Tape` compiled to the instructions that take peaks back to the image.

All that multiplies a gradient between two convolutions (batch norm, ReLU, the shifted input x' and
the normaliser 1 / n of prm spec 5) becomes one tensor of factors, made once. A peak then
costs a product and a transposed convolution per convolution, inside the window where its gradient
can differ from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsis.layers.peak_tape import Tape, Value, refusal_text
from wsis.layers.peak_windows import (
    Channels,
    Resample,
    Size,
    Term,
    TransposedConvolution,
    Unpool,
    Windows,
    gather,
)

aten = torch.ops.aten
SMALLEST_NORMALISER = 1e-10
_BELOW_SMALLEST = float(np.nextafter(np.float32(SMALLEST_NORMALISER), np.float32(0)))
_RELU = (0.0, torch.inf, 0.0)
OFFSETS = ("image", "batch")
_Operation = Callable[[Windows, Sequence[int]], Windows]


@dataclass
class _Step:
    """Gather terms on a map of a size, then perhaps an operation; the result goes to ``target``."""

    target: int
    terms: list[Term]
    size: Size
    operation: _Operation | None = None
    done_with: list[int] = field(default_factory=list)


class PeakProgram:
    """Gradients of any number of peaks at the input of a recorded network.

    Args:
        tape: of a network of supported operations (`wsis.layers.peak_tape`).
        offset: a convolution's input is shifted to be non-negative by its minimum over each image
            ("image": the same result for an image alone and in a batch), or over the batch.

    Raises:
        ValueError: peaks would have to pass an operation without a rule, named in the message.
    """

    def __init__(self, tape: Tape, *, offset: str = "image") -> None:
        if offset not in OFFSETS:
            raise ValueError(f"offset {offset!r}: use one of {OFFSETS}")
        if tape.last is None:
            raise ValueError("the maps do not depend on the images: peaks lead nowhere")
        self.shape = tape.last.shape
        self.input_shape: tuple[int, ...] = ()
        self._offset = offset
        self._shifted: dict[int, Tensor] = {}
        self._steps: list[_Step] = []
        self._terms: dict[Value, list[Term]] = {tape.last: [Term(0)]}
        self._largest = 0
        waiting = {tape.last}
        with torch.no_grad():
            while waiting:
                value = max(waiting, key=lambda v: v.order)
                waiting.remove(value)
                getattr(self, f"_compile_{value.kind}")(value)
                waiting.update(value.parents)
        self._shifted.clear()
        last_use = {term.register: step for step in self._steps for term in step.terms}
        for register, step in last_use.items():
            step.done_with.append(register)

    @property
    def values_per_peak(self) -> int:
        """Numbers that one peak's gradients hold at a time at the most, about."""
        return 4 * self._largest

    def run(self, seeds: Windows, images: Sequence[int]) -> Tensor:
        """Back-propagate gradients of the output, all at once.

        Args:
            seeds: gradients at the output, in windows inside it.
            images: the image of each, P indices.

        Returns:
            (P, Ci, H, W) gradients at the input.
        """
        registers = {0: seeds}
        shared = {0}  # registers whose memory is the caller's or another register's too
        for step in self._steps:
            parts = [(registers[term.register], term) for term in step.terms]
            once = len({term.register for term in step.terms}) == len(step.terms)
            reusable = set(step.done_with) - shared if once else set()
            made = gather(parts, step.size, images, reusable=reusable)
            if any(made is windows for windows, _ in parts):
                shared |= {step.target, *(term.register for term in step.terms)}
            del parts
            if step.operation is not None:
                made = step.operation(made, images)
                if isinstance(step.operation, Channels):
                    shared.add(step.target)
            registers[step.target] = made
            for register in step.done_with:
                del registers[register]
        (result,) = registers.values()
        return gather([(result, Term(0))], tuple(self.input_shape[2:]), images, whole=True).data

    def _emit(self, value: Value, terms: list[Term], operation: _Operation | None = None) -> Term:
        self._largest = max(self._largest, value.shape[1] * value.shape[2] * value.shape[3])
        step = _Step(len(self._steps) + 1, terms, tuple(value.shape[2:]), operation)
        self._steps.append(step)
        return Term(step.target)

    def _collect(self, value: Value, factor: Callable[[Tensor | None], Tensor | None]) -> Term:
        """The gradient at ``value`` times a factor, with what remains to be multiplied."""
        terms = self._terms.pop(value)
        shared = all(t.factor is terms[0].factor for t in terms)
        if len(terms) > 1 and shared:
            summed = self._emit(value, [Term(t.register, None, t.sign) for t in terms])
            terms = [Term(summed.register, terms[0].factor)]
        terms = [Term(t.register, factor(t.factor), t.sign) for t in terms]
        return terms[0] if len(terms) == 1 else self._emit(value, terms)

    def _give(self, value: Value, term: Term) -> None:
        self._terms.setdefault(value, []).append(term)

    def _compile_input(self, value: Value) -> None:
        self.input_shape = value.shape
        self._emit(value, self._terms.pop(value))

    def _compile_refused(self, value: Value) -> None:
        raise ValueError(refusal_text(value))

    def _compile_scale(self, value: Value) -> None:
        own = value.saved["factor"]
        self._give(value.parents[0], self._collect(value, lambda other: _times(other, own)))

    def _compile_limit(self, value: Value) -> None:
        output, options = value.saved["output"], value.options
        limits = (options["lowest"], options["highest"], options["slope"])

        def factor(other: Tensor | None) -> Tensor | None:
            if limits == _RELU and other is output:  # x' itself is 0 where ReLU's derivative is
                return other
            return _limited(output, other, *limits)

        self._give(value.parents[0], self._collect(value, factor))

    def _compile_sum(self, value: Value) -> None:
        term = self._collect(value, lambda other: other)
        if len(value.parents) > 1 and term.factor is not None:
            term = self._emit(value, [term])
        for parent, sign in zip(value.parents, value.options["signs"], strict=True):
            self._give(parent, Term(term.register, term.factor, term.sign * sign))

    def _compile_channels(self, value: Value) -> None:
        term = self._emit(value, [self._collect(value, lambda other: other)])
        starts = [0]
        for channels in value.options["channels"]:
            starts.append(starts[-1] + channels)
        for parent, position in zip(value.parents, value.options["positions"], strict=True):
            part = Channels(slice(starts[position], starts[position + 1]))
            self._give(parent, self._emit(value, [term], part))

    def _compile_pool(self, value: Value) -> None:
        parent = value.parents[0]
        unpool = Unpool(value.saved["indices"], tuple(parent.shape[2:]), **value.options)
        term = self._collect(value, lambda other: other)
        self._give(parent, self._emit(value, [term], unpool))

    def _compile_resample(self, value: Value) -> None:
        parent = value.parents[0]
        back = Resample(**value.options, shape=parent.shape, output_size=tuple(value.shape[2:]))
        term = self._collect(value, lambda other: other)
        self._give(parent, self._emit(value, [term], back))

    def _compile_convolution(self, value: Value) -> None:
        parent, options = value.parents[0], value.options
        shifted = self._shift(value.saved["input"])
        weight = value.saved["weight"].clamp(min=0)
        normaliser = aten.convolution(
            shifted,
            weight,
            None,
            options["stride"],
            options["padding"],
            options["dilation"],
            False,
            (0, 0),
            options["groups"],
        )
        # below it the share is nothing: 1 / infinity
        share = F.threshold_(normaliser, _BELOW_SMALLEST, torch.inf).add_(1e-10).reciprocal_()
        term = self._collect(value, lambda other: _times(share, other))
        back = TransposedConvolution(
            weight, tuple(parent.shape[2:]), tuple(value.shape[2:]), **options
        )
        spread = self._emit(value, [term], back)
        self._largest = max(self._largest, parent.shape[1] * parent.shape[2] * parent.shape[3])
        self._give(parent, Term(spread.register, shifted))

    def _shift(self, image: Tensor) -> Tensor:
        """x' = x - min x, the same tensor for every convolution of x."""
        if id(image) not in self._shifted:
            dims = (1, 2, 3) if self._offset == "image" else (0, 1, 2, 3)
            offset = image.amin(dim=dims, keepdim=True)
            self._shifted[id(image)] = image - offset if bool(offset.any()) else image
        return self._shifted[id(image)]


def _times(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first * second


def _limited(
    output: Tensor, factor: Tensor | None, lowest: float, highest: float, slope: float
) -> Tensor:
    """A factor times the derivative of an activation: 1 between the limits, else ``slope``."""
    factor = torch.ones((), dtype=output.dtype, device=output.device) if factor is None else factor
    factor = factor.expand_as(output)
    if slope:
        return aten.leaky_relu_backward(factor, output, slope, False)
    if highest == torch.inf:
        return aten.threshold_backward(factor, output, lowest)
    return aten.hardtanh_backward(factor, output, lowest, highest)
