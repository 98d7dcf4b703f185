"""Normalisation layers by name: Detectron2's, and batch norm that trains on running statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import get_norm as get_detectron2_norm
from torch import nn


class RunningStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always normalises by its running statistics, which never change.

    Weight and bias are ordinary parameters and train (IRNet's classifier, irnet spec 2);
    Detectron2's FrozenBatchNorm2d keeps them as buffers, which would leave them untrained. The
    state-dict keys are those of `torch.nn.BatchNorm2d`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (N, C, H, W); training and evaluation do the same."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )


def get_norm(name: str) -> str | Callable[[int], nn.Module]:
    """What to pass as ``norm`` to Detectron2's blocks for "RunningStatsBN", or a name of its own.

    Raises:
        ValueError: an unknown name.
    """
    if name == "RunningStatsBN":
        return RunningStatsBatchNorm2d
    try:
        get_detectron2_norm(name, 32)
    except KeyError:
        raise ValueError(
            f"unknown norm {name!r}: use RunningStatsBN, FrozenBN, BN, SyncBN or GN"
        ) from None
    return name
