"""BoxCaseg's stages: joint training, a mask per box, proxy masks. What follows: `wsis.stages`.

Two stages make masks of boxes without learning, in place of the first two.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from wsis.data.annotations import annotated_boxes, boxed_annotations, rounded_boxes
from wsis.data.artifacts import instance_arrays
from wsis.data.images import read_dataset_image
from wsis.errors import DataError, UsageError
from wsis.layers.box_baselines import filled_boxes, grabcut_boxes
from wsis.layers.masks import fair_confidence, mask_boxes
from wsis.methods.boxcaseg.proxy_masks import (
    LEVELS,
    merge_by_odds,
    merge_masks,
    original_confidence,
    resize_map,
)
from wsis.stage import DeriveStage, InferStage, Later, TrainStage, keys_below, register_stages
from wsis.stages import OF_POINTS

_NETWORK_KEYS = keys_below("MODEL.BOXCASEG", "IN_FEATURES OWN_SHARE NORM NORM_MOMENTUM OUTWARDS")
_MASK_KEYS = keys_below("MODEL.BOXCASEG", "INFERENCE_SIDES INFERENCE_FLIP THRESHOLD")
_SAMPLE_KEYS = keys_below(
    "MODEL.BOXCASEG",
    "TRAIN_SIDE SALIENT_SIDE SHIFT STRETCH BOX_FLIP SALIENT_FLIP NEIGHBOURS SALIENT_CROP "
    "SALIENT_STRETCH SALIENT_PIXEL_MEAN SALIENT_PIXEL_STD SAMPLER",
)

_ADVICE = (
    "train on more salient images, or such as are more like your photographs "
    "(boxcaseg_photos.yaml, DATA.SALIENT, docs/methods/boxcaseg.md)"
)


def box_mask_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image: its boxes, and for each a mask and a map.

    ``boxes`` (K, 4) int64 in whole pixels, ``classes`` (K,), ``scores`` (K,) float32, ``masks``
    (K, H, W) bool, each inside its box, ``levels`` (K, h, w) uint8, the stretched maps.
    """
    boxes = output["instances"].pred_boxes.tensor.cpu().numpy().astype(np.int64)
    levels = output["levels"].cpu().numpy()
    return instance_arrays(output["instances"]) | {"boxes": boxes, "levels": levels}


