"""CAMNet: a multi-label image classifier whose 1x1 convolution gives class activation maps.

Shapes: N images, C classes, K classes present in an image, H x W image, h x w feature grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import nn

from wsis.errors import DataError
from wsis.modeling.network import (
    PIXELS_AT_ONCE,
    PixelModule,
    in_batches,
    network,
    options_of,
    shapes_of,
)

_CAM_STRIDE = 4  # pixels per cell of the small maps that are kept


def multi_hot(
    labels: torch.Tensor | Sequence[int],
    num_classes: int,
    *,
    image_key: str = "",
    config_key: str = "MODEL.CAMNET.NUM_CLASSES",
) -> torch.Tensor:
    """Image labels as a float32 vector (C,) of zeros and ones.

    Takes class ids 0..C-1 (list or integer tensor, any number), or the vector itself as a
    floating-point or boolean tensor.

    Raises:
        DataError: an id or a vector does not fit ``num_classes``, the value of ``config_key``.
    """
    labels = torch.as_tensor(labels)
    if labels.numel() and (labels.is_floating_point() or labels.dtype == torch.bool):
        if labels.shape != (num_classes,):
            raise DataError(
                f"image {image_key}: labels of shape {tuple(labels.shape)} for {num_classes} "
                f"classes; set {config_key} to the data set's number"
            )
        return labels.float()
    ids = labels.long().flatten()
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= num_classes):
        raise DataError(
            f"image {image_key}: class ids {ids.tolist()} but {config_key} is "
            f"{num_classes}; set it to the data set's number of classes"
        )
    return torch.zeros(num_classes, device=ids.device).index_fill_(0, ids, 1.0)


def masked_average_pool(
    features: torch.Tensor, sizes: Sequence[tuple[int, int]], *, stride: int
) -> torch.Tensor:
    """Global average pooling that leaves out the cells of padding.

    Takes (N, C, h, w) of a batch padded right and bottom to its largest image, and (H, W) of each
    image before padding. Returns (N, C). Image i owns ceil(H_i / stride) x ceil(W_i / stride)
    cells.
    """
    full = tuple(max(side) for side in zip(*sizes, strict=True)) if sizes else (0, 0)
    if all(tuple(size) == full for size in sizes):
        return features.mean((2, 3))
    pooled = []
    for feature, size in zip(features, sizes, strict=True):
        rows, columns = (
            cells if own == most else min(cells, max(1, -(-own // stride)))
            for own, most, cells in zip(size, full, feature.shape[1:], strict=True)
        )
        pooled.append(feature[:, :rows, :columns].mean((1, 2)))
    return torch.stack(pooled)


def _resize(maps: torch.Tensor, size: Sequence[int], align_corners: bool) -> torch.Tensor:
    resized = F.interpolate(maps[None], size, mode="bilinear", align_corners=align_corners)
    return resized[0]


def fuse_cams(
    maps: Sequence[torch.Tensor],
    image_size: tuple[int, int],
    keys: torch.Tensor,
    *,
    stride: int = 16,
    align_corners: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fuse the class maps of several scales (irnet spec 3).

    Each map is resized and the results are summed, then divided by their maximum + 1e-5.

    Args:
        maps: per scale (C, h, w), already rectified and summed with the flipped image's map.
        image_size: (H, W) of the unscaled image.
        keys: (K,) int64, the classes to keep.
        stride: the network's. The high-resolution map is made for the image rounded up to a
            multiple of it, and then cut.
        align_corners: see ``MODEL.CAMNET.ALIGN_CORNERS``; the small map's cell i then lies on pixel
            ``4 * i``.

    Returns:
        ``cam`` (K, (H - 1) // 4 + 1, (W - 1) // 4 + 1) and ``high_res`` (K, H, W), both in [0, 1),
        of the maps' dtype.
    """
    height, width = image_size
    small = tuple((side - 1) // _CAM_STRIDE + 1 for side in image_size)
    kept = [m[keys.to(m.device)] for m in maps]
    if len(keys) == 0:
        return maps[0].new_zeros((0, *small)), maps[0].new_zeros((0, height, width))
    if align_corners:
        high_res = sum(_resize(m, image_size, True) for m in kept)
        cam = high_res[:, ::_CAM_STRIDE, ::_CAM_STRIDE]
    else:
        large = tuple((side - 1) // stride * stride + stride for side in image_size)
        high_res = sum(_resize(m, large, False) for m in kept)[:, :height, :width]
        cam = sum(_resize(m, small, False) for m in kept)
    return normalize_by_maximum(cam), normalize_by_maximum(high_res)


def normalize_by_maximum(maps: torch.Tensor) -> torch.Tensor:
    """Divide each of (K, h, w) non-negative maps by (its own maximum + 1e-5)."""
    return maps / (maps.amax((1, 2), keepdim=True) + 1e-5) if maps.numel() else maps


@META_ARCH_REGISTRY.register()
@network
class CAMNet(PixelModule):
    """Backbone, global average pooling, 1x1 convolution without bias (irnet spec 2, 3).

    ``MODEL.BACKBONE.FREEZE_AT`` says where the gradient is cut. State-dict names: ``backbone.*``
    and ``classifier.weight`` (C, channels, 1, 1).

    Its options are the keys of ``MODEL.CAMNET``, in lower case.
    """

    in_feature: str
    num_classes: int
    score_threshold: float = 0.5
    predict_labels: bool = False
    align_corners: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        (shape,) = shapes_of(
            self.backbone.output_shape(), [self.in_feature], "MODEL.CAMNET.IN_FEATURE"
        )
        self.stride = shape.stride
        self.classifier = nn.Conv2d(shape.channels, self.num_classes, 1, bias=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from ``MODEL.CAMNET``."""
        return super().from_config(cfg) | options_of(cls, cfg.MODEL.CAMNET)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Classify, or make class activation maps.

        Args:
            batched_inputs: per image ``image`` (3, H, W), uint8 or float32 in 0..255, RGB as
                MODEL.PIXEL_MEAN is. In training also ``image_labels`` (see `multi_hot`). In eval
                mode, in place of ``image``, ``images`` (one tensor per scale, the unscaled first),
                ``height``, ``width`` (of the image file) and optionally ``image_labels`` (ids).

        Returns:
            training: ``{"loss_classification": scalar}``. Otherwise a list of dicts per image:
            ``logits`` and ``scores`` (C,); with ``images`` also ``keys`` (K,) int64 ascending,
            ``cam`` (K, (H-1)//4+1, (W-1)//4+1) and ``high_res`` (K, H, W), float32 in [0, 1).
        """
        if self.training:
            return self._losses(batched_inputs)
        if any("images" not in sample for sample in batched_inputs):
            return [self._classify(sample) for sample in batched_inputs]
        scales = [
            in_batches(self._mirrored_maps, images, images, pixels=math.inf)
            for images in zip(*(sample["images"] for sample in batched_inputs), strict=True)
        ]
        each = zip(batched_inputs, zip(*scales, strict=True), strict=True)
        return [self._fuse(sample, found) for sample, found in each]

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W) to raw class maps (N, C, h, w); their means are logits."""
        return F.conv2d(self.backbone(images)[self.in_feature], self.classifier.weight)

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [self.normalize(sample["image"]) for sample in batched_inputs]
        batch = ImageList.from_tensors(images, self.backbone.size_divisibility)
        features = self.backbone(batch.tensor)[self.in_feature]
        pooled = masked_average_pool(features, batch.image_sizes, stride=self.stride)
        logits = self.classifier(pooled[:, :, None, None]).flatten(1)
        labels = [
            multi_hot(s["image_labels"], self.num_classes, image_key=s.get("image_key", ""))
            for s in batched_inputs
        ]
        targets = torch.stack([label.to(self.device) for label in labels])
        return {"loss_classification": F.multilabel_soft_margin_loss(logits, targets)}

    def _classify(self, sample: dict[str, Any]) -> dict[str, torch.Tensor]:
        logits = self.class_maps(self.normalize(sample["image"])[None])[0].mean((1, 2))
        return {"logits": logits, "scores": logits.sigmoid()}

    def _mirrored_maps(self, images: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of images (3, H, W) of one size: maps (C, h, w), rectified and summed with the mirror
        image's, and logits (C,)."""
        batch = self.normalize(torch.stack(images))
        pairs = torch.stack([batch, batch.flip(-1)], dim=1).flatten(0, 1)
        at_once = max(1, PIXELS_AT_ONCE // batch[0, 0].numel())
        raw = torch.cat([self.class_maps(part) for part in pairs.split(at_once)])
        raw = raw.unflatten(0, (-1, 2))
        maps = raw[:, 0].relu() + raw[:, 1].relu().flip(-1)
        return list(zip(maps, raw[:, 0].mean((2, 3)), strict=True))

    def _fuse(
        self, sample: dict[str, Any], found: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The result for one image, of what `_mirrored_maps` found at each scale."""
        maps, (logits, *_) = zip(*found, strict=True)
        scores = logits.sigmoid()
        keys = self._keys(sample, scores)
        size = int(sample["height"]), int(sample["width"])
        cam, high_res = fuse_cams(
            maps, size, keys, stride=self.stride, align_corners=self.align_corners
        )
        result = {"logits": logits, "scores": scores, "keys": keys}
        return result | {"cam": cam, "high_res": high_res}

    def _keys(self, sample: dict[str, Any], scores: torch.Tensor) -> torch.Tensor:
        labels = sample.get("image_labels")
        if labels is None or self.predict_labels:
            return torch.nonzero(scores > self.score_threshold).flatten()
        present = multi_hot(labels, self.num_classes, image_key=sample.get("image_key", ""))
        return torch.nonzero(present).flatten().to(scores.device)
