"""The random walker's stage. `wsis.stages` has what follows: export and Mask R-CNN."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.annotations import points_of
from wsis.data.images import read_dataset_image
from wsis.data.supervision import restrict_supervision
from wsis.data.transforms import resize_image, scaled_size
from wsis.data.working_size import resize_mask
from wsis.stage import DeriveStage, Later, register_stages
from wsis.stages import OF_POINTS


def derive_walked_masks(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """A mask for each point of an image; none of two points on the same pixel.

    Returns:
        ``classes`` (K,) int64, ``scores`` (K,) float32 in [0, 1], ``masks`` (K, H, W) bool.
    """
    from wsis.methods.random_walker.walks import walk_from_points  # and SciPy

    keys = cfg.MODEL.RANDOM_WALKER
    image = read_dataset_image(dataset_dict)
    points, classes = points_of(restrict_supervision(dataset_dict, "point"))
    size = image.shape[:2]
    small = scaled_size(size, min(1.0, keys.LONGER_SIDE / max(size)))
    if small != size:
        image = resize_image(image, small)
    places = points[:, ::-1] * (np.array(small) / size)
    pixels = np.clip(places.astype(np.int64), 0, np.array(small) - 1)
    count = max(keys.SUPERPIXELS, keys.SUPERPIXELS_PER_POINT * len(pixels))
    masks, scores = walk_from_points(image, pixels, count=count, sharpness=keys.SHARPNESS)
    kept = masks.any(axis=(1, 2))
    large = [resize_mask(mask, size) for mask in masks[kept]]
    return {
        "classes": classes[kept],
        "scores": scores[kept],
        "masks": np.array(large, dtype=bool).reshape(-1, *size),
    }


register_stages(
    DeriveStage(
        name="walked_masks",
        title="Each picture divided among its points and the background by random walks",
        produces="instances",
        config_keys=("MODEL.RANDOM_WALKER",),
        evaluation=Later("wsis.evaluation.checks:check_instances"),
        function=derive_walked_masks,
        supervision="point",
        **OF_POINTS,
    )
)
