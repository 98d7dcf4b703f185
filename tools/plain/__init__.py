"""The hot kernels to be timed, each with the plain way of doing the same.

One file per kernel holds the plain implementation (ours, written as the paper states it) and its
``BENCHMARKS``: a name, as ``random_walk/47x63``, to a function that makes the inputs (not timed)
and returns a `Benchmark`. One that takes ``device`` can do so on a GPU. The tests use the plain
ways as oracles. This folder is found because it lies beside the script, and by the tests because
``pyproject.toml`` says so; it is never imported as ``tools.plain``, a name that Detectron2's 0.5
wheel also installs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree

IMAGE = (375, 500)  # height and width of most pictures of VOC


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One kernel on one input.

    Attributes:
        ours: what is measured; takes nothing, returns the result.
        plain: the plain way, or None where it cannot run here (its column stays empty).
        error: largest absolute difference of (result of plain, result of ours).
        scale: the plain way's seconds are multiplied by this, where it does a smaller job.
        note: what the plain way is, or why there is none.
        images: how many images ours treats, where it is a stage; else 0.
        network_share: runs ours and gives the share of its time that the network takes.
    """

    ours: Callable[[], Any]
    plain: Callable[[], Any] | None = None
    error: Callable[[Any, Any], float] | None = None
    scale: float = 1.0
    note: str = ""
    images: int = 0
    network_share: Callable[[], float] | None = None


def synchronize() -> None:
    """Wait for the GPU, if there is one in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def difference(plain: Any, ours: Any, *, relative: bool = False) -> float:
    """Largest difference of two results: numbers, arrays, tensors or lists of them.

    Args:
        plain: result of the plain way.
        ours: the same, of the same shapes; infinite where shapes or masks differ.
        relative: each array's difference over its largest value.
    """
    if isinstance(plain, list | tuple):
        return max(difference(a, b, relative=relative) for a, b in zip(plain, ours, strict=True))
    plain, ours = (np.asarray(v.cpu() if isinstance(v, torch.Tensor) else v) for v in (plain, ours))
    if plain.dtype.kind == "b" or plain.shape != ours.shape:
        return 0.0 if np.array_equal(plain, ours) else float("inf")
    largest = np.abs(plain.astype(np.float64) - ours).max(initial=0)
    return float(largest / np.abs(plain).max() if relative else largest)


def superpixel_unions(count: int, cells: int, radii: tuple[tuple[float, float], ...]) -> np.ndarray:
    """(N, H, W) bool: unions of neighbouring superpixels, as grouping makes proposals.

    Args:
        count: N.
        cells: number of superpixels.
        radii: ranges of the unions' radii in pixels, which the masks take in turns.
    """
    generator = np.random.default_rng(0)
    seeds = generator.uniform(size=(cells, 2)) * IMAGE
    labels = KDTree(seeds).query(np.stack(np.mgrid[: IMAGE[0], : IMAGE[1]], axis=-1))[1]
    masks = np.zeros((count, *IMAGE), dtype=bool)
    for number, mask in enumerate(masks):
        distance = np.hypot(*(seeds - seeds[generator.integers(cells)]).T)
        mask[:] = (distance < generator.uniform(*radii[number % len(radii)]))[labels]
    return masks
