"""IAM's extent filling: from the incomplete response of a peak to the mask of its instance.

Spec 3; the public re-implementation is LiuYiwai/simple-IAM (``InstanceExtentFilling``).

P peaks, B images, H x W input, h x w grid of stride 4, k x k window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsis.errors import UsageError
from wsis.layers.precision import at_least_float32, full_precision
from wsis.methods.iam.filling import fill, filling_weights
from wsis.modeling.network import require_one_of

STATISTICS = ("running", "batch")
_WIDTH = 64  # channels next to the input and output resolution
_PRIOR = 0.1  # share of an image that an instance covers, before anything is learnt
_PEAKS_AT_ONCE = 8  # decoded together in inference; 0.4 GB at 448 x 448


class FillingNorm(nn.BatchNorm2d):
    """Batch norm that in evaluation mode uses "running" statistics or those of the "batch"."""

    statistics: str = "running"

    def evaluate(self, x: Tensor, offset: Tensor) -> Tensor:
        """Normalise ``x + offset``, (N, C, h, w) and (C,), in evaluation mode.

        The offset (the bias of the convolution before) cancels against the mean, so it is never
        added: responses are so small beside it that float32 would lose their digits.
        """
        if self.statistics == "batch":
            return functional.batch_norm(
                x, None, None, self.weight, self.bias, training=True, eps=self.eps
            )
        mean = self.running_mean - offset.detach()
        return functional.batch_norm(
            x, mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class ConvNorm(nn.Module):
    """Convolution, stride 1, same size, with bias; `FillingNorm`; ReLU unless switched off."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        transposed: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.conv = kind(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = FillingNorm(out_channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """The result (N, out, h, w) for ``x`` (N, in, h, w)."""
        if self.training:
            x = self.norm(self.conv(x))
        else:
            transposed = isinstance(self.conv, nn.ConvTranspose2d)
            convolve = functional.conv_transpose2d if transposed else functional.conv2d
            x = convolve(x, self.conv.weight, padding=self.conv.padding)
            x = self.norm.evaluate(x, self.conv.bias)
        return functional.relu(x) if self.relu else x


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class FeaturePyramid(nn.Module):
    """Joins backbone features of strides 4, 8 and 16 into one map of stride 4 (step 2).

    ``in_channels`` are those of the three features, fine to coarse; ``width`` channels lie between.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, width: int = 256) -> None:
        super().__init__()
        fine, middle, coarse = in_channels
        self.top = nn.Conv2d(coarse, width, 1)
        self.lateral3 = ConvNorm(middle, width, kernel_size=1, relu=False)
        self.lateral2 = ConvNorm(fine, width, kernel_size=1, relu=False)
        self.smooth3 = ConvNorm(width, width, relu=False)
        self.smooth2 = ConvNorm(width, out_channels, relu=True)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The map (B, out, h, w), not negative, of three maps (B, ., ., .), fine to coarse."""
        fine, middle, coarse = features
        x = _resized(self.top(coarse), middle.shape[-2:]) + self.lateral3(middle)
        x = _resized(self.smooth3(x), fine.shape[-2:]) + self.lateral2(fine)
        return self.smooth2(x)


class FillingNetwork(nn.Module):
    """Encoder of peak responses, filling weights from the image, T filling steps, decoder.

    The sides need not be multiples of 4: pooling rounds up, as strided convolutions do, and the
    decoder returns to the size of the responses. Images of a batch must share a size.

    Args:
        in_channels: of the backbone's features of strides 4, 8, 16.
        channels: C, that are filled.
        kernel_size: k, odd.
        num_iterations: T.
        pyramid_width: channels inside the feature pyramid.
        statistics: of the batch norms in evaluation mode. With "running" a peak's map does not
            depend on what is processed with it; "batch" is what simple-IAM does.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int = 16,
        kernel_size: int = 3,
        num_iterations: int = 112,
        pyramid_width: int = 256,
        statistics: str = "running",
    ) -> None:
        super().__init__()
        if len(in_channels) != 3 or kernel_size % 2 == 0:
            raise UsageError(
                "MODEL.IAM wants three IN_FEATURES, fine to coarse, and an odd KERNEL_SIZE, not "
                f"{len(in_channels)} and {kernel_size}"
            )
        self.kernel_size = kernel_size
        self.num_iterations = num_iterations
        self.encoder = nn.ModuleList([ConvNorm(1, _WIDTH), ConvNorm(_WIDTH, channels)])
        self.pyramid = FeaturePyramid(
            in_channels, channels * kernel_size * kernel_size, width=pyramid_width
        )
        self.decoder = nn.ModuleList(
            [
                ConvNorm(channels, channels, transposed=True),
                ConvNorm(channels, _WIDTH, transposed=True),
                ConvNorm(_WIDTH, 1, transposed=True, relu=False),
            ]
        )
        nn.init.constant_(self.decoder[2].norm.bias, math.log(_PRIOR / (1 - _PRIOR)))
        self.set_statistics(statistics)

    def set_statistics(self, statistics: str) -> None:
        """Which statistics batch norm uses in evaluation mode, one of `STATISTICS`."""
        require_one_of("MODEL.IAM.STATISTICS", statistics, STATISTICS)
        self.statistics = statistics
        for module in self.modules():
            if isinstance(module, FillingNorm):
                module.statistics = statistics

    def forward(self, responses: Tensor, image_index: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Logits (P, H, W), whose sigmoid is the activation map.

        Args:
            responses: (P, H, W) peak response maps, each of sum 1.
            image_index: (P,) integers in 0..B-1, in any order.
            features: maps of strides 4, 8, 16 of the images, (B, ., ., .); images without a peak
                take no part, not even in batch statistics.
        """
        if len(responses) == 0:
            return responses.new_zeros(responses.shape)
        images, index = image_index.unique(return_inverse=True)
        images = images.to(features[0].device)
        weights = self.weights_of([feature[images] for feature in features])
        if self.training or self.statistics == "batch":
            return self._fill_and_decode(responses, index, weights)
        parts = zip(responses.split(_PEAKS_AT_ONCE), index.split(_PEAKS_AT_ONCE), strict=True)
        return torch.cat([self._fill_and_decode(r, i, weights) for r, i in parts])

    def encode(self, responses: Tensor) -> Tensor:
        """Responses (P, H, W) encoded as (P, C, h, w) (step 1), in float32 even under autocast.

        Responses have a mean of about 5e-6: half precision would lose them beside the bias of a
        convolution.
        """
        with full_precision(responses.device):
            x = at_least_float32(responses)[:, None]
            for block in self.encoder:
                x = functional.max_pool2d(block(x), 2, ceil_mode=True)
        return x

    def weights_of(self, features: Sequence[Tensor]) -> Tensor:
        """Filling weights (B, C, k k, h, w) of images (steps 2 and 3)."""
        return filling_weights(self.pyramid(features), self.kernel_size)

    def decode(self, filled: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (P, H, W) of filled maps (P, C, h, w) (step 5)."""
        height, width = size
        x = self.decoder[0](filled)
        x = self.decoder[1](_resized(x, (-(-height // 2), -(-width // 2))))
        return at_least_float32(self.decoder[2](_resized(x, size)))[:, 0]

    def _fill_and_decode(self, responses: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        encoded = _resized(self.encode(responses), weights.shape[-2:])
        filled = fill(encoded, weights, index, num_iterations=self.num_iterations)
        return self.decode(filled, responses.shape[-2:])
