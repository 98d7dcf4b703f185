"""BoxCaseg: segments the object in a box, whatever its class; learns from boxes, salient objects.

N crops of S x S pixels, K boxes or points of an image of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_roi_heads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from wsis.layers.precision import map_layout
from wsis.methods.boxcaseg.crops import add_neighbours, resize_crops
from wsis.methods.boxcaseg.heads import enlarge
from wsis.methods.boxcaseg.point_boxes import BoxSearch
from wsis.methods.boxcaseg.proxy_masks import LEVELS
from wsis.modeling.network import PixelModule, mask_instances, network, options_of, require_finite

# The original's two normalisations (spec 3.2, 3.3), of channels in RGB order, on 0..255. The means
# of the first were meant for BGR.
BOX_NORMALIZATION = {"mean": (102.9801, 115.9465, 122.7717), "std": (255.0, 255.0, 255.0)}
SALIENT_NORMALIZATION = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def normalize(image: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(image - mean) / std per channel; image (..., 3, H, W) in 0..255."""
    mean, std = (torch.as_tensor(v, device=image.device).view(-1, 1, 1) for v in (mean, std))
    return (image - mean) / std


@META_ARCH_REGISTRY.register()
@network
class BoxCaseg(PixelModule):
    """Learns masks from crops around boxes and from salient images; predicts one per given box.

    Training takes ``{"image", "label", "salient"}`` per crop and returns the three losses of spec
    4. Inference takes whole images with ``proposals`` and returns a dict per image, see
    `inference`. The mean and deviation of pixels are those of box crops and of inference.

    Its options are the keys of ``MODEL.BOXCASEG``, in lower case, and these.

    Attributes:
        roi_heads: makes masks of the backbone's features (`BoxCasegROIHeads`).
        search: finds the boxes of points.
    """

    roi_heads: nn.Module
    salient_pixel_mean: Sequence[float]
    salient_pixel_std: Sequence[float]
    search: BoxSearch
    inference_sides: Sequence[int] = (320,)
    inference_flip: bool = False
    max_crops: int = 64
    neighbours: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pixel_mean", "pixel_std"):
            own = self.__dict__.pop(f"salient_{name}")
            self.keep_pixels(f"salient_{name}", own or getattr(self, name).flatten().tolist())

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.*``."""
        shared, keys = super().from_config(cfg), cfg.MODEL.BOXCASEG
        heads = build_roi_heads(cfg, shared["backbone"].output_shape())
        search = BoxSearch(**options_of(BoxSearch, keys.POINTS), threshold=keys.THRESHOLD / LEVELS)
        return shared | options_of(cls, keys) | {"roi_heads": heads, "search": search}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else one dict per image.

        Args:
            batched_inputs: in training per crop ``image`` (3, S, S) in 0..255, ``label`` (S, S) in
                0..1 and ``salient``; otherwise see `inference`.
        """
        if not self.training:
            return self.inference(batched_inputs)
        salient = torch.tensor([bool(x["salient"]) for x in batched_inputs], device=self.device)
        crops = torch.stack([x["image"] for x in batched_inputs]).to(self.device).float()
        labels = torch.stack([x["label"] for x in batched_inputs]).to(self.device).float()
        crops, labels = add_neighbours(crops, labels, salient, probability=self.neighbours)
        box = self.normalize(crops)
        full = normalize(crops, mean=self.salient_pixel_mean, std=self.salient_pixel_std)
        crops = torch.where(salient[:, None, None, None], full, box)
        return self.roi_heads.losses(self.backbone(crops), labels, salient)

    def _probabilities(self, image: Tensor, boxes: Tensor, side: int = 0) -> Tensor:
        """Probabilities (K, h, w) for the boxes (K, 4) of one image, see `_maps`."""
        return self._maps([(image, box) for box in boxes], side)

    def _maps(self, crops: Sequence[tuple[Tensor, Tensor]], side: int = 0) -> Tensor:
        """Probabilities (K, h, w) for K pairs of an image and a box (4,), some at a time."""
        starts = range(0, len(crops), self.max_crops)
        return torch.cat([self._mean_map(crops[i : i + self.max_crops], side) for i in starts])

    def _mean_map(self, crops: Sequence[tuple[Tensor, Tensor]], side: int) -> Tensor:
        """The mean over all sides and mirrored crops, on the grid of the largest side.

        Or the map of a single ``side``, if it is not 0.
        """
        maps, flip = [], self.inference_flip and not side
        layout = map_layout(self.device)
        for length in [side] if side else sorted(self.inference_sides, reverse=True):
            size = length, length
            pixels = [resize_crops(image, box[None], size=size) for image, box in crops]
            batch = self.normalize(torch.cat(pixels)).contiguous(memory_format=layout)
            maps.append(self.roi_heads.probabilities(self.backbone(batch)))
            if flip:
                mirrored = self.roi_heads.probabilities(self.backbone(batch.flip(-1)))
                maps.append(mirrored.flip(-1))
        size = tuple(maps[0].shape[-2:])
        return torch.stack([enlarge(one[:, None], size)[:, 0] for one in maps]).mean(dim=0)

    def _find_boxes(
        self, sample: dict[str, Any], image: Tensor, proposals: Instances
    ) -> tuple[Instances, Tensor]:
        """Proposals with boxes in place of points, and how well each box fits."""

        def segment(crops: np.ndarray) -> np.ndarray:
            maps = self._probabilities(image, torch.from_numpy(crops), self.search.side)
            require_finite(maps, sample, "the segmenter's maps")
            return maps.cpu().numpy()

        points = proposals.proposal_points.cpu().numpy()
        boxes, scores = self.search(points, tuple(image.shape[-2:]), segment)
        found = Instances(proposals.image_size, gt_classes=proposals.gt_classes)
        found.proposal_boxes = Boxes(torch.from_numpy(boxes).float().to(self.device))
        return found, torch.from_numpy(scores).float().to(self.device)

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The mask of every given box, or of the box that is found around every given point.

        A sample has ``image`` (3, H, W) in 0..255 and ``proposals``, Instances with ``gt_classes``
        and ``proposal_boxes`` in whole pixels, or ``proposal_points`` (K, 2), (x, y) in pixels.
        There may be none of them or no ``proposals``.

        Returns:
            per image ``instances`` (see `BoxCasegROIHeads.instances`; ``scores`` of points are
            those of `BoxSearch`) and ``levels`` (K, h, w) uint8, the stretched maps.

        Raises:
            DataError: the maps are not finite: the training diverged.
        """
        given = [self._given(sample) for sample in batched_inputs]
        there = [one for one in given if one is not None]
        boxes = [proposals.proposal_boxes.tensor.long().cpu() for _, proposals, _ in there]
        crops = [(one[0], box) for one, some in zip(there, boxes, strict=True) for box in some]
        maps = iter(self._maps(crops).split([len(some) for some in boxes]) if crops else ())
        results = []
        for sample, one in zip(batched_inputs, given, strict=True):
            if one is None:
                results.append(self._nothing(sample))
                continue
            _, proposals, scores = one
            own = next(maps)
            require_finite(own, sample, "the segmenter's maps")
            found, levels = self.roi_heads.instances(own, proposals)
            found.scores = found.scores if scores is None else scores
            results.append({"instances": found, "levels": torch.from_numpy(levels)})
        return results

    def _given(self, sample: dict[str, Any]) -> tuple[Tensor, Instances, Tensor | None] | None:
        """The image of a sample, its proposals with boxes, and those scores that points have."""
        proposals = sample.get("proposals")
        if proposals is None or not len(proposals):
            return None
        image, scores = sample["image"].to(self.device), None
        if proposals.has("proposal_points"):
            proposals, scores = self._find_boxes(sample, image, proposals.to(self.device))
        return image, proposals, scores

    def _nothing(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The result of an image without a box."""
        nothing = torch.zeros(0, device=self.device)
        masks = torch.zeros(0, *sample["image"].shape[-2:], dtype=torch.bool)
        found = mask_instances(masks, nothing.long(), nothing)
        found.pred_boxes = found.pred_boxes.to(self.device)
        return {"instances": found, "levels": torch.zeros(0, 1, 1, dtype=torch.uint8)}
