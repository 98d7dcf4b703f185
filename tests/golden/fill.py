"""Weights and inputs of the golden files, drawn from generators seeded by name.

The golden files hold a network's inputs and outputs only; its weights are rebuilt from their names,
so that they do not depend on the order of modules. ``prefix`` separates families of files.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch


def rng(name: str, prefix: str) -> np.random.Generator:
    """The generator of the array called ``name``."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{prefix}:{name}".encode())))


def array(name: str, shape: Sequence[int], prefix: str) -> np.ndarray:
    """The value of state-dict entry ``name``, float32 (int64 for a batch counter)."""
    generator = rng(name, prefix)
    leaf = name.rpartition(".")[2]
    shape = tuple(shape)
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if leaf == "running_var" or (leaf == "weight" and len(shape) < 2):
        return np.asarray(0.5 + generator.random(shape), dtype=np.float32)
    if leaf != "running_mean" and len(shape) >= 2:
        scale = math.sqrt(2.0 / math.prod(shape[1:]))
        return np.asarray(generator.standard_normal(shape) * scale, dtype=np.float32)
    return np.asarray(0.1 * generator.standard_normal(shape), dtype=np.float32)


def state_dict(
    shapes: Mapping[str, Sequence[int]],
    prefix: str,
    multipliers: Mapping[str, float] | None = None,
) -> dict[str, torch.Tensor]:
    """``{name: shape}`` to ``{name: tensor}``, each times its multiplier where it has one."""
    factors = multipliers or {}
    return {
        name: torch.from_numpy(array(name, shape, prefix)) * factors.get(name, 1)
        for name, shape in shapes.items()
    }


def image(name: str, height: int, width: int, prefix: str) -> np.ndarray:
    """A smooth random picture (H, W, 3) uint8 of twelve coloured blobs."""
    generator = rng(name, prefix)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float64)
    picture = np.zeros((height, width, 3))
    for _ in range(12):
        cy, cx = generator.random() * height, generator.random() * width
        sy = (0.05 + 0.25 * generator.random()) * height
        sx = (0.05 + 0.25 * generator.random()) * width
        bump = np.exp(-(((yy - cy) / sy) ** 2 + ((xx - cx) / sx) ** 2))
        picture += bump[..., None] * generator.random(3)
    return np.round(picture / picture.max() * 255).astype(np.uint8)
