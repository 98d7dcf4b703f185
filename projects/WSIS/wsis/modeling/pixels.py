"""What every network on images begins with: the scale of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelModule(nn.Module):
    """A network that knows the mean and deviation of its pixels (``MODEL.PIXEL_MEAN``, ``_STD``).

    They are buffers outside the state dict: they come from the config, as Detectron2's do.

    Args:
        pixel_mean: per channel, on the scale of the images.
        pixel_std: likewise.
    """

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.pixel_mean.device

    def normalize(self, image: Tensor) -> Tensor:
        """(..., 3, H, W), uint8 or float, on the scale of the images, to the network's input."""
        return (image.to(self.device, self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
