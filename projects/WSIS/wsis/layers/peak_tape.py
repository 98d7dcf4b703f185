"""A tape of one forward pass, for peak back-propagation.

The pass runs under a dispatch mode of PyTorch, which sees the few dozen elementary operations that
any network is made of, whatever its modules are: so this serves Detectron2's and torchvision's
networks alike, and nothing of the network is touched. An operation without a rule is remembered by
name and refused when a peak has to pass through it.

Ordinary rules (prm spec 5): convolutions; batch norm in evaluation mode; ReLU and other hard limits
(ReLU6, leaky ReLU); sums; multiplication by constants; concatenation of channels; max pooling; and
linear resampling (average pooling, upsampling, padding, slices), which keep their own gradients.
Not served: smooth activations (SiLU, GELU, hard swish), gates (squeeze and excitation), attention,
group and layer norm, reshaping (channel shuffle), transposed convolutions, fully connected layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from wsis.layers.precision import full_precision, map_layout

aten = torch.ops.aten
_HARMLESS = (None, 1, torch.contiguous_format, torch.preserve_format)  # keyword arguments


@dataclass(eq=False)
class Value:
    """A tensor of the forward pass as the backward pass needs it.

    Attributes:
        kind: rule of the operation that made it: input, convolution, scale, limit, sum, pool,
            channels, resample or refused.
        shape: its shape.
        parents: the values it was made of, as far as they depend on the input.
        saved: tensors that its rule needs.
        options: further arguments of the rule.
        order: number of operations before it.
    """

    kind: str
    shape: tuple[int, ...]
    parents: tuple[Value, ...] = ()
    saved: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    order: int = 0


@dataclass
class _Rule:
    """Kind, positions of the tensor arguments that may be tracked, what to keep."""

    kind: str
    keep: Callable[[Sequence[Any], Any, Value], None] | None = None
    positions: tuple[int, ...] = (0,)


def _keep_convolution(args: Sequence[Any], output: Tensor, value: Value) -> None:
    image, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
    if transposed or image.dim() != 4:
        _refuse(value, "transposed or not two-dimensional convolution")
        return
    value.saved = {"input": image, "weight": weight}
    value.options = {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }


def _keep_batch_norm(positions: tuple[int, int, int, int | None, int]) -> Callable[..., None]:
    """For the positions of weight, mean, variance, training (None: never) and epsilon."""

    def keep(args: Sequence[Any], output: Any, value: Value) -> None:
        weight, _, variance = (args[i] for i in positions[:3])
        if positions[3] is not None and args[positions[3]]:
            _refuse(value, "batch norm in training mode; call .eval() first")
            return
        scale = torch.rsqrt(variance + args[positions[4]])
        value.saved = {"factor": (scale if weight is None else scale * weight)[None, :, None, None]}

    return keep


def _keep_limits(lowest: float, highest: float, slope: float = 0.0) -> Callable[..., None]:
    """An activation whose derivative is 1 between two limits of its output, else ``slope``."""

    def keep(args: Sequence[Any], output: Tensor, value: Value) -> None:
        value.saved = {"output": output}
        value.options = {"lowest": lowest, "highest": highest, "slope": slope}

    return keep


def _keep_hardtanh(args: Sequence[Any], output: Tensor, value: Value) -> None:
    limits = (list(args[1:3]) + [-1.0, 1.0][len(args) - 1 :])[:2]
    _keep_limits(*limits)(args, output, value)


def _keep_clamp(args: Sequence[Any], output: Tensor, value: Value) -> None:
    lowest, highest = (list(args[1:3]) + [None, None])[:2]
    infinity = float("inf")
    limits = (-infinity if lowest is None else lowest, infinity if highest is None else highest)
    _keep_limits(*limits)(args, output, value)


def _keep_leaky(args: Sequence[Any], output: Tensor, value: Value) -> None:
    slope = args[1] if len(args) > 1 else 0.01
    _keep_limits(0.0, float("inf"), slope)(args, output, value)


def _keep_factor(sign_of_power: int) -> Callable[..., None]:
    """Multiplication with (1) or division by (-1) something that the input does not change."""

    def keep(args: Sequence[Any], output: Tensor, value: Value) -> None:
        if len(value.parents) != 1 or value.parents[0].shape != value.shape:
            _refuse(value, "product of two maps (a gate)")
            return
        other = next((a for a in args[:2] if a is not value.options["argument"]), 1.0)
        if sign_of_power < 0 and args[0] is not value.options["argument"]:
            _refuse(value, "division by a map")
            return
        factor = torch.as_tensor(other, dtype=output.dtype, device=output.device)
        factor = factor if sign_of_power > 0 else 1 / factor
        value.saved = {"factor": factor.reshape((1,) * (4 - factor.dim()) + tuple(factor.shape))}

    return keep


def _keep_sum(sign: float) -> Callable[..., None]:
    def keep(args: Sequence[Any], output: Tensor, value: Value) -> None:
        if any(parent.shape != value.shape for parent in value.parents):
            _refuse(value, "sum of maps of different shapes")
        value.options["signs"] = [1.0 if p == 0 else sign for p in value.options["positions"]]

    return keep


def _keep_channels(args: Sequence[Any], output: Tensor, value: Value) -> None:
    dim = args[1] if len(args) > 1 else 0
    if dim % output.dim() != 1:
        _refuse(value, "concatenation of other than channels")


def _keep_pool(args: Sequence[Any], output: Any, value: Value) -> None:
    defaults = [None, None, (), (0, 0), (1, 1), False]
    args = [*args, *defaults[len(args) :]]
    kernel, stride, padding, dilation = (
        tuple(a) * (2 if len(a) == 1 else 1) for a in (args[1], args[2] or args[1], *args[3:5])
    )
    value.saved = {"indices": output[1]}
    value.options = {"stride": stride, "padding": padding}
    value.options["extent"] = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))


def _keep_call(function: Any) -> Callable[..., None]:
    def keep(args: Sequence[Any], output: Tensor, value: Value) -> None:
        value.options = {"function": function, "arguments": tuple(args[1:])}

    return keep


def refusal_text(value: Value) -> str:
    """Why peaks cannot pass a value of kind "refused"."""
    return (
        f"peaks cannot be traced back through {value.options['name']}: peak back-propagation "
        "serves convolutional networks with ReLU and batch norm in evaluation mode; use such a "
        "backbone"
    )


def _refuse(value: Value, name: str) -> None:
    value.kind, value.saved, value.options = "refused", {}, {"name": name}


def _rules() -> dict[Any, _Rule]:
    norm = _keep_batch_norm
    rules = {
        aten.convolution.default: _Rule("convolution", _keep_convolution),
        aten.native_batch_norm.default: _Rule("scale", norm((1, 3, 4, 5, 7))),
        aten.cudnn_batch_norm.default: _Rule("scale", norm((1, 3, 4, 5, 7))),
        aten._native_batch_norm_legit_no_training.default: _Rule("scale", norm((1, 3, 4, None, 6))),
        aten.max_pool2d_with_indices.default: _Rule("pool", _keep_pool),
        aten.cat.default: _Rule("channels", _keep_channels),
    }
    limits = {
        "relu": _keep_limits(0.0, float("inf")),
        "hardtanh": _keep_hardtanh,
        "clamp": _keep_clamp,
        "clamp_min": _keep_clamp,
        "leaky_relu": _keep_leaky,
    }
    for name, keep in limits.items():
        for form in (name, f"{name}_"):
            rules[getattr(aten, form).default] = _Rule("limit", keep)
    pairs = {"add": ("sum", 1.0), "sub": ("sum", -1.0), "mul": ("scale", 1), "div": ("scale", -1)}
    for name, (kind, sign) in pairs.items():
        keep = _keep_sum(sign) if kind == "sum" else _keep_factor(sign)
        for packet in (getattr(aten, name), getattr(aten, f"{name}_")):
            for overload in ("Tensor", "Scalar"):
                rules[getattr(packet, overload)] = _Rule(kind, keep, (0, 1))
    for function in (aten.clone.default, aten.detach.default, aten.alias.default):
        rules[function] = _Rule("sum", _keep_sum(1.0))
    resampling = (aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.upsample_bilinear2d)
    resampling += (aten.upsample_nearest2d, aten.constant_pad_nd)
    for packet in resampling:
        for overload in packet.overloads():
            if overload in ("default", "vec"):
                function = getattr(packet, overload)
                rules[function] = _Rule("resample", _keep_call(function))
    rules[aten.slice.Tensor] = _Rule("resample", _keep_call(aten.slice.Tensor))
    return rules


_RULES = _rules()


def _storage(tensor: Tensor) -> StorageWeakRef:
    """Stands for a tensor's memory; while it is kept, no other memory gets its number."""
    return StorageWeakRef(tensor.untyped_storage())


