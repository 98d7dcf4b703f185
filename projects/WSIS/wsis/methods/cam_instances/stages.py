"""CAM instances' stage; classifier and maps before it and the export after it are shared."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.stage import DeriveStage, Later, register_stages


def derive_cam_instances(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """The components of an image's class activation maps, each map by itself.

    Returns:
        ``classes`` (n,) int64, ``scores`` (n,) float32, ``masks`` (n, H, W) bool; masks of
        different classes may overlap.
    """
    from wsis.layers.components import map_components  # and SciPy

    cam, keys = artifacts["cam"], cfg.MODEL.CAM_INSTANCES
    maps = cam["high_res"]
    found = map_components(
        maps,
        threshold=keys.THRESHOLD,
        min_area=keys.MIN_AREA * maps.shape[1] * maps.shape[2],
        largest_only=keys.LARGEST_ONLY,
    )
    return {
        "classes": cam["keys"][found.channels],
        "scores": found.scores,
        "masks": found.masks,
    }


register_stages(
    DeriveStage(
        name="cam_instances",
        title="Connected components of the class activation maps",
        consumes=("cam",),
        produces="instances",
        config_keys=("MODEL.CAM_INSTANCES",),
        evaluation=Later("wsis.evaluation.checks:check_instances"),
        advice="train the classifier longer, start it from a better trunk, or draw boxes "
        "(docs/photographs.md)",
        function=derive_cam_instances,
    )
)
