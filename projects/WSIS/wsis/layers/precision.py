"""Arithmetic that keeps float32's digits, whatever precision the training uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision to float32, anything wider as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _set_exact() -> list[Callable[[], None]]:
    """Switch TF32 off; returns what sets everything back, in this order.

    PyTorch 2.9 has new switches beside the old ones, refuses to read the old ones where the two
    differ, and sets the new ones along with the old ones. So both are kept, and the old ones set.
    """
    cudnn = torch.backends.cudnn
    undo: list[Callable[[], None]] = []
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
        undo.append(partial(torch.set_float32_matmul_precision, products))
    with suppress(RuntimeError):
        undo.append(partial(setattr, cudnn, "allow_tf32", cudnn.allow_tf32))
    new = [torch.backends.cuda.matmul]
    new += [getattr(cudnn, name) for name in ("conv", "rnn") if hasattr(cudnn, name)]
    for owner in new:
        with suppress(AttributeError):
            undo.append(partial(setattr, owner, "fp32_precision", owner.fp32_precision))
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    return undo


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No automatic mixed precision, and no TF32 (10 bits instead of 23) in NVIDIA's libraries.

    Peak responses are many orders of magnitude smaller than 1, and comparing them decides which
    proposal is chosen. A GPU must choose as a CPU does.
    """
    undo = _set_exact()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for step in undo:
            step()


def map_layout(device: torch.device, *, half: bool = False) -> torch.memory_format:
    """How maps lie in memory: on a CPU, and in half precision, a pixel's channels side by side.

    Convolutions of 1 x 1 and of small windows are up to a fifth faster that way on one core. A
    GPU's units for half precision read maps in this order; from others they are copied first.
    """
    return torch.channels_last if half or device.type == "cpu" else torch.contiguous_format