def point_mask_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image with points: ``classes``, ``scores``, ``masks``.

    They are those of `box_mask_artifact`, but no two masks have a pixel in common.
    """
    found = box_mask_artifact(output)
    boxes = found.pop("boxes")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    merged = merge_by_odds(found["masks"], found.pop("levels"), boxes, areas=areas)
    return found | {"masks": merged}


def derive_filled(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """The filled box as the mask of every box: `box_mask_artifact` without ``levels``."""
    size = int(dataset_dict["height"]), int(dataset_dict["width"])
    boxes = rounded_boxes(dataset_dict, size)
    classes = [a["category_id"] for a in boxed_annotations(dataset_dict)]
    return {
        "boxes": boxes,
        "classes": np.array(classes, dtype=np.int64),
        "scores": np.ones(len(boxes), dtype=np.float32),
        "masks": filled_boxes(boxes, size),
    }


def derive_grabcut(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """What GrabCut finds in every box; the filled box where that contradicts the box.

    Returns:
        `derive_filled`'s, and ``confidence`` (K,) float64 of what GrabCut found, also where the box
        is filled in its place; 0 where it found nothing.
    """
    found = derive_filled(dataset_dict, artifacts, cfg)
    filled, boxes = found["masks"], found["boxes"]
    masks = grabcut_boxes(read_dataset_image(dataset_dict), boxes)
    confidence = fair_confidence(mask_boxes(torch.from_numpy(masks)).numpy(), boxes)
    confidence[(masks == filled).all(axis=(1, 2))] = 0.0
    fits = confidence >= cfg.MODEL.BOXCASEG.GRABCUT_MIN_CONFIDENCE
    masks[~fits] = filled[~fits]
    return found | {"masks": masks, "confidence": confidence}


def count_filled(
    artifact: Mapping[str, np.ndarray], dataset_dict: Mapping[str, Any]
) -> dict[str, int]:
    """How many boxes of an image there are, and how many have the filled box as their mask."""
    boxes, masks = artifact["boxes"], artifact["masks"]
    filled = masks.sum(axis=(1, 2)) == (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return {"boxes": len(boxes), "filled_boxes": int(filled.sum())}


def _levels(found: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """The stretched maps of an artifact, for a key of MODEL.BOXCASEG.PROXY that needs them."""
    if "levels" not in found:
        raise UsageError(
            f"MODEL.BOXCASEG.PROXY.{key} needs the probabilities of the stage box_masks; masks "
            "made in another way have none: leave it at its default"
        )
    return found["levels"]


def _ignored(found: dict[str, np.ndarray], merged: np.ndarray, keys: CfgNode) -> np.ndarray:
    """(K, H, W) bool: pixels of a box to ignore, lost to another box or of unsure probability."""
    masks, boxes = found["masks"], found["boxes"]
    ignored = masks & ~merged if keys.IGNORE_CONTESTED else np.zeros_like(masks)
    if len(keys.IGNORE_BETWEEN):
        limits = (0, *keys.IGNORE_BETWEEN, 1)
        if len(limits) != 4 or not limits[0] <= limits[1] < limits[2] <= limits[3]:
            raise UsageError(
                "MODEL.BOXCASEG.PROXY.IGNORE_BETWEEN is empty or two rising numbers from 0 to 1, "
                f"not {tuple(keys.IGNORE_BETWEEN)}"
            )
        low, high = (LEVELS * float(v) for v in keys.IGNORE_BETWEEN)
        levels = _levels(found, "IGNORE_BETWEEN")
        pairs = zip(ignored, levels, boxes.tolist(), strict=True)
        for one, level, (x0, y0, x1, y1) in pairs:
            values = resize_map(level, (y1 - y0, x1 - x0))
            one[y0:y1, x0:x1] |= (values > low) & (values < high)
    return ignored


def derive_proxy_masks(
    dataset_dict: dict[str, Any], artifacts: dict[str, Any], cfg: CfgNode
) -> dict[str, np.ndarray]:
    """Masks that share no pixel, and the confidence of each (spec 7).

    Returns:
        ``classes``, ``scores``, ``masks`` (K, H, W) bool, ``boxes`` (K, 4) float32 as annotated,
        ``confidence`` (K,) float64, and, if the config asks for it, ``ignore`` (K, H, W) bool.

    Raises:
        DataError: the artifact has another number of boxes than the data set.
    """
    from wsis.modeling.network import require_one_of

    found, keys = artifacts["box_masks"], cfg.MODEL.BOXCASEG.PROXY
    given, boxes = annotated_boxes(dataset_dict), found["boxes"]
    if len(given) != len(boxes):
        raise DataError(
            f"image {dataset_dict['image_key']} has {len(given)} boxes, its masks were made for "
            f"{len(boxes)}; make them again (--force)"
        )
    # COCO has boxes without area: these are the whole pixels in which their mask was looked for.
    flat = (given[:, 2:] <= given[:, :2]).any(axis=1)
    given[flat] = boxes[flat]
    # x + w - x is not exactly w: rounded, so that boxes of one size tie wherever they are.
    areas = np.round((given[:, 2:] - given[:, :2]).prod(axis=1), 4)
    require_one_of("MODEL.BOXCASEG.PROXY.MERGE", keys.MERGE, ("smallest", "odds"))
    if keys.MERGE == "odds":
        merged = merge_by_odds(found["masks"], _levels(found, "MERGE"), boxes, areas=areas)
    else:
        merged = merge_masks(found["masks"], areas=areas)
    found_boxes = mask_boxes(torch.from_numpy(merged)).numpy()
    require_one_of("MODEL.BOXCASEG.PROXY.CONFIDENCE", keys.CONFIDENCE, ("original", "fair"))
    if keys.CONFIDENCE == "original":
        confidence = original_confidence(found_boxes, given)
    else:
        confidence = fair_confidence(found_boxes, given, tolerance=keys.TOLERANCE)
    if "confidence" in found:  # a box that was filled for want of a mask teaches none
        confidence = np.minimum(confidence, found["confidence"])
    result = {
        "classes": found["classes"],
        "scores": found["scores"],
        "masks": merged,
        "boxes": given.astype(np.float32),
        "confidence": confidence,
    }
    if keys.IGNORE_CONTESTED or len(keys.IGNORE_BETWEEN):
        result["ignore"] = _ignored(found, merged, keys)
    return result


_BOXES_ALONE = partial(DeriveStage, produces="box_masks", supervision="box")

register_stages(
    TrainStage(
        name="box_segmenter",
        title="Train the class-agnostic segmenter on boxes and salient objects",
        config_keys=(*_NETWORK_KEYS, *_SAMPLE_KEYS),
        evaluation=Later("wsis.methods.boxcaseg.mask_checks:box_mask_evaluator"),
        advice=_ADVICE,
        evaluation_keys=_MASK_KEYS,
        mapper="BoxCasegMapper",
        supervision="box",
        samples=Later("wsis.methods.boxcaseg.samples:joint_samples"),
        class_agnostic=True,
        images=("train", "salient"),
    ),
    InferStage(
        name="box_masks",
        title="A mask for every box",
        consumes=("box_segmenter",),
        config_keys=(*_NETWORK_KEYS, *_MASK_KEYS),
        evaluation=Later("wsis.evaluation.box_masks:check_box_masks"),
        advice=_ADVICE,
        mapper="BoxCasegMapper",
        to_artifact=box_mask_artifact,
        supervision="box",
    ),
    InferStage(
        name="point_masks",
        title="A box around every point, and its mask",
        produces="instances",
        consumes=("box_segmenter",),
        config_keys=(*_NETWORK_KEYS, *_MASK_KEYS, "MODEL.BOXCASEG.POINTS"),
        evaluation=Later("wsis.evaluation.checks:check_instances"),
        mapper="BoxCasegPointMapper",
        to_artifact=point_mask_artifact,
        supervision="point",
        **OF_POINTS,
    ),
    _BOXES_ALONE(
        name="grabcut_masks",
        title="GrabCut in every box, without learning",
        config_keys=("MODEL.BOXCASEG.GRABCUT_MIN_CONFIDENCE",),
        evaluation=Later("wsis.evaluation.box_masks:check_box_masks"),
        advice="the stage filled_masks in its place fills the boxes (docs/methods/boxcaseg.md)",
        tally=count_filled,
        remarks={
            "filled_boxes": "boxes filled because GrabCut found no mask that fits: "
            "{filled_boxes} of {boxes}"
        },
        function=derive_grabcut,
    ),
    _BOXES_ALONE(
        name="filled_masks",
        title="Fill every box, without learning",
        evaluation=partial(Later("wsis.evaluation.box_masks:check_box_masks"), baselines=False),
        function=derive_filled,
    ),
    DeriveStage(
        name="proxy_masks",
        title="Give contested pixels to one box each, rate the masks",
        consumes=("box_masks",),
        produces="instances",
        config_keys=("MODEL.BOXCASEG.PROXY",),
        evaluation=Later("wsis.methods.boxcaseg.mask_checks:check_proxy_masks"),
        refines={"box masks": "proxy masks"},
        function=derive_proxy_masks,
        supervision="box",
    ),
)
