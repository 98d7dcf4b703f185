"""PRM's peak back-propagation as the original does it: one peak at a time through autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from wsis.config import get_wsis_cfg
from wsis.modeling.peak_classifier import PeakClassifier, build_peak_classifier

from plain import Benchmark, difference

SIDE = 448


class PeakRule(TorchFunctionMode):
    """Convolutions whose gradient is that of peak back-propagation (prm spec 3), for any network.

    ``with PeakRule(): maps = network(images)`` gives the ordinary maps. Backwards, a convolution
    shares out a cell's value over what it came from, in proportion to x' W+::

        dx = x' * (W+ transposed applied to g / n),  n = conv(x', W+),  x' = x - min(x)

    and nothing where n is 0. Weights get no gradient. The minimum is taken over the whole batch.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace two-dimensional convolutions."""
        if function is not F.conv2d:
            return function(*args, **(kwargs or {}))
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        options = dict(zip(names, args, strict=False)) | (kwargs or {})
        x, weight, bias = (options.pop(name, None) for name in names[:3])
        with torch.no_grad():
            response = function(x, weight, bias, **options)
            shifted, positive = x - x.amin(), weight.clamp(min=0)
            n = function(shifted, positive, **options)
            share = (n >= 1e-10) / (n.abs() + 1e-10)
        spread = share * function(x * shifted, positive, **options)  # its gradient is the rule's
        return response + (spread - spread.detach())


def plain_responses(network: Callable[[Tensor], Tensor], image: Tensor, peaks: Tensor) -> Tensor:
    """Peak response maps (P, H, W): forward once, then one backward pass for each peak.

    Args:
        network: from an image to its class response maps (1, C, h, w).
        image: (1, 3, H, W).
        peaks: (P, 4) int64, rows (0, class, y, x).
    """
    image, responses = image.clone().requires_grad_(), []
    with torch.enable_grad(), PeakRule():
        maps = network(image)
    for peak in peaks.tolist():
        (gradient,) = torch.autograd.grad(maps[tuple(peak)], image, retain_graph=True)
        response = gradient.sum(dim=1)[0].clamp(min=0)
        responses.append(response / response.sum())
    return torch.stack(responses)


def classifier(max_peaks: int, device: str = "cpu") -> PeakClassifier:
    """PRM's ResNet-50 with random weights, which keeps its highest peaks."""
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = device
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_wsis_resnet_backbone", 0
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.OUT_FEATURES = "BN", ["res5"]
    keys = cfg.MODEL.PEAK_CLASSIFIER
    keys.CLASS_THRESHOLD = keys.PEAK_THRESHOLD = float("-inf")
    keys.MAX_PEAKS = max_peaks
    torch.manual_seed(0)
    return build_peak_classifier(cfg).to(device).eval().requires_grad_(False)


def build(count: int, device: str = "cpu") -> Benchmark:
    """``count`` peaks of one picture of 448 x 448: the network forwards, then their maps."""
    network = classifier(count, device)
    coarse = torch.rand((1, 3, 14, 14), generator=torch.Generator().manual_seed(1))
    image = (F.interpolate(coarse, (SIDE, SIDE), mode="bicubic") * 4 - 2).to(device)
    peaks = F.pad(network.respond(image, back_propagate=False)[0].peaks, (1, 0))
    return Benchmark(
        plain=lambda: plain_responses(lambda x: network(x)[1], image, peaks),
        ours=lambda: network.respond(image)[0].responses,
        error=lambda plain, ours: difference(list(plain), list(ours), relative=True),
        note="forward, then one backward pass for each peak; error relative to a map's maximum",
    )


BENCHMARKS = {f"prm_inference/{SIDE}/{count}": partial(build, count) for count in (1, 5, 20)}
