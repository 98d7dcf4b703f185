"""The layers behind CIM's features: mask-guided RoI features and the scores (spec 3.2, 3.3).

N proposals, D channels, r x r cells per region, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Scores:
    """What the network says about the N proposals of an image; column 0 is background.

    Attributes:
        classes: (N, C + 1), sums to 1 over classes.
        detection: (N, C + 1), sums to 1 over proposals.
        refined: per branch (N, C + 1), sums to 1 over classes.
        integrity: per branch (N, C + 1) or (N, 1), in (0, 1).
    """

    classes: Tensor
    detection: Tensor
    refined: tuple[Tensor, ...]
    integrity: tuple[Tensor, ...]

    def final(self) -> Tensor:
        """(N, C): mean over the branches of refined scores times integrity, no background."""
        parts = []
        for scores, integrity in zip(self.refined, self.integrity, strict=True):
            complete = integrity if integrity.shape[1] == 1 else integrity[:, 1:]
            parts.append(scores[:, 1:] * complete)
        return torch.stack(parts).mean(dim=0)


class MaskGuidedHead(nn.Module):
    """RoI features and the same features within the mask, fused to a vector of ``dim``.

    Features have D ``channels`` and r x r cells. The original concatenates both and applies a 3x3
    convolution; here it is the sum of two convolutions: the same numbers up to rounding, without a
    copy of 2 D channels. Without ``use_masks`` the masked half is left out (an ablation).
    """

    def __init__(self, channels: int, resolution: int, dim: int, *, use_masks: bool = True) -> None:
        super().__init__()
        self.use_masks = use_masks
        self.fuse = nn.Conv2d(channels * (2 if use_masks else 1), channels, 3, padding=1)
        self.fc1 = nn.Linear(channels * resolution**2, dim)
        self.fc2 = nn.Linear(dim, dim)

    def fused(self, regions: Tensor, crops: Tensor) -> Tensor:
        """Fused features (N, D, r, r), after the ReLU, from those and masks (N, r, r)."""
        weight, bias = self.fuse.weight, self.fuse.bias
        if not self.use_masks:
            return functional.conv2d(regions, weight, bias, padding=1).relu()
        channels = regions.shape[1]
        whole = functional.conv2d(regions, weight[:, :channels], bias, padding=1)
        masked = regions * crops[:, None].to(regions.dtype)
        return (whole + functional.conv2d(masked, weight[:, channels:], padding=1)).relu()

    def forward(self, regions: Tensor, crops: Tensor) -> Tensor:
        """The vectors (N, dim) of proposals, from features (N, D, r, r) and masks (N, r, r)."""
        vector = self.fc1(self.fused(regions, crops).flatten(1)).relu()
        return self.fc2(vector).relu()


class ScoreHead(nn.Module):
    """The linear layers that score proposals by their vectors of ``dim``.

    There are C = ``num_classes`` classes and ``num_branches`` refinement branches;
    ``class_agnostic`` gives one integrity score for all classes.
    """

    def __init__(
        self, dim: int, num_classes: int, *, num_branches: int = 3, class_agnostic: bool = False
    ) -> None:
        super().__init__()
        width = num_classes + 1
        self.classifier = nn.Linear(dim, width)
        self.detector = nn.Linear(dim, width)
        self.refine_classes = nn.ModuleList(nn.Linear(dim, width) for _ in range(num_branches))
        self.refine_integrity = nn.ModuleList(
            nn.Linear(dim, 1 if class_agnostic else width) for _ in range(num_branches)
        )

    def forward(self, vectors: Tensor) -> Scores:
        """Scores of vectors (N, dim), in float32 whatever the precision of the layers."""
        return Scores(
            self.classifier(vectors).float().softmax(dim=1),
            self.detector(vectors).float().softmax(dim=0),
            tuple(layer(vectors).float().softmax(dim=1) for layer in self.refine_classes),
            tuple(layer(vectors).float().sigmoid() for layer in self.refine_integrity),
        )
