"""IAM's filling iterations as the public re-implementation computes them: unfold, multiply, sum."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint_sequential
from wsis.methods.iam.filling import fill, filling_weights

from plain import Benchmark, difference

CHANNELS, WINDOW, STEPS, GRID = 16, 3, 112, 112  # 448 x 448 pixels
KEPT_EVERY = 16  # iterations between the maps that training keeps


def scene(peaks: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Maps (P, 16, 112, 112), filling weights of one image, image of each peak."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(peaks, CHANNELS, GRID, GRID, generator=generator)
    features = torch.randn(1, CHANNELS * WINDOW**2, GRID, GRID, generator=generator).relu()
    made = maps, filling_weights(features, WINDOW), torch.zeros(peaks, dtype=torch.int64)
    return tuple(one.to(device) for one in made)


def plain_fill(maps: Tensor, weights: Tensor, index: Tensor, *, num_iterations: int) -> Tensor:
    """As `fill`; under checkpointing where a gradient is wanted."""
    chosen, side = weights.permute(0, 1, 3, 4, 2)[index], int(weights.shape[2] ** 0.5)

    def step(maps: Tensor) -> Tensor:
        windows = functional.unfold(maps, side, padding=side // 2)
        windows = windows.view(*maps.shape[:2], side * side, *maps.shape[2:])
        return (windows.permute(0, 1, 3, 4, 2) * chosen).sum(dim=-1)

    if num_iterations == 0:
        return maps
    parts = max(1, num_iterations // KEPT_EVERY)
    return checkpoint_sequential([step] * num_iterations, parts, maps, use_reentrant=False)


def build(peaks: int, *, training: bool, device: str = "cpu") -> Benchmark:
    """``peaks`` of one image; in training also the gradients."""
    maps, weights, index = scene(peaks, device)
    inputs = maps.requires_grad_(training), weights.requires_grad_(training)
    upstream = torch.rand(maps.shape, generator=torch.Generator().manual_seed(1)).to(device)

    def run(method: Any) -> list[Tensor]:
        with torch.set_grad_enabled(training):
            result = method(*inputs, index, num_iterations=STEPS)
        gradients = torch.autograd.grad(result, inputs, upstream) if training else ()
        return [result.detach(), *gradients]

    kept = f" and checkpointing every {KEPT_EVERY}, with the gradients" if training else ""
    return Benchmark(
        ours=partial(run, fill),
        plain=partial(run, plain_fill),
        error=partial(difference, relative=True),
        note=f"{STEPS} iterations; plain: unfold, multiply, sum{kept}; error relative",
    )


BENCHMARKS = {
    "iam_filling/5": partial(build, 5, training=False),
    "iam_filling_training/5": partial(build, 5, training=True),
}
