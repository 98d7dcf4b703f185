"""BoxInst's stages: a Mask R-CNN from boxes, and its masks of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.artifacts import instance_arrays
from wsis.data.records import Record, compact
from wsis.errors import DataError
from wsis.stage import INSTANCE_MAPPERS, InferStage, Later, TrainStage, register_stages
from wsis.stages import detection_evaluator


def boxed_images(records: Sequence[Record], cfg: CfgNode) -> tuple[Sequence[Record], None]:
    """The images that have a box, or all (DATALOADER.FILTER_EMPTY_ANNOTATIONS), to be shuffled.

    Raises:
        DataError: none has a box.
    """
    found = compact(records)
    boxed = found[found.objects("bbox") > 0]
    if not len(boxed):
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise DataError(f"no box to train on in {names} (crowds do not count); add some")
    return (boxed if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else records), None


def given_box_artifact(output: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of an image: its boxes, and a mask of each.

    ``boxes`` (K, 4) int64 in whole pixels, ``classes`` (K,), ``scores`` (K,) float32, ``masks``
    (K, H, W) bool.
    """
    boxes = output["instances"].pred_boxes.tensor.cpu().numpy()
    whole = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
    return instance_arrays(output["instances"]) | {"boxes": whole.astype(np.int64)}


INSTANCE_MAPPERS.update(("BoxInstMapper", "GivenBoxMapper"))
register_stages(
    TrainStage(
        name="boxinst",
        title="Train Mask R-CNN on boxes alone",
        config_keys=("MODEL.BOXINST",),
        config={"MODEL.ROI_HEADS.NAME": "BoxInstROIHeads", "MODEL.MASK_ON": True},
        evaluation=detection_evaluator,
        mapper="BoxInstMapper",
        supervision="box",
        samples=boxed_images,
    ),
    InferStage(
        name="boxinst_masks",
        title="Its mask for every box",
        consumes=("boxinst",),
        produces="box_masks",
        config={"MODEL.META_ARCHITECTURE": "GivenBoxRCNN", "TEST.AUG.ENABLED": False},
        evaluation=Later("wsis.evaluation.box_masks:check_box_masks"),
        advice="train longer, or see docs/methods/boxinst.md",
        mapper="GivenBoxMapper",
        to_artifact=given_box_artifact,
        supervision="box",
    ),
)
