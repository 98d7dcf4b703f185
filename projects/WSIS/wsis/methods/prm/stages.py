"""PRM's stages. `wsis.stages` has those of several methods: peak classifier, proposals, export."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from wsis.data.artifacts import instance_arrays
from wsis.modeling.peak_responses import response_artifact
from wsis.stage import InferStage, Later, register_stages
from wsis.stages import OF_POINTS


def peak_instances_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """Instances ``classes``, ``scores``, ``masks`` of an image, and `response_artifact`."""
    return instance_arrays(output["instances"]) | response_artifact(output["responses"])


_PEAK_STAGE = partial(
    InferStage,
    produces="instances",
    config_keys=("MODEL.PEAK_CLASSIFIER", "MODEL.PRM"),
    evaluation=Later("wsis.evaluation.checks:check_instances"),
    to_artifact=peak_instances_artifact,
)

register_stages(
    _PEAK_STAGE(
        name="peak_instances",
        title="Peak response maps, and the proposal that fits each best",
        consumes=("peak_classifier", "proposals"),
        mapper="RetrievalMapper",
    ),
    _PEAK_STAGE(
        name="retrieved_points",
        title="Responses of the given points, and the proposal that fits each best",
        consumes=("peak_classifier", "proposals"),
        mapper="PointRetrievalMapper",
        supervision="point",
        **OF_POINTS,
    ),
    _PEAK_STAGE(
        name="response_instances",
        title="Peak response maps, thresholded: the baseline without proposals",
        consumes=("peak_classifier",),
        config={"MODEL.PRM.MASKS": "response"},
        mapper="PeakImageMapper",
    ),
)
