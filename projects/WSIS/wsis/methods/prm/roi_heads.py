"""Instances of peaks: by retrieval of segment proposals, or from the response maps alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from wsis.errors import UsageError
from wsis.layers.masks import mask_nms
from wsis.layers.regions import Regions
from wsis.layers.retrieval import PreparedProposals, prepare_proposals, retrieve_instances
from wsis.modeling.network import mask_instances, network, options_of, require_one_of
from wsis.modeling.peak_responses import PeakResponses

MASKS = ("proposals", "response")
SCORES = ("retrieval", "peak", "probability", "product")
Factors = tuple[float, float, float]
PENALTY_PIXELS = 448 * 448  # the penalty is given for an image of this size, the paper's


def scaled_factors(factors: Factors | list[Factors], size: Sequence[int]) -> Any:
    """Factors whose penalty is that of a background pixel at ``size`` (H, W), not 448 x 448."""
    if isinstance(factors, list):
        return [scaled_factors(triple, size) for triple in factors]
    background, penalty, balance = factors
    return background, penalty * PENALTY_PIXELS / (size[0] * size[1]), balance


def smooth_map(values: Tensor, sigma: float) -> Tensor:
    """Maps (P, H, W) smoothed by a Gaussian of standard deviation ``sigma`` in pixels."""
    if sigma <= 0 or len(values) == 0:
        return values
    reach = max(1, round(3 * sigma))
    place = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = kernel / kernel.sum()
    values = F.conv2d(values[:, None], kernel.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(values, kernel.view(1, 1, 1, -1), padding=(0, reach))[:, 0]


def response_masks(
    responses: Tensor, size: tuple[int, int], *, threshold: float, blur: float
) -> Tensor:
    """Peak response maps as masks: the baseline without proposals.

    ``responses`` are (P, H, W), not negative. They are smoothed by a Gaussian whose standard
    deviation is ``blur`` times the longer side and resized. The mask, (P, *size) bool, is what
    exceeds ``threshold`` times the map's maximum.
    """
    smooth = smooth_map(responses, blur * max(responses.shape[1:]))
    if tuple(responses.shape[1:]) != tuple(size):
        resized = F.interpolate(smooth[:, None], size=size, mode="bilinear", align_corners=False)
        smooth = resized[:, 0]
    if len(smooth) == 0:
        return smooth.new_zeros((0, *size), dtype=torch.bool)
    return smooth > threshold * smooth.amax(dim=(1, 2), keepdim=True)


@ROI_HEADS_REGISTRY.register()
@network
class PRMROIHeads(nn.Module):
    """Makes instances from one image's peak response maps; nothing is trained here.

    Its options are the keys of ``MODEL.PRM``, in lower case, and these.

    Attributes:
        factors: (background factor, penalty at 448 x 448, balance), or a list of such, one for
            each class.
        peak_scale: a peak of this height has a score of one half.
    """

    masks: str = "proposals"
    score: str = "product"
    nms_threshold: float = 0.3
    nms_within_class: bool = False
    merge_responses: bool = True
    proposal_count: int = 100
    factors: Factors | list[Factors] = (0.95, 1e-5, 0.8)
    contour_width: int = 5
    size_limits: tuple[float, float] = (0.00002, 0.85)
    response_threshold: float = 0.1
    response_blur: float = 0.01
    peak_scale: float = 30.0

    def __post_init__(self) -> None:
        require_one_of("MODEL.PRM.MASKS", self.masks, MASKS)
        require_one_of("MODEL.PRM.SCORE", self.score, SCORES)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.PRM``."""
        keys, classifier = cfg.MODEL.PRM, cfg.MODEL.PEAK_CLASSIFIER
        shared = (keys.BACKGROUND_FACTOR, keys.PENALTY, keys.BALANCE)
        if keys.CLASS_FACTORS and len(keys.CLASS_FACTORS) != classifier.NUM_CLASSES:
            raise UsageError(
                f"MODEL.PRM.CLASS_FACTORS has {len(keys.CLASS_FACTORS)} entries for "
                f"{classifier.NUM_CLASSES} classes; give one for each, or none"
            )
        return options_of(cls, keys) | {
            "factors": [tuple(triple) for triple in keys.CLASS_FACTORS] or shared,
            "peak_scale": max(classifier.PEAK_THRESHOLD, 1.0),
        }

    def forward(
        self,
        found: PeakResponses,
        proposals: Regions | None,
        size: tuple[int, int],
        prepared: PreparedProposals | None = None,
    ) -> Instances:
        """Instances of an image, best first.

        ``found`` must have response maps. ``proposals``, best first, may have any size; for
        "response" they are not used. They are ``prepared`` here if that was not done before. The
        result has pred_masks (n, *size) bool, pred_boxes, pred_classes (n,), scores (n,) in [0, 1],
        peak_index (n,), the number of the peak.

        Raises:
            ValueError: no proposals where they are needed.
        """
        if self.masks == "response":
            return self._from_responses(found, size)
        if proposals is None:
            raise ValueError("MODEL.PRM.MASKS is proposals, but the image comes without any")
        return self._retrieve(found, proposals, size, prepared)

    def scores(self, found: PeakResponses, peaks: Tensor, retrieval: Tensor) -> Tensor:
        """Scores (n,) in [0, 1] of instances, given the numbers (n,) of their peaks.

        The score "retrieval" is ``retrieval`` (n,), the retrieval score divided by its largest
        possible value and clipped to [0, 1]; "peak" is v / (v + peak_scale) for a peak of height v
        (0 below 0); "probability" is the sigmoid of the class's confidence; "product" is the
        product of the three.
        """
        height = found.values[peaks].clamp(min=0)
        cues = {
            "retrieval": retrieval.to(height),
            "peak": height / (height + self.peak_scale),
            "probability": found.scores[found.peaks[peaks, 0]].nan_to_num(0.0).sigmoid(),
        }
        if self.score == "product":
            return cues["retrieval"] * cues["peak"] * cues["probability"]
        return cues[self.score]

    def _retrieve(
        self,
        found: PeakResponses,
        regions: Regions,
        size: tuple[int, int],
        prepared: PreparedProposals | None,
    ) -> Instances:
        responses = found.responses.cpu().numpy()
        classes = found.peaks[:, 0].cpu().numpy()
        if len(classes) == 0 or len(regions) == 0:
            empty = torch.zeros(0, dtype=torch.long)
            return self._instances(found, np.zeros((0, *size), bool), empty, torch.zeros(0))
        if prepared is None:
            prepared = prepare_proposals(
                regions[: self.proposal_count or None],
                responses.shape[1:],
                contour_width=self.contour_width,
                size_limits=self.size_limits,
            )
        chosen = retrieve_instances(
            prepared,
            found.class_maps.cpu().numpy(),
            classes,
            responses,
            factors=scaled_factors(self.factors, responses.shape[1:]),
            nms_threshold=self.nms_threshold if self.nms_threshold <= 1 else None,
            merge=self.merge_responses,
            within_class=self.nms_within_class,
        )
        triples = [self.factors] if isinstance(self.factors, tuple) else self.factors
        most = [1.0 + triples[c if len(triples) > 1 else 0][2] for c in chosen.classes]
        share = torch.from_numpy(np.clip(chosen.scores / np.array(most), 0, 1))
        shown = regions if tuple(regions.size) == size else regions.resize(size)
        masks = shown.decode(chosen.proposals)
        return self._instances(found, masks, torch.from_numpy(chosen.peaks), share)

    def _from_responses(self, found: PeakResponses, size: tuple[int, int]) -> Instances:
        masks = response_masks(
            found.responses, size, threshold=self.response_threshold, blur=self.response_blur
        )
        every = torch.arange(len(masks), device=masks.device)
        scores = self.scores(found, every, torch.ones(len(masks)))
        groups = found.peaks[:, 0] if self.nms_within_class else torch.zeros_like(every)
        kept = mask_nms(masks, scores, self.nms_threshold, groups=groups)
        return self._instances(found, masks[kept].cpu().numpy(), kept, torch.ones(len(kept)))

    def _instances(
        self, found: PeakResponses, masks: np.ndarray, peaks: Tensor, retrieval: Tensor
    ) -> Instances:
        device = found.class_maps.device
        peaks = peaks.to(device)
        scores = self.scores(found, peaks, retrieval.to(device))
        order = torch.argsort(scores, descending=True, stable=True)
        return mask_instances(
            torch.from_numpy(np.ascontiguousarray(masks)).to(device)[order],
            found.peaks[peaks[order], 0],
            scores[order].float(),
            peak_index=peaks[order],
        )
