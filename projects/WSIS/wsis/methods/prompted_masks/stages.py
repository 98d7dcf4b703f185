"""Stages that ask a Segment Anything model: for boxes, points or class peaks.

The peaks before them and what follows is of other methods and of `wsis.stages`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from wsis.data.artifacts import instance_arrays
from wsis.stage import InferStage, Later, register_stages
from wsis.stages import OF_POINTS

_NODE = "MODEL.PROMPTED_MASKS"


def box_mask_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image with boxes: the product ``box_masks``.

    ``boxes`` (K, 4) int64 in whole pixels, ``classes`` (K,), ``scores`` (K,) float32, ``masks``
    (K, H, W) bool, each inside its box, and ``confidence`` (K,) float64.
    """
    found = output["instances"]
    boxes = found.pred_boxes.tensor.numpy().astype(np.int64)
    return instance_arrays(found) | {"boxes": boxes, "confidence": found.confidence.numpy()}


def instances_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image with points or peaks: ``classes``, ``scores``, ``masks``."""
    return instance_arrays(output["instances"])


def _stage(prompts: str, **fields: Any) -> InferStage:
    config = {"MODEL.META_ARCHITECTURE": "PromptedMasks", f"{_NODE}.PROMPTS": prompts}
    advice = f"take a larger model ({_NODE}.MODEL, docs/methods/prompted_masks.md)"
    return InferStage(
        mapper="PromptMapper", model_key=f"{_NODE}.MODEL", config=config, advice=advice, **fields
    )


_INSTANCES = partial(
    _stage,
    produces="instances",
    evaluation=Later("wsis.evaluation.checks:check_instances"),
    to_artifact=instances_artifact,
)

register_stages(
    _stage(
        "boxes",
        name="prompted_box_masks",
        title="A mask for every box, by a Segment Anything model",
        produces="box_masks",
        evaluation=Later("wsis.evaluation.box_masks:check_box_masks"),
        to_artifact=box_mask_artifact,
        supervision="box",
    ),
    _INSTANCES(
        "points",
        name="prompted_point_instances",
        title="A mask for every point, by a Segment Anything model",
        supervision="point",
        **OF_POINTS,
    ),
    _INSTANCES(
        "peaks",
        name="prompted_peak_instances",
        title="Masks of class peaks, by a Segment Anything model",
        consumes=("class_peaks",),
        config_keys=(f"{_NODE}.NMS_THRESHOLD",),
    ),
)
