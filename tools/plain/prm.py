"""PRM's peak back-propagation as the original does it: one peak at a time through autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from wsis.config import get_wsis_cfg
from wsis.modeling.peak_classifier import PeakClassifier, build_peak_classifier

from plain import Benchmark, register

SIDE, CLASSES = 448, 20


class PlainPeakConvolution(torch.autograd.Function):
    """An ordinary convolution whose gradient is shared out by x' W+."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: dict) -> Tensor:
        shifted, positive = x - x.min(), weight.clamp(min=0)
        ctx.save_for_backward(shifted, positive, F.conv2d(shifted, positive, **options))
        ctx.options = options
        return F.conv2d(x, weight, bias, **options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        shifted, positive, normaliser = ctx.saved_tensors
        share = gradient / (normaliser.abs() + 1e-10)
        share = share.masked_fill(normaliser < 1e-10, 0)
        spread = conv2d_input(shifted.shape, positive, share, **ctx.options)
        return shifted * spread, None, None, None


def patch(network: nn.Module) -> None:
    """Give every convolution of a network of plain ``nn.Conv2d`` children the peak rule."""

    def forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
        options = {k: getattr(layer, k) for k in ("stride", "padding", "dilation", "groups")}
        made = PlainPeakConvolution.apply(x, layer.weight, layer.bias, options)
        norm, activation = (getattr(layer, name, None) for name in ("norm", "activation"))
        made = made if norm is None else norm(made)
        return made if activation is None else activation(made)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(forward, module)


def plain_responses(network: PeakClassifier, image: Tensor, peaks: Tensor) -> Tensor:
    """(P, H, W): forward once, then one backward pass for each peak."""
    image = image.clone().requires_grad_()
    with torch.enable_grad():
        _, maps, _ = network(image)
        responses = []
        for peak in peaks.tolist():
            image.grad = None
            maps[tuple(peak)].backward(retain_graph=True)
            response = image.grad.detach().sum(dim=1)[0].clamp(min=0)
            responses.append(response / response.sum())
    return torch.stack(responses)


def network_of() -> PeakClassifier:
    """PRM's ResNet-50 with random weights."""
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.PEAK_CLASSIFIER.NUM_CLASSES = CLASSES
    torch.manual_seed(0)
    return build_peak_classifier(cfg).eval().requires_grad_(False)


def highest_peaks(network: PeakClassifier, image: Tensor, count: int) -> Tensor:
    """The ``count`` highest peaks, (count, 4)."""
    _, maps, peaks = network(image)
    values = maps[tuple(peaks.unbind(1))]
    if len(peaks) < count:
        raise AssertionError(f"the random network has only {len(peaks)} peaks")
    return peaks[values.argsort(descending=True, stable=True)[:count]]


def relative_error(plain: Tensor, ours: Tensor) -> float:
    """Largest difference of two response maps over the maximum of the map."""
    return float(((plain - ours).abs().amax(dim=(1, 2)) / plain.amax(dim=(1, 2))).max())


def build(count: int) -> Benchmark:
    """``count`` peaks of one picture of 448 x 448: the network forwards, then their maps."""
    network, patched = network_of(), network_of()
    patch(patched)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((1, 3, 14, 14), generator=generator)
    image = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic") * 4 - 2
    peaks = highest_peaks(network, image, count)
    lowest = float(network(image)[1][tuple(peaks.unbind(1))].min())
    network.peak_threshold = lowest - 1e-6 * abs(lowest)
    network.class_threshold = float("-inf")
    network.max_peaks = count
    chosen = network.respond([image[0]], back_propagate=False)[0].peaks
    peaks = F.pad(chosen, (1, 0))
    ours: Callable[[], Tensor] = lambda: network.respond([image[0]])[0].responses  # noqa: E731
    return Benchmark(
        plain=lambda: plain_responses(patched, image, peaks),
        ours=ours,
        error=relative_error,
        note="forward, then one backward pass for each peak; error relative to a map's maximum",
    )


for _count in (1, 5, 20):
    register(f"prm_inference/{SIDE}/{_count}", partial(build, _count))
