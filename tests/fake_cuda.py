"""A CUDA device that computes on the CPU: it finds what a GPU would refuse and what waits for it.

Inside `FakeCuda` a tensor on "cuda" is a wrapper of one on the CPU. Every operation of torch is
done on what is inside, after a check that its arguments lie on one device, as CUDA demands. So code
for a GPU, its ``is_cuda`` branches too, runs without one, and with true values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partialmethod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")
# The CPU waits until the GPU has done all that came before: it must know values, or how many there
# are.
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive"}
_WAITS |= {"_unique2", "unique_dim", "nms", "bincount", "histc", "repeat_interleave"}
_INDEXING = {"index", "index_put", "index_put_"}


class CudaTensor(Tensor):
    """A tensor that says it is on a GPU; ``inner`` is the same on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> CudaTensor:
        """Wrap ``inner``; the two share their values."""
        dense = inner.layout == torch.strided
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride() if dense else None,
            storage_offset=inner.storage_offset() if dense else None,
            dtype=inner.dtype,
        )
        made.inner = inner
        return made

    device = CUDA
    is_cuda = True

    def tolist(self) -> Any:
        """As torch's, which refuses subclasses."""
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        """Refuse, as torch does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_: Any) -> Any:
        raise AssertionError(f"{function} outside of FakeCuda")


class FakeCuda:
    """While it is entered, "cuda" is a device.

    Attributes:
        waits: how often each operation made the CPU wait for the GPU.
        operations: how many there were on the GPU, without those that only look at a tensor
            differently.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.operations = 0

    def __enter__(self) -> FakeCuda:
        """Enter; what moves of a module are new parameters from now on."""
        self._stack = ExitStack()
        future = torch.__future__
        before = future.get_overwrite_module_params_on_conversion()
        self._stack.callback(future.set_overwrite_module_params_on_conversion, before)
        future.set_overwrite_module_params_on_conversion(True)
        for owner, name, replacement in (
            (Tensor, "to", partialmethod(_to, self)),
            (Tensor, "cpu", lambda t, **_: self.moved(t, torch.device("cpu"))),
            (Tensor, "cuda", lambda t, *_, **__: self.moved(t, CUDA)),
            (Tensor, "type_as", lambda t, other: t.to(other)),
            (Tensor, "new_tensor", _made_by(Tensor.new_tensor, self)),
            (torch, "tensor", _made_by(torch.tensor, self)),
            (torch, "as_tensor", _made_by(torch.as_tensor, self)),
            (torch, "matmul", _matmul),
            (torch.nn.functional, "one_hot", _one_hot),
            (Tensor, "unsqueeze_", Tensor.unsqueeze),  # the shape of a wrapper is for ever
        ):
            self._stack.enter_context(patch.object(owner, name, replacement))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave."""
        self._stack.close()

    def moved(self, value: Tensor, device: torch.device) -> Tensor:
        """On that device; itself, where it is there."""
        up = device.type == "cuda"
        if up == isinstance(value, CudaTensor):
            return value
        self.waits["to the CPU"] += not up
        return _Move.apply(value, up)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, up: bool) -> Tensor:
        ctx.up = up
        return CudaTensor(value.clone()) if up else value.inner.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Move.apply(gradient, not ctx.up), None


# To torch itself a `CudaTensor` is on the CPU, so these must know better.
def _to(value: Tensor, fake: FakeCuda, *args: Any, **kwargs: Any) -> Tensor:
    given, rest = [*args, kwargs.pop("device", None), kwargs.pop("other", None)], []
    for one in given:
        if isinstance(one, Tensor):
            value, one = fake.moved(value, one.device), one.dtype
        if isinstance(one, str | torch.device):
            value = fake.moved(value, torch.device(one))
        elif one is not None and not isinstance(one, bool):
            rest.append(one)
    kwargs.pop("non_blocking", None)
    return torch._C.TensorBase.to(value, *rest, **kwargs) if rest or kwargs else value


def _made_by(function: Callable[..., Tensor], fake: FakeCuda) -> Callable[..., Tensor]:
    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is None and isinstance(args[0], Tensor):
            device = args[0].device
        if function is torch.as_tensor and isinstance(args[0], Tensor):
            return args[0].to(device, kwargs.get("dtype"))
        return fake.moved(function(*args, **kwargs), torch.device(device or "cpu"))

    return made


def _matmul(first: Tensor, second: Tensor, *, out: Tensor | None = None) -> Tensor:
    return first @ second if out is None else out.copy_(first @ second)


def _one_hot(classes: Tensor, count: int) -> Tensor:
    return (classes[..., None] == torch.arange(count, device=classes.device)).long()


class _Operations(TorchDispatchMode):
    def __init__(self, owner: FakeCuda) -> None:
        super().__init__()
        # As a "fake" mode it keeps torch from looking for a driver.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        self._owner = owner

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = function._schema.name.split("::")[-1]
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [t for t in tensors if isinstance(t, CudaTensor)]
        target = kwargs.get("device")
        # torch itself fills in "cpu", of its arguments
        on_gpu = bool(there) or target is not None and torch.device(target).type == "cuda"
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        if name in _INDEXING:
            on_gpu = isinstance(args[0], CudaTensor)
        if name == "copy_":
            on_gpu, came = (isinstance(t, CudaTensor) for t in args[:2])
            self._owner.waits[name] += came and not on_gpu
        elif there:
            self._check(function, name, args, tensors)
        views = (r.alias_info and not r.alias_info.is_write for r in function._schema.returns)
        self._owner.operations += on_gpu and not any(views)
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        made = function(*inner_args, **inner_kwargs)
        # what was written to is returned itself
        known = {id(t.inner): t for t in there} | {id(t): t for t in tensors}

        def outer(value: Any) -> Any:
            if id(value) in known or not isinstance(value, Tensor):
                return known.get(id(value), value)
            return CudaTensor(value) if on_gpu else value

        return tree_map(outer, made)

    def _check(self, function: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
        beside = [t for t in tensors if not isinstance(t, CudaTensor) and t.ndim]
        if name in _INDEXING:
            indices = [i for i in args[1] if i is not None]
            masks = [i for i in indices if i.dtype in (torch.bool, torch.uint8)]
            filled = name != "index" and args[2].numel() == 1
            self._owner.waits[name] += bool(masks) and not filled
            beside = [t for t in beside if not any(t is i for i in indices)]
            beside += [] if isinstance(args[0], CudaTensor) else [args[0]]
        self._owner.waits[name] += name in _WAITS
        if torch._C._current_graph_task_id() >= 0:  # backwards, torch makes empty ones itself
            beside = [t for t in beside if t.numel()]
        if beside:
            shapes = ", ".join(str(tuple(t.shape)) for t in beside)
            raise AssertionError(f"{function}: {shapes} on the CPU, beside tensors on cuda")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, CudaTensor) else value
