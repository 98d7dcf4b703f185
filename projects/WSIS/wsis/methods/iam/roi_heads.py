"""From instance activation maps to instances: refinement, size of the picture, scores, suppression.

K peaks of one image, H x W network input, Ho x Wo result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional

from wsis.errors import UsageError
from wsis.layers.crf import BilateralKernel, GaussianKernel, Kernel
from wsis.layers.masks import mask_boxes, mask_nms
from wsis.methods.iam.refinement import IAM_KERNELS, refine_by_crf

SCORES = ("class", "mask", "product")
_AT_ONCE = 16  # maps that are enlarged together; 16 MB for 500 x 500


@ROI_HEADS_REGISTRY.register()
class IAMROIHeads(nn.Module):
    """Detectron2's ROI heads where features are activation maps and the candidates are peaks.

    Args:
        crf_iterations: mean-field steps of the dense CRF on the network's input; 0 for none.
        crf_kernels: its pairwise terms.
        threshold: probability above which a pixel belongs to the instance.
        min_area: share of the image below which an instance is left out; empty ones always are.
        nms_threshold: mask IoU from which the better of two instances suppresses the other; above
            1: never.
        nms_across_classes: whatever their classes; False: only instances of one class.
        score: "class" (sigmoid of the class's score), "mask" (mean activation inside the mask,
            before the CRF) or their "product".
        max_instances: the best so many of an image; 0 keeps all.
    """

    @configurable
    def __init__(
        self,
        *,
        crf_iterations: int = 5,
        crf_kernels: Sequence[Kernel] = IAM_KERNELS,
        threshold: float = 0.5,
        min_area: float = 0.0,
        nms_threshold: float = 0.5,
        nms_across_classes: bool = False,
        score: str = "product",
        max_instances: int = 0,
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise UsageError(f"MODEL.IAM.SCORE is {score!r}; use one of {', '.join(SCORES)}")
        self.crf_iterations = crf_iterations
        self.crf_kernels = tuple(crf_kernels)
        self.threshold = threshold
        self.min_area = min_area
        self.nms_threshold = nms_threshold
        self.nms_across_classes = nms_across_classes
        self.score = score
        self.max_instances = max_instances

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.IAM``."""
        keys = cfg.MODEL.IAM
        return {
            "crf_iterations": keys.CRF.ITERATIONS,
            "crf_kernels": (
                GaussianKernel(keys.CRF.GAUSSIAN_SXY, keys.CRF.GAUSSIAN_WEIGHT),
                BilateralKernel(
                    keys.CRF.BILATERAL_SXY, keys.CRF.BILATERAL_SRGB, keys.CRF.BILATERAL_WEIGHT
                ),
            ),
            "threshold": keys.MASK_THRESHOLD,
            "min_area": keys.MIN_AREA,
            "nms_threshold": keys.NMS_THRESHOLD,
            "nms_across_classes": keys.NMS_ACROSS_CLASSES,
            "score": keys.SCORE,
            "max_instances": keys.MAX_INSTANCES,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Sequence[Tensor]],
        proposals: Sequence[Tensor],
        targets: None = None,
        *,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Instances of every image; there is nothing to train here, hence no losses.

        Args:
            images: (N, 3, H, W), RGB in 0..255, for their colours and sizes.
            features: lists over images: ``activation`` (K, H, W) in [0, 1] and ``class_scores``
                (K,), logits of the peaks' classes.
            proposals: the candidates: class ids (K,) int64 of the peaks, per image.
            targets: unused.
            output_sizes: (Ho, Wo) of the results; the images' own by default.

        Returns:
            per image pred_masks (n, Ho, Wo) bool, pred_boxes, pred_classes (n,), scores (n,) in
            [0, 1] and ``peak`` (n,) int64, the candidate, best score first; and an empty dict.
        """
        sizes = output_sizes or images.image_sizes
        results = []
        for index, classes in enumerate(proposals):
            height, width = images.image_sizes[index]
            image = images.tensor[index, :, :height, :width]
            maps, logits = (features[name][index] for name in ("activation", "class_scores"))
            results.append(self._detect(image, maps, logits, classes, tuple(sizes[index])))
        return results, {}

    def _detect(
        self, image: Tensor, maps: Tensor, logits: Tensor, classes: Tensor, size: tuple[int, int]
    ) -> Instances:
        colours = image.permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).contiguous()
        refined = refine_by_crf(
            colours, maps, kernels=self.crf_kernels, num_iterations=self.crf_iterations
        )
        masks, inside = self._masks(refined, size), maps > self.threshold
        if self.crf_iterations:
            inside = refined > self.threshold
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
        result = Instances(size)
        result.pred_masks = masks[kept]
        result.pred_boxes = Boxes(mask_boxes(result.pred_masks).float())
        result.pred_classes = classes[kept]
        result.scores = scores[kept]
        result.peak = kept
        return result

    def _masks(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (K, H, W), enlarged to (Ho, Wo) and cut at the threshold."""
        masks = [maps.new_zeros((0, *size), dtype=torch.bool)]
        for part in maps.split(_AT_ONCE) if len(maps) else ():
            if tuple(part.shape[1:]) != size:
                part = functional.interpolate(
                    part[:, None], size=size, mode="bilinear", align_corners=False
                )[:, 0]
            masks.append(part > self.threshold)
        return torch.cat(masks)