def _flat(arguments: Sequence[Any]) -> list[Any]:
    return [
        a for given in arguments for a in (given if isinstance(given, list | tuple) else [given])
    ]


def _written(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes into."""
    found = []
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[place] if place < len(args) else kwargs.get(argument.name))
    return [tensor for tensor in _flat(found) if isinstance(tensor, Tensor)]


class _Recorder(TorchDispatchMode):
    """Notes every operation on what depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self._values = WeakTensorKeyDictionary()
        self._holders: dict[StorageWeakRef, list[Value]] = {}  # values that saved some of it
        self._written: dict[StorageWeakRef, tuple[int, str]] = {}  # last written: when, by what
        self._count = 0

    def begin(self, image: Tensor) -> Value:
        """Make ``image`` the input."""
        self._values[image] = Value("input", tuple(image.shape))
        return self._values[image]

    def value_of(self, tensor: Tensor) -> Value | None:
        """What is known of ``tensor``; refused where another one wrote to its memory since."""
        own = self._values.get(tensor)
        if not self._written or tensor.layout != torch.strided:
            return own
        order, name = self._written.get(_storage(tensor), (-1, ""))
        if order < 0 or own is not None and own.order >= order:
            return own
        options = {"name": f"{name} into memory that another tensor shares"}
        self._values[tensor] = Value("refused", tuple(tensor.shape), (), {}, options, order)
        return self._values[tensor]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        written = _written(function, args, kwargs) if function._schema.is_mutable else []
        for tensor in written:
            self._protect(tensor)
        flat = _flat([*args, *kwargs.values()])
        if all(self._known(a) is None for a in flat):
            return function(*args, **kwargs)
        value = self._describe(function, args, flat)
        output = function(*args, **kwargs)
        for tensor in written:
            self._written[_storage(tensor)] = (value.order, str(function))
        first = output[0] if isinstance(output, list | tuple) else output
        if not isinstance(first, Tensor):
            return output
        value.shape = tuple(first.shape)
        rule = _RULES.get(function)
        if any(isinstance(v, Tensor) or v not in _HARMLESS for v in kwargs.values()):
            _refuse(value, f"{function} with {', '.join(kwargs)}")
        elif rule is not None and rule.keep is not None:
            rule.keep(args, output, value)
        if value.kind == "scale" and any(t is not value.options["argument"] for t in written):
            _refuse(value, f"{function} into a constant")
        for tensor in value.saved.values():
            self._holders.setdefault(_storage(tensor), []).append(value)
        value.options.pop("argument", None)
        for tensor in output if isinstance(output, list | tuple) else [output]:
            if isinstance(tensor, Tensor):
                self._values[tensor] = value
        return output

    def _describe(self, function: Any, args: Sequence[Any], flat: list[Any]) -> Value:
        self._count += 1
        rule = _RULES.get(function)
        if rule is None:
            parents = ()
            return Value("refused", (), parents, {}, {"name": str(function)}, self._count)
        if rule.kind == "channels":
            given = list(enumerate(args[0]))
        else:
            given = [(i, args[i]) for i in rule.positions if i < len(args)]
        kept = [(i, a) for i, a in given if self._known(a) is not None]
        parents = tuple(self._known(a) for _, a in kept)
        options = {"positions": [i for i, _ in kept]}
        if rule.kind == "channels":
            options["channels"] = [a.shape[1] for a in args[0]]
        elif kept:
            options["argument"] = kept[0][1]
        value = Value(rule.kind, (), parents, {}, options, self._count)
        if len(parents) < sum(self._known(a) is not None for a in flat):
            _refuse(value, f"{function} of weights that depend on the image")
        return value

    def _known(self, argument: Any) -> Value | None:
        return self.value_of(argument) if isinstance(argument, Tensor) else None

    def _protect(self, tensor: Tensor) -> None:
        """Before the memory of ``tensor`` changes, give copies to those that saved some of it."""
        changing = _storage(tensor)
        copies: dict[int, Tensor] = {}
        for value in self._holders.pop(changing, ()):
            for name, kept in value.saved.items():
                if _storage(kept) == changing:
                    if id(kept) not in copies:
                        copies[id(kept)] = kept.clone()
                    value.saved[name] = copies[id(kept)]


@dataclass(frozen=True)
class Tape:
    """What `record` returns: the output with all that back-propagation needs of the pass.

    Attributes:
        output: (N, C, h, w), the last value's tensor.
        last: its value; ``None`` where the output does not depend on the input.
        image_size: (H, W) of the images.
        made: all that the network returned.
    """

    output: Tensor
    last: Value | None
    image_size: tuple[int, int]
    made: Any = None


def refusal(tape: Tape) -> str | None:
    """Why peaks cannot be traced back over the whole tape: what lies last in it; None: they can."""
    if tape.last is None:
        return "the class maps do not depend on the images: peaks lead nowhere"
    seen, waiting = {tape.last}, [tape.last]
    while waiting:
        new = {parent for parent in waiting.pop().parents if parent not in seen}
        seen |= new
        waiting.extend(new)
    refused = [value for value in seen if value.kind == "refused"]
    return refusal_text(max(refused, key=lambda value: value.order)) if refused else None


def record(
    network: Callable[[Tensor], Any],
    images: Tensor,
    *,
    select: Callable[[Any], Tensor] | None = None,
) -> Tape:
    """Run ``network`` on ``images`` without a graph and keep what back-propagation needs.

    Keeps the inputs of all convolutions and the outputs of all activations alive, as training does.

    Args:
        network: any function of the images, its modules in evaluation mode.
        images: (N, Ci, H, W), normalised; not changed.
        select: the map of interest in what the network returns, where that is more than a map.

    Returns:
        the tape, with the map and all that the network returned. Autocast and TF32 are off.
    """
    with torch.inference_mode(False), torch.no_grad(), full_precision(images.device):
        # an ordinary tensor of our own, also inside inference_mode
        images = images.clone(memory_format=map_layout(images.device))
        recorder = _Recorder()
        recorder.begin(images)
        with recorder:
            made = network(images)
        output = made if select is None else select(made)
        return Tape(output, recorder.value_of(output), tuple(images.shape[2:]), made)
