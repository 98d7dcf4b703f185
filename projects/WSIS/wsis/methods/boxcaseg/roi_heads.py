"""From features of crops to class-agnostic masks, and the losses of joint training.

Candidates are given boxes: every crop shows one of them, so there is nothing to pool. N crops of
S x S pixels, h x w grid of the first feature, K boxes of an image of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional

from wsis.methods.boxcaseg.heads import MaskHead, TransferredHead, enlarge
from wsis.methods.boxcaseg.losses import pairwise_loss, projection_loss
from wsis.methods.boxcaseg.proxy_masks import masks_in_boxes, normalize_maps, quantize_maps
from wsis.modeling.network import network, options_of, shapes_of


@ROI_HEADS_REGISTRY.register()
@network
class BoxCasegROIHeads(nn.Module):
    """One mask per crop.

    Its options are the keys of ``MODEL.BOXCASEG``, in lower case, and these.

    Attributes:
        channels: of all features of ``in_features`` together.
    """

    in_features: Sequence[str]
    channels: int
    own_share: float = 0.7
    norm: str = "BN"
    norm_momentum: float = 0.01
    threshold: int = 128

    def __post_init__(self) -> None:
        norm = {"norm": self.norm, "momentum": self.norm_momentum}
        self.weak = MaskHead(self.channels, **norm)
        self.full = TransferredHead(self.channels, own_share=self.own_share, **norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.BOXCASEG``."""
        keys = cfg.MODEL.BOXCASEG
        taps = shapes_of(input_shape, keys.IN_FEATURES, "MODEL.BOXCASEG.IN_FEATURES")
        return options_of(cls, keys) | {
            "channels": sum(tap.channels for tap in taps),
            "norm": "BN" if keys.NORM == "SyncBN" and cfg.MODEL.DEVICE == "cpu" else keys.NORM,
        }

    def maps(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """The features that the heads see, as one map on the grid of the first (`convolve`)."""
        return [features[name] for name in self.in_features]

    def logits(
        self, features: Mapping[str, Tensor], salient: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of both heads for the features of N crops.

        The M crops that are ``salient`` (N,) bool pass the head of full supervision. If there are
        none, the first crop does, so that every parameter has a gradient. None leaves that head
        out.

        Returns:
            weak (N, 1, h, w), and full (M, 1, h, w) or None.
        """
        maps = self.maps(features)
        weak = self.weak(maps)
        if salient is None:
            return weak, None
        chosen = salient if bool(salient.any()) else slice(1)
        return weak, self.full([one[chosen] for one in maps], self.weak)

    def losses(
        self, features: Mapping[str, Tensor], labels: Tensor, salient: Tensor
    ) -> dict[str, Tensor]:
        """The three terms (spec 4); their sum is the loss.

        For N crops: ``features``, ``labels`` (N, S, S) float (filled boxes, or masks of salient
        objects), and ``salient`` (N,) bool.
        """
        weak, full = self.logits(features, salient)
        size = tuple(labels.shape[-2:])
        # In float32 under mixed precision too: the pairwise term would be lost in half precision.
        weak, full = (enlarge(one.float(), size)[:, 0] for one in (weak, full))
        there = bool(salient.any())
        masks = labels[salient] if there else labels[:1]
        taught = functional.binary_cross_entropy_with_logits(full, masks)
        return {
            "loss_projection": projection_loss(weak, labels),
            "loss_pairwise": pairwise_loss(weak),
            "loss_salient": taught if there else 0 * taught,
        }

    def probabilities(self, features: Mapping[str, Tensor]) -> Tensor:
        """Probabilities (N, h, w) float32 from the head of full supervision."""
        return self.full(self.maps(features), self.weak)[:, 0].float().sigmoid()

    def instances(
        self, probabilities: Tensor, proposals: Instances
    ) -> tuple[Instances, np.ndarray]:
        """Masks of an image's boxes (spec 6).

        ``probabilities`` are (K, h, w); ``proposals`` have ``proposal_boxes`` in whole pixels and
        ``gt_classes``.

        Returns:
            Instances with ``pred_boxes`` (the given ones), ``pred_classes``, ``pred_masks``
            (K, H, W) bool and ``scores``, the mean probability inside the mask; and the stretched
            maps (K, h, w) uint8.
        """
        size = proposals.image_size
        boxes = proposals.proposal_boxes.tensor.cpu().numpy().astype(np.int64)
        levels = quantize_maps(normalize_maps(probabilities))
        masks = masks_in_boxes(levels, boxes, size, threshold=self.threshold)
        inside = torch.from_numpy(levels >= self.threshold).to(probabilities.device)
        count = inside.flatten(1).sum(dim=1).clamp(min=1)
        result = Instances(size)
        result.pred_boxes = Boxes(proposals.proposal_boxes.tensor)
        result.pred_classes = proposals.gt_classes
        result.scores = (probabilities * inside).flatten(1).sum(dim=1) / count
        result.pred_masks = torch.from_numpy(masks)
        return result, levels
