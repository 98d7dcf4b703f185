"""From instance activation maps to instances: refinement, size of the picture, scores, suppression.

K peaks of one image, H x W network input, Ho x Wo result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from wsis.layers.components import map_foreground
from wsis.layers.crf import DenseCRF, Kernel
from wsis.layers.masks import mask_nms
from wsis.modeling.network import (
    crf_kernels,
    mask_instances,
    network,
    options_of,
    require_one_of,
)

SCORES = ("class", "mask", "product")
IAM_KERNELS = (Kernel(3.0, 3.0), Kernel(80.0, 10.0, 13.0))
"""Settings of simple-IAM."""

_LEAST = 1e-10  # probability that stands for 0
_AT_ONCE = 16  # maps that are refined, or enlarged, together; 16 MB for 500 x 500


def refine_by_crf(
    image: Tensor,
    maps: Tensor,
    *,
    kernels: Sequence[Kernel] = IAM_KERNELS,
    num_iterations: int = 5,
) -> Tensor:
    """Foreground probability of every instance after mean field on the image (spec 6).

    ``image`` is (H, W, 3) uint8, RGB; ``maps`` (K, H, W) are probabilities, where exactly 0 and 1
    count as 1e-10 away from it. The result is (K, H, W) float32; the mask is where it is above 1/2.
    With 0 iterations the maps themselves are returned.
    """
    if len(maps) == 0 or num_iterations == 0:
        return maps.float()
    crf = DenseCRF(image.to(maps.device), kernels)
    return torch.cat(
        [crf.infer_binary(_logits(part), num_iterations) for part in maps.float().split(_AT_ONCE)]
    )


def _logits(maps: Tensor) -> Tensor:
    inside, outside = (torch.where(p == 0, _LEAST, p).log() for p in (maps, 1 - maps))
    return inside - outside


@ROI_HEADS_REGISTRY.register()
@network
class IAMROIHeads(nn.Module):
    """Makes instances from an image's activation maps; nothing is trained here.

    Its options are the keys of ``MODEL.IAM``, in lower case, and these.

    Attributes:
        crf_iterations: mean-field steps of the dense CRF on the network's input; 0 for none.
        crf_kernels: its pairwise terms.
    """

    crf_iterations: int = 5
    crf_kernels: Sequence[Kernel] = IAM_KERNELS
    mask_threshold: float = 0.5
    min_area: float = 0.0
    nms_threshold: float = 0.5
    nms_across_classes: bool = False
    score: str = "product"
    max_instances: int = 0

    def __post_init__(self) -> None:
        require_one_of("MODEL.IAM.SCORE", self.score, SCORES)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.IAM``."""
        keys = cfg.MODEL.IAM
        return options_of(cls, keys) | {
            "crf_iterations": keys.CRF.ITERATIONS,
            "crf_kernels": crf_kernels(keys.CRF),
        }

    def forward(
        self, image: Tensor, maps: Tensor, logits: Tensor, classes: Tensor, size: tuple[int, int]
    ) -> Instances:
        """Instances of an image, best score first.

        ``image`` (3, H, W), RGB in 0..255, is needed for its colours; ``maps`` (K, H, W) in [0, 1]
        are the peaks' activation maps, ``classes`` (K,) int64 their classes with ``logits`` (K,),
        ``size`` (Ho, Wo) is that of the result.

        Returns:
            pred_masks (n, Ho, Wo) bool, pred_boxes, pred_classes (n,), scores (n,) in [0, 1] and
            ``peak`` (n,) int64, the candidate.
        """
        colours = image.permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).contiguous()
        refined = refine_by_crf(
            colours, maps, kernels=self.crf_kernels, num_iterations=self.crf_iterations
        )
        masks, inside = self._masks(refined, size), self._inside(refined)
        area = inside.flatten(1).sum(1).clamp(min=1)
        mean = (maps * inside).flatten(1).sum(1) / area
        scores = {"class": logits.sigmoid(), "mask": mean, "product": mean * logits.sigmoid()}
        scores = scores[self.score]
        enough = masks.flatten(1).sum(dim=1) >= max(1, self.min_area * size[0] * size[1])
        kept = enough.nonzero().flatten()
        groups = None if self.nms_across_classes else classes[kept]
        kept = kept[mask_nms(masks[kept], scores[kept], self.nms_threshold, groups=groups)]
        if self.max_instances:
            kept = kept[: self.max_instances]
        return mask_instances(masks[kept], classes[kept], scores[kept], peak=kept)

    def _masks(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (K, H, W), enlarged to (Ho, Wo) and cut at the threshold."""
        masks = [maps.new_zeros((0, *size), dtype=torch.bool)]
        for part in maps.split(_AT_ONCE) if len(maps) else ():
            if tuple(part.shape[1:]) != size:
                part = functional.interpolate(
                    part[:, None], size=size, mode="bilinear", align_corners=False
                )[:, 0]
            masks.append(self._inside(part))
        return torch.cat(masks)

    def _inside(self, maps: Tensor) -> Tensor:
        """Where maps (K, H, W) are above the threshold, or each above Otsu's of its own."""
        if self.mask_threshold > 0 or len(maps) == 0:
            return maps > self.mask_threshold
        found = [map_foreground(values, 0.0) for values in maps.float().cpu().numpy()]
        return torch.from_numpy(np.stack(found)).to(maps.device)
