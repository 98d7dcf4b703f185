"""Boolean stacks in golden files: packed bits, cut to the product of the shape."""

from collections.abc import Sequence

import numpy as np


def unpack(bits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The boolean array of ``shape`` that ``bits`` holds."""
    shape = tuple(int(s) for s in shape)
    return np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape).astype(bool)
