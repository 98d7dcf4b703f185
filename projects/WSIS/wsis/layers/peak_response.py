"""Peak response maps: where in the image a peak of a class map comes from (prm spec 5).

N images, C classes, P peaks, H x W image, h x w class map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wsis.layers.peak_backward import PeakProgram, Window
from wsis.layers.peaks import upsample_maps
from wsis.layers.precision import full_precision, map_layout

# Bytes of gradients at a time. On a CPU one large map after another is fastest. Larger groups do
# not fit its caches: they took 1.5 times as long with 256 MiB, twice as long with 1 GiB.
CPU_MEMORY, GPU_MEMORY = 2**26, 2**30


class Tape(NamedTuple):
    """A map with the graph that autograd recorded of it."""

    output: Tensor  # (N, C, h, w)
    images: Tensor  # (N, Ci, H, W), the leaf of the graph


def record(network: Callable[[Tensor], Tensor], images: Tensor) -> Tape:
    """Run ``network`` on ``images`` (N, Ci, H, W) with autograd, whatever mode the caller is in.

    The network is any function of the images, its modules in evaluation mode. Autocast and TF32 are
    off.
    """
    with torch.inference_mode(False), torch.enable_grad(), full_precision(images.device):
        # an ordinary tensor of our own, also inside inference_mode
        images = images.detach().clone(memory_format=map_layout(images.device)).requires_grad_()
        return Tape(network(images), images)


@torch.no_grad()
def peak_response_maps(
    tape: Tape, peaks: Tensor, *, factor: int = 1, memory: int | None = None
) -> Tensor:
    """The peak response map of every peak.

    Args:
        tape: of the class maps, from `record`.
        peaks: (P, 4) int64 rows (image, class, y, x) in the maps enlarged by ``factor``.
        factor: sub-pixel locating factor of the peaks.
        memory: bytes of gradients to hold at a time, about; peaks are treated in groups that fit.
            None: 64 MiB on a CPU, else 1 GiB.

    Returns:
        (P, H, W) non-negative, of sum 1 each, in the order of ``peaks``.

    Raises:
        ValueError: the network has an operation that peaks cannot pass.
    """
    output = tape.output.detach()
    if len(peaks) == 0:
        return output.new_zeros((0, *tape.images.shape[2:]))
    with full_precision(output.device):
        program = PeakProgram(tape.output, tape.images)
        memory = memory or (CPU_MEMORY if output.device.type == "cpu" else GPU_MEMORY)
        most = max(1, memory // (program.values_per_peak * output.element_size()))
        runs = torch.stack(peaks[:, 0].unique_consecutive(return_counts=True)).tolist()
        maps = [
            normalize_response(program.run(peak_seeds(group, output, factor), image))
            for image, neighbours in zip(runs[0], peaks.split(runs[1]), strict=True)
            for group in neighbours.split(most)
        ]
    return torch.cat(maps)


def peak_seeds(peaks: Tensor, maps: Tensor, factor: int = 1) -> Window:
    """The gradient of each peak's value at the class maps before their upsampling.

    Args:
        peaks: (P, 4) int64 rows (image, class, y, x) in maps enlarged by ``factor``.
        maps: (N, C, h, w), the maps before the upsampling.
        factor: see `wsis.layers.peaks.upsample_maps`.
    """
    every = torch.arange(len(peaks), device=peaks.device)
    with torch.inference_mode(False), torch.enable_grad():
        y, x = peaks[:, 2].clone(), peaks[:, 3].clone()  # ordinary tensors
        cells = maps.new_zeros((len(peaks), 1, *maps.shape[2:])).requires_grad_()
        values = upsample_maps(cells, factor)[every.clone(), 0, y, x]
        (shares,) = torch.autograd.grad(values.sum(), cells)
    sums = [shares.sum(dim=(0, 1, axis)) for axis in (3, 2)]
    on_host = torch.cat(sums).tolist()  # a GPU is waited for once
    axes = on_host[: len(sums[0])], on_host[len(sums[0]) :]
    rows, columns = ([place for place, value in enumerate(axis) if value] for axis in axes)
    shares = shares[:, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    data = shares.new_zeros((len(peaks), maps.shape[1], *shares.shape[1:]))
    data[every, peaks[:, 1]] = shares
    return Window(data, (rows[0], columns[0]))


def normalize_response(gradient: Tensor) -> Tensor:
    """Gradients at the image (P, 3, H, W) to response maps (P, H, W): non-negative, of sum 1."""
    response = gradient.sum(dim=1).clamp(min=0)
    total = response.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, response / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)
