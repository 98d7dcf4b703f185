"""IAM's stages. `wsis.stages` has those of several methods: peak classifier, proposals, export."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from wsis.data.artifacts import instance_arrays
from wsis.modeling.peak_responses import response_artifact, small_maps
from wsis.stage import InferStage, Later, TrainStage, keys_below, register_stages
from wsis.stages import OF_POINTS

_NETWORK_KEYS = keys_below(
    "MODEL.IAM",
    "IN_FEATURES CHANNELS KERNEL_SIZE ITERATIONS PYRAMID_WIDTH RESPONSE_MEAN USE_TAGS",
)
_INFERENCE_KEYS = keys_below(
    "MODEL.IAM",
    "STATISTICS CRF MASK_THRESHOLD MIN_AREA NMS_THRESHOLD NMS_ACROSS_CLASSES SCORE MAX_INSTANCES",
)


def filled_instances_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image: its instances, and for the report the maps they were made from.

    ``classes`` (n,) int64, ``scores`` (n,) float32, ``masks`` (n, H, W) bool, best first;
    ``instance_peaks`` (n,) int64, the peak of each; ``activation`` (P, h, w) float16, the map of
    every peak, made smaller; and what `wsis.modeling.peak_responses.response_artifact` keeps.
    """
    found = output["instances"]
    own = {
        "instance_peaks": found.peak.cpu().numpy().astype(np.int64),
        "activation": small_maps(output["activation"]),
    }
    return instance_arrays(found) | own | response_artifact(output["responses"])


_FILLING = partial(
    TrainStage,
    consumes=("peak_classifier", "proposals"),
    produces="filling_network",
    config_keys=("MODEL.PEAK_CLASSIFIER", *_NETWORK_KEYS, "MODEL.IAM.SAMPLER"),
)
_FILLED = partial(
    InferStage,
    consumes=("filling_network",),
    produces="instances",
    config_keys=("MODEL.PEAK_CLASSIFIER", *_NETWORK_KEYS, *_INFERENCE_KEYS),
    evaluation=Later("wsis.evaluation.checks:check_instances"),
    to_artifact=filled_instances_artifact,
)

register_stages(
    _FILLING(
        name="filling_network",
        title="Train IAM's filling network on sampled proposals",
        mapper="FillingMapper",
    ),
    _FILLING(
        name="point_filling_network",
        title="Train IAM's filling network on proposals sampled for the given points",
        mapper="PointFillingMapper",
        supervision="point",
    ),
    _FILLED(
        name="filled_instances",
        title="Instance activation maps: filled peak responses, cleaned by a dense CRF",
        mapper="PeakImageMapper",
    ),
    _FILLED(
        name="filled_points",
        title="Instance activation maps of the given points, cleaned by a dense CRF",
        mapper="PointImageMapper",
        supervision="point",
        **OF_POINTS,
    ),
)
