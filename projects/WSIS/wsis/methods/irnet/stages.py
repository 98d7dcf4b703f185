"""IRNet's stages. Those of several methods (classifier, CAMs, export) are in `wsis.stages`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.artifacts import instance_arrays
from wsis.data.images import read_dataset_image
from wsis.layers.crf import crf_labels
from wsis.stage import DeriveStage, InferStage, Later, TrainStage, keys_below, register_stages

if TYPE_CHECKING:
    from wsis.methods.irnet.labels import LabelRefiner

_NODE = "MODEL.IRNET."
_OUTPUTS, _MEAN = _NODE + "OUTPUTS", _NODE + "MEAN_DISPLACEMENT"
_NETWORK_KEYS = keys_below(
    "MODEL.IRNET", "IN_FEATURES FREEZE_BACKBONE BOUNDARY_WIDTH DISPLACEMENT_WIDTH ALIGN_CORNERS"
)
_CANVAS_KEYS = keys_below("MODEL.IRNET", "INFERENCE_SIZE SIZE_DIVISOR SIZE_REMAINDER")
_WALK_KEYS = keys_below("MODEL.IRNET", "WALK_RADIUS BETA EXP_TIMES PER_CLASS_NORMALISATION")
_INSTANCE_KEYS = keys_below(
    "MODEL.IRNET", "REFINEMENT_STEPS CLUSTER_THRESHOLD INSTANCE_BACKGROUND MIN_AREA FALLBACK"
)


def crf_refiner(cfg: CfgNode) -> LabelRefiner | None:
    """The dense CRF of ``MODEL.IRNET.LABEL``; None where it is switched off."""
    from wsis.modeling.network import crf_kernels

    keys = cfg.MODEL.IRNET.LABEL
    if keys.CRF_ITERATIONS == 0:
        return None
    return partial(
        crf_labels,
        num_iterations=keys.CRF_ITERATIONS,
        label_probability=keys.CRF_LABEL_PROBABILITY,
        kernels=crf_kernels(keys, "CRF_"),
        device=cfg.MODEL.DEVICE,
    )


def derive_inter_pixel_label(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """``label`` (H, W) uint8 of one image, from its CAM (spec 4)."""
    from wsis.methods.irnet.labels import inter_pixel_label

    cam, keys = artifacts["cam"], cfg.MODEL.IRNET.LABEL
    label = inter_pixel_label(
        read_dataset_image(dataset_dict),
        cam["keys"],
        cam["high_res"],
        refine=crf_refiner(cfg),
        foreground_threshold=keys.FOREGROUND_THRESHOLD,
        background_threshold=keys.BACKGROUND_THRESHOLD,
    )
    return {"label": label}


def measured_mean(products: Mapping[str, Any]) -> dict[str, Any]:
    """The config value that holds the mean displacement of stage displacement_mean."""
    return {_MEAN: products["displacement_mean"].summary["mean"].tolist()}


def mean_displacement(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """``mean`` (2,) float64 of one image: (dy, dx) over all cells of its canvas, padding too."""
    return {"mean": output["displacement"].double().mean(dim=(1, 2)).cpu().numpy()}


def reduce_displacement(
    artifacts: Iterable[tuple[str, dict[str, np.ndarray]]], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """``mean`` (2,) over the data set (spec 5.5).

    It is taken over whole groups of ``MODEL.IRNET.MEAN_DISPLACEMENT_BATCH`` images, in order. A
    last, partial group is dropped unless it is the only one; 0 drops nothing. Without images the
    mean is 0.
    """
    group = cfg.MODEL.IRNET.MEAN_DISPLACEMENT_BATCH
    means = [artifact["mean"] for _, artifact in artifacts]
    if group and len(means) >= group:
        means = means[: len(means) - len(means) % group]
    return {"mean": np.mean(means, axis=0) if means else np.zeros(2)}


def instance_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image: its instances, and the maps that made them for the report."""
    return instance_arrays(output["instances"]) | {
        "boundary": output["boundary"].cpu().numpy().astype(np.float16),
        "displacement": output["displacement"].cpu().numpy().astype(np.float16),
        "clusters": output["clusters"].cpu().numpy().astype(np.int32),
    }


def count_collapsed(
    arrays: Mapping[str, np.ndarray], dataset_dict: Mapping[str, Any]
) -> dict[str, int]:
    """``collapsed``: 1 if all cells of an image are in one cluster."""
    return {"collapsed": int(not arrays["clusters"].any())}


def semantic_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """``label`` (H, W) uint8: 0 background, class id + 1."""
    return {"label": output["semantic"].cpu().numpy()}


register_stages(
    DeriveStage(
        name="inter_pixel_label",
        title="Confident classes and background from CAMs, cleaned by a dense CRF",
        consumes=("cam",),
        config_keys=(_NODE + "LABEL",),
        evaluation=Later("wsis.methods.irnet.label_check:check_inter_pixel_label"),
        function=derive_inter_pixel_label,
        on_device=True,
    ),
    TrainStage(
        name="relation_network",
        title="Train IRNet: class boundaries and displacements to centroids",
        consumes=("inter_pixel_label",),
        config_keys=(*_NETWORK_KEYS, _NODE + "TRAIN_RADIUS"),
        mapper="PixelLabelMapper",
    ),
    InferStage(
        name="displacement_mean",
        title="Mean displacement over the images, to be subtracted afterwards",
        consumes=("relation_network",),
        config_keys=(*_NETWORK_KEYS, *_CANVAS_KEYS, _NODE + "MEAN_DISPLACEMENT_BATCH"),
        mapper="TopLeftCropMapper",
        to_artifact=mean_displacement,
        # weights of the original may hold a mean, measured elsewhere
        config={_OUTPUTS: ["displacement"], _MEAN: [0.0, 0.0]},
        reduce=reduce_displacement,
    ),
    InferStage(
        name="instances",
        title="Instance masks: centroids, random walk within boundaries, components",
        consumes=("relation_network", "displacement_mean", "cam"),
        config_keys=(*_NETWORK_KEYS, *_CANVAS_KEYS, *_WALK_KEYS, *_INSTANCE_KEYS),
        evaluation=Later("wsis.evaluation.checks:check_instances"),
        advice="train the classifier longer, start it from a better trunk, or, with few "
        "photographs, draw boxes for BoxCaseg (docs/photographs.md)",
        mapper="ProductImageMapper",
        to_artifact=instance_artifact,
        tally=count_collapsed,
        remarks={
            "collapsed": "the displacement field has collapsed on {collapsed} of {images} images "
            "(all cells end in one cluster), so it parts no objects there; with "
            "MODEL.IRNET.FALLBACK True they have the components of their CAMs; more steps or "
            "images for relation_network teach the field more (docs/methods/irnet.md)"
        },
        config={_OUTPUTS: ["boundary", "instances"]},
        measured=measured_mean,
    ),
    InferStage(
        name="semantic_labels",
        title="Semantic labels by random walk of the CAMs",
        consumes=("relation_network", "cam"),
        produces="semantic",
        config_keys=(*_NETWORK_KEYS, *_CANVAS_KEYS, *_WALK_KEYS, _NODE + "SEMANTIC_BACKGROUND"),
        evaluation=Later("wsis.methods.irnet.label_check:check_semantic"),
        mapper="ProductImageMapper",
        to_artifact=semantic_artifact,
        config={_OUTPUTS: ["semantic"], _MEAN: [0.0, 0.0]},
    ),
)
