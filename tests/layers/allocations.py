"""Watching what PyTorch makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Counts operations, and the numbers in each tensor that they make (views make none)."""

    def __init__(self):
        super().__init__()
        self.operations = 0
        self.sizes = []

    def at_least(self, numbers):
        """How many tensors were made that hold this many numbers or more."""
        return sum(size >= numbers for size in self.sizes)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self.operations += 1
        flat = [a for v in (*args, *kwargs.values()) for a in (v if isinstance(v, list) else [v])]
        known = {_storage(tensor) for tensor in flat} - {None}
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if _storage(tensor) not in known | {None}:
                self.sizes.append(tensor.numel())
        return made


def _storage(value):
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        return value.untyped_storage().data_ptr()
    return None
