"""Stages that several methods share: classifier, its maps, proposals, export, Mask R-CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.annotations import points_of
from wsis.data.pseudo_labels import export_pseudo_labels
from wsis.errors import UsageError
from wsis.stage import (
    DeriveStage,
    ExportStage,
    InferStage,
    Later,
    TrainStage,
    keys_below,
    register_stages,
)

if TYPE_CHECKING:
    from wsis.data.proposals.readers import ProposalSource

PSEUDO_LABELS_FILE = "pseudo_labels.json"
_CAMNET_KEYS = keys_below("MODEL.CAMNET", "NUM_CLASSES IN_FEATURE")
_PEAK_NETWORK_KEYS = keys_below(
    "MODEL.PEAK_CLASSIFIER",
    "NUM_CLASSES IN_FEATURE STIMULATE WINDOW FILTER SUB_PIXEL_FACTOR GRADIENT",
)


def cam_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that are kept of an image's class activation maps.

    Returns:
        ``keys`` (K,) int64 ascending, ``cam`` (K, h, w) float32, ``high_res`` (K, H, W) float16.
    """
    kinds = {"keys": np.int64, "cam": np.float32, "high_res": np.float16}
    return {name: output[name].cpu().numpy().astype(kind) for name, kind in kinds.items()}


def proposal_source(cfg: CfgNode) -> ProposalSource:
    """The source of proposals that ``WSIS.PROPOSALS`` describes.

    Raises:
        UsageError: a value that no proposals can be made with.
    """
    from wsis.data.proposals.readers import ProposalSource
    from wsis.layers.segment_proposals import ProposalSettings
    from wsis.modeling.network import options_of

    keys = cfg.WSIS.PROPOSALS
    try:
        settings = ProposalSettings(**options_of(ProposalSettings, keys))
    except ValueError as error:
        raise UsageError(f"WSIS.PROPOSALS: {error}") from None
    return ProposalSource(kind=keys.FORMAT, root=keys.ROOT, settings=settings)


def derive_proposals(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """Segment proposals of one image, see `wsis.data.proposals.store.proposals_artifact`."""
    return proposal_source(cfg)(dataset_dict)


def count_points(artifact: Mapping[str, Any], dataset_dict: Mapping[str, Any]) -> dict[str, int]:
    """The points of an image: those in no mask of their class, those in one that holds several."""
    points, classes = points_of(dataset_dict)
    size = int(dataset_dict["height"]), int(dataset_dict["width"])
    columns, rows = np.clip(points, 0, [size[1] - 1, size[0] - 1]).astype(np.int64).T
    held = artifact["masks"][:, rows, columns] & (artifact["classes"][:, None] == classes)
    return {
        "points": len(points),
        "points_without_mask": int((~held.any(axis=0)).sum()),
        "points_sharing_a_mask": int(held[held.sum(axis=1) > 1].any(axis=0).sum()),
    }


# Of a stage that makes masks of points: `Stage.tally` and what is said of it.
OF_POINTS: dict[str, Any] = {
    "tally": count_points,
    "remarks": {
        "points_sharing_a_mask": "{points_sharing_a_mask} of {points} points share their mask with "
        "another point, so it may be of two objects; draw boxes around these, or correct the masks",
        "points_without_mask": "{points_without_mask} of {points} points are in no mask",
    },
}


classification_evaluator = Later("wsis.evaluation.classification:classification_evaluator")
detection_evaluator = Later("wsis.evaluation.voc_instance:detection_evaluator")

register_stages(
    TrainStage(
        name="classifier",
        title="Train the image classifier on tags",
        config_keys=_CAMNET_KEYS,
        evaluation=classification_evaluator,
        mapper="ImageLevelMapper",
    ),
    InferStage(
        name="cam",
        title="Class activation maps at several scales",
        consumes=("classifier",),
        config_keys=("MODEL.CAMNET",),
        evaluation=Later("wsis.evaluation.checks:check_cam"),
        mapper="MultiScaleMapper",
        to_artifact=cam_artifact,
    ),
    TrainStage(
        name="peak_classifier",
        title="Train the peak-stimulated classifier on tags",
        config_keys=_PEAK_NETWORK_KEYS,
        evaluation=classification_evaluator,
        mapper="ImageLevelMapper",
    ),
    TrainStage(
        name="point_peak_classifier",
        title="Train the peak-stimulated classifier on crops with the tags of their points",
        produces="peak_classifier",
        config_keys=_PEAK_NETWORK_KEYS,
        evaluation=classification_evaluator,
        mapper="PointCropMapper",
        supervision="point",
    ),
    DeriveStage(
        name="proposals",
        title="Segment proposals, generated or converted",
        config_keys=("WSIS.PROPOSALS",),
        file_keys=("WSIS.PROPOSALS.ROOT",),
        evaluation=Later("wsis.evaluation.proposals:check_proposals"),
        function=derive_proposals,
    ),
    ExportStage(
        name="pseudo_labels",
        title="Write the instances as COCO JSON",
        consumes=("instances",),
        config_keys=("WSIS.PSEUDO_LABELS",),
        file_name=PSEUDO_LABELS_FILE,
        function=export_pseudo_labels,
    ),
    TrainStage(
        name="mask_rcnn",
        title="Train Mask R-CNN on the pseudo labels",
        consumes=("pseudo_labels",),
        config={"INPUT.MASK_FORMAT": "bitmask"},  # pseudo labels are run lengths
        evaluation=detection_evaluator,
        mapper="InstanceMapper",
        supervision="mask",
    ),
    TrainStage(
        name="supervised_mask_rcnn",
        title="Train Mask R-CNN on true masks, for comparison",
        evaluation=detection_evaluator,
        mapper="InstanceMapper",
        supervision="mask",
    ),
)
