"""BoxCaseg: a class-agnostic segmenter of what a box holds, taught by boxes and salient objects.

N crops of S x S pixels, K boxes of an image of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_roi_heads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from wsis.errors import DataError
from wsis.methods.boxcaseg.crops import resize_crops
from wsis.methods.boxcaseg.training_crops import add_neighbours

# The original's two normalisations (spec 3.2, 3.3), of channels in RGB order, on 0..255. The means
# of the first were meant for BGR.
BOX_NORMALIZATION = {"mean": (102.9801, 115.9465, 122.7717), "std": (255.0, 255.0, 255.0)}
SALIENT_NORMALIZATION = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def normalize(image: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(image - mean) / std per channel; image (..., 3, H, W) in 0..255."""
    mean, std = (torch.as_tensor(v, device=image.device).view(-1, 1, 1) for v in (mean, std))
    return (image - mean) / std


@META_ARCH_REGISTRY.register()
class BoxCaseg(nn.Module):
    """Learns masks from crops around boxes and from salient images; predicts one per given box.

    Training takes ``{"image", "label", "salient"}`` per crop and returns the three losses of spec
    4. Inference takes whole images with ``proposals`` and returns a dict per image, see
    `inference`.

    Args:
        backbone: a Detectron2 backbone.
        roi_heads: makes masks of its features (`BoxCasegROIHeads`).
        pixel_mean: per channel, of box crops and of inference, on 0..255.
        pixel_std: likewise.
        salient_pixel_mean: of salient images; empty for that of box crops.
        salient_pixel_std: likewise.
        crop_side: of inference, pixels.
        max_crops: crops that go through the network together in inference.
        neighbours: probability that a salient crop gets another one's object at its rim.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        salient_pixel_mean: Sequence[float] = (),
        salient_pixel_std: Sequence[float] = (),
        crop_side: int = 320,
        max_crops: int = 64,
        neighbours: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.roi_heads = roi_heads
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), False)
        salient = salient_pixel_mean or pixel_mean, salient_pixel_std or pixel_std
        self.register_buffer("salient_pixel_mean", torch.tensor(salient[0]), False)
        self.register_buffer("salient_pixel_std", torch.tensor(salient[1]), False)
        self.crop_side = crop_side
        self.max_crops = max_crops
        self.neighbours = neighbours

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.*``."""
        keys = cfg.MODEL.BOXCASEG
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "roi_heads": build_roi_heads(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "salient_pixel_mean": keys.SALIENT_PIXEL_MEAN,
            "salient_pixel_std": keys.SALIENT_PIXEL_STD,
            "crop_side": keys.INFERENCE_SIDE,
            "max_crops": keys.MAX_CROPS,
            "neighbours": keys.NEIGHBOURS,
        }

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.pixel_mean.device

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
        box = normalize(crops, mean=self.pixel_mean, std=self.pixel_std)
        full = normalize(crops, mean=self.salient_pixel_mean, std=self.salient_pixel_std)
        crops = torch.where(salient[:, None, None, None], full, box)
        return self.roi_heads(None, self.backbone(crops), None, (labels, salient))[1]

    def _probabilities(self, image: Tensor, proposals: Instances) -> Tensor:
        """(K, h, w) of one image's boxes, some at a time."""
        boxes = proposals.proposal_boxes.tensor.long()
        side = (self.crop_side, self.crop_side)
        parts = []
        for some in boxes.split(self.max_crops):
            crops = resize_crops(image, some, size=side)
            crops = normalize(crops, mean=self.pixel_mean, std=self.pixel_std)
            parts.append(self.roi_heads.probabilities(self.backbone(crops)))
        return torch.cat(parts)

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The mask of every given box.

        Args:
            batched_inputs: per image ``image`` (3, H, W) in 0..255 and ``proposals``, Instances
                with ``proposal_boxes`` in whole pixels and ``gt_classes``. Images without boxes,
                or without ``proposals``, are legal.

        Returns:
            per image ``instances`` (pred_boxes, pred_classes, scores, pred_masks) and ``levels``
            (K, h, w) uint8, the stretched maps.

        Raises:
            DataError: the maps are not finite: the training diverged.
        """
        results = []
        for sample in batched_inputs:
            image = sample["image"].to(self.device)
            proposals = sample.get("proposals")
            if proposals is None or not len(proposals):
                results.append(_nothing(tuple(image.shape[-2:]), self.device))
                continue
            maps = self._probabilities(image, proposals.to(self.device))
            if not bool(torch.isfinite(maps).all()):
                raise DataError(
                    f"image {sample.get('image_key', '?')}: the segmenter's maps are not finite; "
                    "its training diverged"
                )
            found, levels = self.roi_heads.instances(maps, proposals.to(self.device))
            results.append({"instances": found, "levels": torch.from_numpy(levels)})
        return results


def _nothing(size: tuple[int, int], device: torch.device) -> dict[str, Any]:
    found = Instances(size)
    found.pred_boxes = Boxes(torch.zeros(0, 4, device=device))
    found.pred_classes = torch.zeros(0, dtype=torch.int64, device=device)
    found.scores = torch.zeros(0, device=device)
    found.pred_masks = torch.zeros(0, *size, dtype=torch.bool)
    return {"instances": found, "levels": torch.zeros(0, 1, 1, dtype=torch.uint8)}
