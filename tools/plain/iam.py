"""IAM's filling iterations as the public re-implementation computes them: unfold, multiply, sum."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from wsis.methods.iam.filling import fill, filling_weights

from plain import Benchmark, register

CHANNELS, WINDOW, STEPS, GRID = 16, 3, 112, 112  # 448 x 448 pixels
KEPT_EVERY = 16  # iterations between the maps that training keeps


def scene(peaks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (P, 16, 112, 112), filling weights of one image, image of each peak."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(peaks, CHANNELS, GRID, GRID, generator=generator)
    features = torch.randn(1, CHANNELS * WINDOW**2, GRID, GRID, generator=generator).relu()
    return maps, filling_weights(features, WINDOW), torch.zeros(peaks, dtype=torch.int64)


def plain_steps(maps: Tensor, weights: Tensor, steps: int) -> Tensor:
    """``steps`` iterations; weights (P, C, h, w, k k) of every peak."""
    for _ in range(steps):
        windows = functional.unfold(maps, WINDOW, padding=WINDOW // 2)
        windows = windows.view(*maps.shape[:2], WINDOW**2, *maps.shape[2:])
        maps = (windows.permute(0, 1, 3, 4, 2) * weights).sum(dim=-1)
    return maps


def plain_fill(maps: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """All iterations, under checkpointing where a gradient is wanted."""
    chosen = weights.permute(0, 1, 3, 4, 2)[index]
    if not torch.is_grad_enabled():
        return plain_steps(maps, chosen, STEPS)
    for _ in range(0, STEPS, KEPT_EVERY):
        maps = checkpoint(plain_steps, maps, chosen, KEPT_EVERY, use_reentrant=False)
    return maps


def largest_difference(plain: Any, ours: Any) -> float:
    """Over all results, relative to the largest value of each."""
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(plain, ours, strict=True))


def build(peaks: int, *, training: bool) -> Benchmark:
    """All iterations of one image; in training with the gradients."""
    maps, weights, index = scene(peaks)
    upstream = torch.rand(maps.shape, generator=torch.Generator().manual_seed(1))
    inputs = maps.requires_grad_(training), weights.requires_grad_(training)

    def run(method: Any) -> list[Tensor]:
        with torch.set_grad_enabled(training):
            result = method(*inputs, index)
        gradients = torch.autograd.grad(result, inputs, upstream) if training else ()
        return [result.detach(), *gradients]

    note = f"{STEPS} iterations; plain: unfold, multiply, sum; error relative"
    if training:
        note = "with the gradients; plain: also checkpointing every 16; error relative"
    ours = partial(run, partial(fill, num_iterations=STEPS))
    return Benchmark(ours=ours, plain=partial(run, plain_fill), error=largest_difference, note=note)


register("iam_filling/5", partial(build, 5, training=False))
register("iam_filling_training/5", partial(build, 5, training=True))
