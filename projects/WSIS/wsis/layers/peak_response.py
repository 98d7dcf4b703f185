"""Peak response maps: where in the image a peak of a class map comes from (`methods/prm.md` 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wsis.layers.peak_backward import PeakProgram, Window
from wsis.layers.peaks import upsample_maps
from wsis.layers.precision import full_precision, map_layout

CPU_MEMORY, GPU_MEMORY = 2**26, 2**30


@dataclass(frozen=True)
class Tape:
    output: Tensor
    images: Tensor
    made: Any = None


def record(network, images, *, select=None) -> Tape:
    with torch.inference_mode(False), torch.enable_grad(), full_precision(images.device):
        images = images.detach().clone(memory_format=map_layout(images.device)).requires_grad_()
        made = network(images)
        return Tape(made if select is None else select(made), images, made)


def _seeds(peaks: Tensor, shape: tuple[int, ...], factor: int, dtype) -> Window:
    count = len(peaks)
    every = torch.arange(count, device=peaks.device)
    with torch.inference_mode(False), torch.enable_grad():
        cells = torch.zeros((count, 1, *shape[2:]), device=peaks.device, requires_grad=True)
        values = upsample_maps(cells, factor)[every, 0, peaks[:, 2], peaks[:, 3]]
        (own,) = torch.autograd.grad(values.sum(), cells)
    rows, columns = (own.sum(dim=(0, 1, d)).nonzero().flatten().tolist() for d in (3, 2))
    own = own[:, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    data = torch.zeros((count, shape[1], *own.shape[1:]), dtype=dtype, device=own.device)
    data[every, peaks[:, 1]] = own.to(dtype)
    return Window(data, (rows[0], columns[0]))


def normalize_response(gradient: Tensor) -> Tensor:
    """Gradients at the image (P, 3, H, W) to response maps (P, H, W): non-negative, of sum 1."""
    response = gradient.sum(dim=1).clamp(min=0)
    total = response.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, response / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


@torch.no_grad()
def peak_response_maps(tape, peaks, *, factor=1, offset="image", memory=None):
    output = tape.output
    if len(peaks) == 0:
        return output.new_zeros((0, *tape.images.shape[2:]))
    maps = []
    with full_precision(output.device):
        program = PeakProgram(output, tape.images, offset=offset)
        memory = memory or (CPU_MEMORY if output.device.type == "cpu" else GPU_MEMORY)
        size = max(1, memory // (program.values_per_peak * output.element_size()))
        for image, own in groups(peaks, size):
            seeds = _seeds(own, tuple(output.shape), factor, output.dtype)
            maps.append(normalize_response(program.run(seeds, image)))
    return torch.cat(maps)


def groups(peaks, size):
    """Neighbours of one image, ``size`` at the most."""
    images, start = peaks[:, 0].tolist(), 0
    for end in range(1, len(images) + 1):
        if end == len(images) or images[end] != images[start] or end - start == size:
            yield images[start], peaks[start:end]
            start = end
