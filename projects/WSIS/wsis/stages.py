"""Stages that several methods share: classifier, its maps, export, Mask R-CNN."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsis.data.pseudo_labels import export_pseudo_labels
from wsis.stage import ExportStage, InferStage, TrainStage, register_stage

_CAMNET = "MODEL.CAMNET."
_PEAKS = "MODEL.PEAK_CLASSIFIER."
_PEAK_NETWORK_KEYS = tuple(
    _PEAKS + key
    for key in ("NUM_CLASSES", "IN_FEATURE", "STIMULATE", "WINDOW", "FILTER", "SUB_PIXEL_FACTOR")
)


def cam_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image's class activation maps.

    Returns:
        ``keys`` (K,) int64 ascending, ``cam`` (K, h, w) float32, ``high_res`` (K, H, W) float16.
    """
    kinds = {"keys": np.int64, "cam": np.float32, "high_res": np.float16}
    return {name: output[name].cpu().numpy().astype(kind) for name, kind in kinds.items()}


CLASSIFIER = register_stage(
    TrainStage(
        name="classifier",
        title="Train the image classifier on tags",
        produces="classifier",
        config_keys=(_CAMNET + "NUM_CLASSES", _CAMNET + "IN_FEATURE"),
        evaluation="classification",
        mapper="ImageLevelMapper",
        supervision="image",
    )
)

CAM = register_stage(
    InferStage(
        name="cam",
        title="Class activation maps at several scales",
        consumes=("classifier",),
        produces="cam",
        config_keys=("MODEL.CAMNET",),
        evaluation="cam",
        weights_from="classifier",
        mapper="MultiScaleMapper",
        to_artifact=cam_artifact,
    )
)

PEAK_CLASSIFIER = register_stage(
    TrainStage(
        name="peak_classifier",
        title="Train the peak-stimulated classifier on tags",
        produces="peak_classifier",
        config_keys=(*_PEAK_NETWORK_KEYS, _PEAKS + "GRADIENT"),
        evaluation="classification",
        mapper="ImageLevelMapper",
        supervision="image",
    )
)

PSEUDO_LABELS = register_stage(
    ExportStage(
        name="pseudo_labels",
        title="Write the instances as COCO JSON",
        consumes=("instances",),
        produces="pseudo_labels",
        config_keys=("WSIS.PSEUDO_LABELS",),
        file_name="pseudo_labels.json",
        function=export_pseudo_labels,
    )
)

MASK_RCNN = register_stage(
    TrainStage(
        name="mask_rcnn",
        title="Train Mask R-CNN on the pseudo labels",
        consumes=("pseudo_labels",),
        produces="mask_rcnn",
        evaluation="detection",
        mapper="InstanceMapper",
        supervision="mask",
    )
)

SUPERVISED_MASK_RCNN = register_stage(
    TrainStage(
        name="supervised_mask_rcnn",
        title="Train Mask R-CNN on true masks, for comparison",
        produces="supervised_mask_rcnn",
        evaluation="detection",
        mapper="InstanceMapper",
        supervision="mask",
    )
)
