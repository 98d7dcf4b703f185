"""CIM's stages. `wsis.stages` has those of several methods: proposals, peak classifier, export."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from wsis.data.artifacts import instance_arrays
from wsis.modeling.peak_responses import compact
from wsis.stage import DeriveStage, InferStage, Later, TrainStage, keys_below, register_stages

_LABEL_KEYS = keys_below("MODEL.CIM.LABEL", "MEAN_THRESHOLD IOU_THRESHOLD")
_NETWORK_KEYS = keys_below(
    "MODEL.CIM",
    "NUM_CLASSES IN_FEATURE CROP_SIZE HEAD_DIM NUM_BRANCHES MASK_GUIDED CLASS_AGNOSTIC_INTEGRITY",
)
_NEEDED = ("proposals", "proposal_crops")
_TARGETS = "MODEL.CIM.DETECTION.TARGETS"


def peaks_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image's class peaks.

    ``peaks`` (P, 3) int64 rows (class, y, x), weakest first, on a map of ``grid`` (2,) cells, and
    their ``peak_values`` (P,) float32. For the report also ``peak_places`` (P, 2) float32, (y, x)
    as shares of the image, and ``class_maps`` (K, h, w) (see `compact`) of the tags ``map_classes``
    (K,), in cells that tile the image.
    """
    grid = tuple(output["maps"].shape[1:])
    places = output["frame"].places(output["peaks"][:, 1:], grid)
    return {
        "peaks": output["peaks"].cpu().numpy(),
        "peak_values": output["values"].cpu().numpy().astype(np.float32),
        "peak_places": places.cpu().numpy(),
        "grid": np.array(grid, dtype=np.int64),
        "class_maps": compact(output["frame"].on_image(output["maps"])),
        "map_classes": output["classes"].cpu().numpy(),
    }


def instances_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image's detections: the product "instances" of any method."""
    found = output["instances"]
    return instance_arrays(found) | {"proposals": found.proposal_index.cpu().numpy()}


_SCORING = partial(
    InferStage,
    evaluation=Later("wsis.evaluation.checks:check_instances"),
    mapper="ProposalBagMapper",
    to_artifact=instances_artifact,
)

register_stages(
    InferStage(
        name="class_peaks",
        title="Peaks of the classes that the tags name",
        consumes=("peak_classifier",),
        config_keys=("MODEL.PEAK_CLASSIFIER", "MODEL.CIM.LABEL.PEAK_THRESHOLD"),
        config={"MODEL.META_ARCHITECTURE": "ClassPeaks"},
        mapper="ImageLevelMapper",
        to_artifact=peaks_artifact,
    ),
    DeriveStage(
        name="proposal_crops",
        title="Small masks of the proposals within their boxes",
        consumes=("proposals",),
        config_keys=("MODEL.CIM.CROP_SIZE",),
        images=("train", "val"),
        function=Later("wsis.methods.cim.labels:derive_crops"),
    ),
    DeriveStage(
        name="peak_clusters",
        title="Clusters of proposals around class peaks",
        consumes=("proposals", "class_peaks"),
        produces="proposal_clusters",
        config_keys=_LABEL_KEYS,
        function=Later("wsis.methods.cim.labels:derive_peak_clusters"),
    ),
    DeriveStage(
        name="point_clusters",
        title="Clusters of proposals around a point for each object",
        consumes=("proposals",),
        produces="proposal_clusters",
        config_keys=(*_LABEL_KEYS, "MODEL.CIM.LABEL.POINTS", "MODEL.CIM.NUM_CLASSES"),
        file_keys=("MODEL.CIM.LABEL.POINTS",),
        function=Later("wsis.methods.cim.labels:derive_point_clusters"),
        supervision="point",
    ),
    DeriveStage(
        name="imported_clusters",
        title="Clusters of proposals from a file of the original",
        consumes=("proposals",),
        produces="proposal_clusters",
        config_keys=("MODEL.CIM.LABEL.FILE", "MODEL.CIM.NUM_CLASSES"),
        file_keys=("MODEL.CIM.LABEL.FILE",),
        function=Later("wsis.methods.cim.labels:derive_original_clusters"),
    ),
    TrainStage(
        name="complete_instances",
        title="Train CIM: scores and integrity of proposals",
        consumes=(*_NEEDED, "proposal_clusters"),
        config_keys=(*_NETWORK_KEYS, "MODEL.CIM.MINING", "MODEL.CIM.LOSS"),
        mapper="ProposalBagMapper",
    ),
    _SCORING(
        name="mined_instances",
        title="The best proposals of each tag, by several scales and flips",
        consumes=("complete_instances", *_NEEDED),
        produces="instances",
        config_keys=(*_NETWORK_KEYS, "MODEL.CIM.DETECTION", "MODEL.CIM.BEST_ONLY"),
        config={_TARGETS: "tags"},
    ),
    _SCORING(
        name="point_instances",
        title="The best proposal over each point, by several scales and flips",
        consumes=("complete_instances", *_NEEDED, "proposal_clusters"),
        produces="instances",
        config_keys=(*_NETWORK_KEYS, "MODEL.CIM.DETECTION"),
        config={_TARGETS: "points"},
    ),
    _SCORING(
        name="proposal_detections",
        title="Detections among proposals, without any tags",
        consumes=("complete_instances", *_NEEDED),
        produces="detections",
        config_keys=(*_NETWORK_KEYS, "MODEL.CIM.DETECTION"),
        images=("val",),
        config={_TARGETS: "classes"},
    ),
)
