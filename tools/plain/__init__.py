"""The hot kernels to be timed, each with the plain way of doing the same.

One file per kernel, imported by ``benchmark.py``; it holds the plain implementation (ours, written
plainly, as the originals compute it) and registers its sizes::

    register("random_walk/47x63", partial(build, 47, 63))

where ``build()`` makes the inputs (not timed) and returns a ``Benchmark``. This folder is found
because it lies beside the script; it is never imported as ``tools.plain``, a name that Detectron2's
0.5 wheel also installs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One kernel on one input.

    Attributes:
        ours: what is measured; takes nothing, returns the result.
        plain: the plain way, or None where it cannot run here (its column stays empty).
        error: largest absolute difference of (result of plain, result of ours).
        extrapolate: None where ``plain`` does the whole job. Otherwise ``plain`` does a smaller one
            and this turns its seconds into those of the whole; ``error`` then sees that smaller
            result and must make its own of the same size.
        note: what the plain way is, or why there is none.
    """

    ours: Callable[[], Any]
    plain: Callable[[], Any] | None = None
    error: Callable[[Any, Any], float] | None = None
    extrapolate: Callable[[float], float] | None = None
    note: str = ""


REGISTRY: dict[str, Callable[[], Benchmark]] = {}


def register(name: str, build: Callable[[], Benchmark]) -> None:
    """Add a benchmark; ``build`` is called only when its turn comes."""
    if name in REGISTRY:
        raise AssertionError(f"two benchmarks are called {name!r}")
    REGISTRY[name] = build


def largest_difference(plain: Any, ours: Any) -> float:
    """Over tensors, arrays, or lists of them, in float64."""
    if isinstance(plain, list | tuple):
        return max(largest_difference(a, b) for a, b in zip(plain, ours, strict=True))
    return float(np.abs(np.asarray(plain, dtype=np.float64) - np.asarray(ours)).max())
