"""Peak response maps: where in the image a peak of a class map comes from (prm spec 5).

N images, C classes, P peaks, H x W image, h x w class map. Every convolution shares out the score
of a cell among its inputs in proportion to x' W+ (x' the input less its minimum, W+ the positive
weights); all else keeps its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wsis.layers.peak_backward import PeakProgram
from wsis.layers.peak_tape import Tape, record
from wsis.layers.peak_windows import Windows
from wsis.layers.precision import full_precision

__all__ = ["PeakRule", "peak_response_maps", "peak_seeds", "record"]
# Bytes of gradients at a time. On a CPU one large map after another is fastest: groups that outgrow
# its caches took half as long again with 256 MiB, twice as long with 1 GiB.
CPU_MEMORY, GPU_MEMORY = 2**26, 2**30


def _interpolation(index: Tensor, cells: int, factor: int) -> tuple[Tensor, Tensor]:
    """First cell and weights (P, 1 or 2) of pixels of an axis enlarged corner to corner."""
    if factor == 1 or cells == 1:
        first = index if factor == 1 else torch.zeros_like(index)
        return first, torch.ones((len(index), 1), device=index.device)
    scale = torch.tensor(cells - 1, dtype=torch.float32) / (factor * cells - 1)
    place = index.float() * scale.to(index.device)
    low = place.floor()
    share = place - low
    first = low.long().clamp(max=cells - 2)
    at_end = low.long() > first
    weights = torch.stack([1 - share, share], dim=1)
    weights[at_end] = torch.tensor([0.0, 1.0], device=index.device)
    return first, weights


def peak_seeds(peaks: Tensor, shape: tuple[int, ...], *, factor: int = 1) -> Windows:
    """The gradient of each peak's value at the class maps before their upsampling.

    Args:
        peaks: (P, 4) int64 rows (image, class, y, x) in maps enlarged by ``factor``.
        shape: (N, C, h, w) of the maps before.
        factor: see `wsis.layers.peaks.upsample_maps`.
    """
    top, rows = _interpolation(peaks[:, 2], shape[2], factor)
    left, columns = _interpolation(peaks[:, 3], shape[3], factor)
    data = rows.new_zeros((len(peaks), shape[1], rows.shape[1], columns.shape[1]))
    every = torch.arange(len(peaks), device=peaks.device)
    data[every, peaks[:, 1]] = rows[:, :, None] * columns[:, None]
    return Windows(data, list(zip(top.tolist(), left.tolist(), strict=True)))


def normalize_response(gradient: Tensor) -> Tensor:
    """Gradients at the image (P, 3, H, W) to response maps (P, H, W): non-negative, of sum 1."""
    response = gradient.sum(dim=1).clamp(min=0)
    total = response.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, response / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


@torch.no_grad()
def peak_response_maps(
    tape: Tape,
    peaks: Tensor,
    *,
    factor: int = 1,
    offset: str = "image",
    memory: int | None = None,
    reduce: Callable[[Tensor], Tensor] = normalize_response,
) -> Tensor:
    """The peak response map of every peak.

    Args:
        tape: of the class maps, from `record`.
        peaks: (P, 4) int64 rows (image, class, y, x) in the maps enlarged by ``factor``.
        factor: sub-pixel locating factor of the peaks.
        offset: see `wsis.layers.peak_backward.PeakProgram`.
        memory: bytes of gradients to hold at a time, about; peaks are treated in groups that fit.
            None: 64 MiB on a CPU, else 1 GiB.
        reduce: gradients at the image (p, Ci, H, W) to what is kept of them.

    Returns:
        (P, H, W) non-negative, of sum 1 each, in the order of ``peaks``.

    Raises:
        ValueError: the network has an operation that peaks cannot pass.
    """
    if tape.last is None:
        raise ValueError("the class maps do not depend on the images")
    if len(peaks) == 0:
        return reduce(tape.output.new_zeros((0, 3, *tape.image_size)))
    with full_precision(tape.output.device):
        return _in_groups(tape, peaks, factor, offset, memory, reduce)


def _in_groups(
    tape: Tape,
    peaks: Tensor,
    factor: int,
    offset: str,
    memory: int | None,
    reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    program = PeakProgram(tape, offset=offset)
    element = tape.output.element_size()
    memory = memory or (CPU_MEMORY if tape.output.device.type == "cpu" else GPU_MEMORY)
    group = max(1, memory // (program.values_per_peak * element))
    seeds = peak_seeds(peaks, program.shape, factor=factor)
    images = peaks[:, 0].tolist()
    maps = []
    for start in range(0, len(peaks), group):
        part = slice(start, start + group)
        windows = Windows(seeds.data[part].to(tape.output.dtype), seeds.corners[part])
        maps.append(reduce(program.run(windows, images[part])))
    return torch.cat(maps)


class PeakRule(TorchFunctionMode):
    """The rule as autograd sees it: slow, plain, and for any network that autograd knows.

    ``with PeakRule(): maps = network(images)`` gives the ordinary maps; their gradients at the
    images, also batched ones (``is_grads_batched``), are those of the rule. Weights get none. The
    offset is the minimum over the whole batch. `peak_response_maps` is the fast way.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace two-dimensional convolutions."""
        kwargs = kwargs or {}
        if function is not F.conv2d:
            return function(*args, **kwargs)
        image, weight = args[:2] if len(args) > 1 else (args[0], kwargs.pop("weight"))
        with torch.no_grad():
            response = function(image, weight, *args[2:], **kwargs)
        shifted = (image - image.detach().amin()).detach()
        positive = weight.detach().clamp(min=0)
        rest = {**dict(zip(("bias", "stride", "padding"), args[2:5], strict=False)), **kwargs}
        rest |= dict(zip(("dilation", "groups"), args[5:7], strict=False))
        rest.pop("bias", None)
        normaliser = function(shifted, positive, **rest)
        share = (normaliser >= 1e-10) / (normaliser.abs() + 1e-10)
        spread = share * function(image * shifted, positive, **rest)
        return response + (spread - spread.detach())
