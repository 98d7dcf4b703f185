"""CIM's ROI heads: they score segment proposals and learn from those they mine (spec 3-5)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsis.layers.regions import Regions
from wsis.methods.cim.detections import Completion, DetectionOptions
from wsis.methods.cim.heads import MaskGuidedHead, ScoreHead, Scores
from wsis.methods.cim.losses import branch_losses, cluster_loss, instance_learning_loss
from wsis.methods.cim.mining import (
    Assignment,
    MiningOptions,
    assign,
    mine,
    sample_truth,
    usable_proposals,
)
from wsis.methods.cim.overlaps import Overlaps, overlaps_of_boxes, overlaps_of_regions
from wsis.modeling.network import network, options_of, require_one_of, shapes_of

LOSSES = ("loss_classes", "loss_integrity", "loss_bag", "loss_clusters")


@ROI_HEADS_REGISTRY.register()
@network
class CIMROIHeads(nn.Module):
    """ROI heads whose proposals are masks and whose targets are the image's tags.

    Its options are the keys of ``MODEL.CIM.LOSS``, in lower case, and these.

    Attributes:
        pooler: RoIAlign of one feature map.
        head: `MaskGuidedHead`.
        scorer: `ScoreHead`.
        mining: thresholds of mining.
        detection: options of detection.
        overlap: "mask", or "box" to mine with the overlaps of boxes (an ablation).
        chunk: how many proposals pass the head together; in training only their vectors are kept,
            and the chunk is computed again for the gradient. 0: all at once, computed once.
        generator: of anti-noise sampling; None makes one for each image, with a seed drawn from
            torch, which the trainer seeds.
    """

    pooler: nn.Module
    head: MaskGuidedHead
    scorer: ScoreHead
    mining: MiningOptions = MiningOptions()
    detection: DetectionOptions = DetectionOptions()
    integrity_weight: float = 3.0
    cluster_weight: float = 12.0
    first_weight: float = 3.0
    bag_uses_integrity: bool = True
    overlap: str = "mask"
    chunk: int = 0
    generator: np.random.RandomState | None = None

    def __post_init__(self) -> None:
        require_one_of("MODEL.CIM.MINING.OVERLAP", self.overlap, ("mask", "box"))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.CIM`` and the backbone's feature."""
        keys = cfg.MODEL.CIM
        (shape,) = shapes_of(input_shape, [keys.IN_FEATURE], "MODEL.CIM.IN_FEATURE")
        pooler = ROIPooler(
            output_size=keys.CROP_SIZE,
            scales=(1.0 / shape.stride,),
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        )
        head = MaskGuidedHead(
            shape.channels, keys.CROP_SIZE, keys.HEAD_DIM, use_masks=keys.MASK_GUIDED
        )
        scorer = ScoreHead(
            keys.HEAD_DIM,
            keys.NUM_CLASSES,
            num_branches=keys.NUM_BRANCHES,
            class_agnostic=keys.CLASS_AGNOSTIC_INTEGRITY,
        )
        return options_of(cls, keys.LOSS) | {
            "pooler": pooler,
            "head": head,
            "scorer": scorer,
            "mining": MiningOptions(**options_of(MiningOptions, keys.MINING)),
            "detection": DetectionOptions(**options_of(DetectionOptions, keys.DETECTION)),
            "overlap": keys.MINING.OVERLAP,
            "chunk": keys.PROPOSAL_CHUNK,
        }

    def vectors(self, feature: Tensor, boxes: Boxes, crops: Tensor) -> Tensor:
        """Vectors (N, dim) of the proposals of one image.

        ``feature`` is (1, D, h, w), the N ``boxes`` are on the scale of the network's input,
        ``crops`` are (N, r, r) bool.
        """
        if len(boxes) == 0:  # Detectron2's pooler gives no way back there
            side = crops.shape[-1]
            return self.head(feature[:0, :, :1, :1].expand(-1, -1, side, side), crops)
        if not 0 < self.chunk < len(boxes):
            return self._chunk_vectors(feature, boxes.tensor, crops)
        parts = []
        for start in range(0, len(boxes), self.chunk):
            part = slice(start, start + self.chunk)
            arguments = (feature, boxes.tensor[part], crops[part])
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._chunk_vectors, *arguments, use_reentrant=False))
            else:
                parts.append(self._chunk_vectors(*arguments))
        return torch.cat(parts)

    def _chunk_vectors(self, feature: Tensor, boxes: Tensor, crops: Tensor) -> Tensor:
        return self.head(self.pooler([feature], [Boxes(boxes)]), crops)

    def score(self, feature: Tensor, boxes: Boxes, crops: Tensor) -> Scores:
        """Scores of the proposals of one image; the arguments are those of `vectors`."""
        return self.scorer(self.vectors(feature, boxes, crops))

    def forward(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Instances],
        labels: Sequence[Tensor],
        overlaps: Sequence[Overlaps],
    ) -> dict[str, Tensor]:
        """Each loss, as the mean over the images; inference calls `score` instead.

        Args:
            features: (1, D, h, w) of each image.
            proposals: per image ``proposal_boxes`` on the scale of the network's input,
                ``proposal_crops`` (N, r, r) bool, ``cluster_ids`` and ``cluster_classes`` (N,)
                int64, see `cluster_loss`.
            labels: (C,) float32 of each image, 1 for the classes present.
            overlaps: between the proposals of each image.
        """
        each = []
        for feature, instances, *target in zip(features, proposals, labels, overlaps, strict=True):
            scores = self.score(feature, instances.proposal_boxes, instances.proposal_crops)
            with torch.autocast(feature.device.type, enabled=False):
                each.append(self.image_losses(scores, instances, *target))
        return {name: torch.stack([losses[name] for losses in each]).mean() for name in LOSSES}

    def image_losses(
        self, scores: Scores, proposals: Instances, labels: Tensor, overlaps: Overlaps
    ) -> dict[str, Tensor]:
        """The four losses of one image, times their weights; 0 without proposals or tags."""
        every = (scores.classes, scores.detection, *scores.refined, *scores.integrity)
        zero = sum(part.sum() * 0 for part in every)
        losses = dict.fromkeys(LOSSES, zero)
        if len(proposals) == 0 or not labels.any():
            return losses
        losses["loss_bag"] = instance_learning_loss(scores.classes, scores.detection, labels)
        clusters = proposals.cluster_ids, proposals.cluster_classes
        losses["loss_clusters"] = cluster_loss(
            scores.classes, *clusters, weight=self.cluster_weight
        )
        if self.overlap == "box":
            overlaps = overlaps_of_boxes(proposals.proposal_boxes.tensor)
        for branch, assignment in self.supervise(scores, labels, overlaps):
            classes, integrity, bag = branch_losses(
                scores.refined[branch],
                scores.integrity[branch],
                labels,
                assignment,
                bag_uses_integrity=self.bag_uses_integrity,
            )
            losses["loss_classes"] = losses["loss_classes"] + classes
            losses["loss_integrity"] = losses["loss_integrity"] + self.integrity_weight * integrity
            losses["loss_bag"] = losses["loss_bag"] + bag
        return losses

    @torch.no_grad()
    def supervise(
        self, scores: Scores, labels: Tensor, overlaps: Overlaps
    ) -> list[tuple[int, Assignment]]:
        """What each refinement branch is to learn, mined with the scores of the branch before.

        A branch for which nothing is mined is left out.
        """
        usable = usable_proposals(overlaps, self.mining)
        generator = self.generator
        if generator is None:
            seed = int(torch.randint(1 << 31, ()))
            generator = np.random.RandomState(seed)  # noqa: NPY002  (the original's)
        sources = [(scores.classes, scores.detection)]
        sources += list(zip(scores.refined, scores.integrity, strict=True))[:-1]
        present = labels.nonzero()[:, 0]
        result = []
        for branch, (by_class, part) in enumerate(sources):
            part = part.expand_as(by_class)
            truth = mine(
                by_class[:, 1:],
                part[:, 1:],
                classes=present,
                overlaps=overlaps,
                branch=branch,
                options=self.mining,
                usable=usable,
            )
            if self.mining.sample:
                truth = sample_truth(truth, generator)
            with suppress(AssertionError):  # outside of training there is no storage
                get_event_storage().put_scalar(f"cim/pseudo_truth_{branch}", len(truth))
            if len(truth):
                found = assign(truth, overlaps, branch=branch, options=self.mining)
                weights = found.weights * (self.first_weight if branch == 0 else 1.0)
                result.append((branch, replace(found, weights=weights)))
        return result

    def completion(self, regions: Regions, device: torch.device) -> Completion | None:
        """What completes the detections of an image (`Completion`); None if it is switched off."""
        share = self.detection.complete_share
        if share <= 0:
            return None
        areas = torch.from_numpy(np.asarray(regions.areas, dtype=np.int64)).to(device)
        overlaps = overlaps_of_regions(regions).to(device)
        return Completion(overlaps, areas, share, iou=self.detection.complete_iou)
