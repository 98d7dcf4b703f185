"""`VOCInstanceEvaluator`: instances under named protocols, as a Detectron2 evaluator."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from wsis.errors import DataError, UsageError
from wsis.evaluation.coco import CocoMeasure
from wsis.evaluation.coco_results import CocoResultWriter
from wsis.evaluation.streaming import (
    InstancePair,
    InstancePrediction,
    Measure,
    Metrics,
    StreamingEvaluation,
    Truth,
)
from wsis.evaluation.voc import ProtocolOptions, VocMeasure

logger = logging.getLogger(__name__)

PROTOCOLS = ("voc", "coco", "coco_bbox")
# Dataset dict to its ground truth; None for an image that has none and is left out.
TruthLoader = Callable[[dict[str, Any]], Truth | None]


def build_measures(
    class_names: Sequence[str],
    protocols: Sequence[str],
    *,
    options: ProtocolOptions | None = None,
) -> list[Measure]:
    """The measures of named protocols: "voc", "coco" (masks) and "coco_bbox" (boxes).

    Raises:
        UsageError: an unknown name.
    """
    measures: list[Measure] = []
    for protocol in protocols:
        if protocol == "voc":
            measures.append(VocMeasure(class_names, options=options))
        elif protocol in ("coco", "coco_bbox"):
            iou_type = "segm" if protocol == "coco" else "bbox"
            measures.append(CocoMeasure(class_names, iou_type=iou_type, options=options))
        else:
            raise UsageError(
                f"there is no evaluation protocol {protocol!r}; WSIS.EVALUATION.PROTOCOLS takes "
                f"{', '.join(PROTOCOLS)}"
            )
    return measures


def prediction_of_instances(instances: Instances) -> InstancePrediction:
    """Detectron2's output for one image as arrays.

    Args:
        instances: ``pred_classes``, ``scores``, and ``pred_masks`` (n, H, W) or ``pred_boxes``.
    """
    instances = instances.to("cpu")
    masks = boxes = None
    if instances.has("pred_masks"):
        masks = np.asarray(instances.pred_masks).astype(bool, copy=False)
    if instances.has("pred_boxes"):
        boxes = instances.pred_boxes.tensor.numpy()
    return InstancePrediction(
        instances.pred_classes.numpy(), instances.scores.numpy(), masks, boxes
    )


def prediction_of_artifact(arrays: Mapping[str, np.ndarray]) -> InstancePrediction:
    """Product ``instances`` (classes, scores, masks) of one image."""
    return InstancePrediction(arrays["classes"], arrays["scores"], arrays["masks"])


def no_instances(size: tuple[int, int]) -> InstancePrediction:
    """The prediction that an image of ``size`` (H, W) has nothing on it."""
    return InstancePrediction(
        np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), np.zeros((0, *size), bool)
    )


class VOCInstanceEvaluator(DatasetEvaluator):
    """Average precision of instance masks against true masks.

    It streams: of an image only scores and match flags are kept. Every process evaluates its share
    and the figures do not depend on the number of processes.

    Args:
        dataset_dicts: the data set; looked up by ``image_key``, since mappers drop annotations.
        class_names: C names.
        load_ground_truth: dataset dict to ground truth, None for an image to leave out.
        load_boxes: likewise for an image without masks; ``coco_bbox`` then counts it. None: never.
        protocols: of `PROTOCOLS`.
        options: departures from the protocols, which their names then show.
        output_dir: folder for the predictions in COCO's result format; None writes none.
        category_ids: the result file's category id of each class; class + 1 by default.
        extra_measures: further measures of `InstancePair`, as pseudo-label quality.

    Attributes:
        without_truth: keys of this process's images without masks, left out but for their boxes.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        load_ground_truth: TruthLoader,
        load_boxes: TruthLoader | None = None,
        protocols: Sequence[str] = ("voc", "coco"),
        options: ProtocolOptions | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        category_ids: Sequence[int] | None = None,
        extra_measures: Sequence[Measure] = (),
    ) -> None:
        self.class_names = tuple(class_names)
        self._dicts = {record["image_key"]: record for record in dataset_dicts}
        self._load, self._load_boxes = load_ground_truth, load_boxes
        of_masks = [name for name in protocols if name != "coco_bbox"]
        of_boxes = [name for name in protocols if name == "coco_bbox"]
        measures = build_measures(class_names, of_masks, options=options)
        self._masks = StreamingEvaluation([*measures, *extra_measures])
        self._boxes = StreamingEvaluation(build_measures(class_names, of_boxes, options=options))
        self._writer = None
        if output_dir is not None:
            ids = category_ids or range(1, len(self.class_names) + 1)
            self._writer = CocoResultWriter(output_dir, category_ids=ids)
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self._masks.reset()
        self._boxes.reset()
        if self._writer is not None:
            self._writer.reset()
        self.without_truth: set[str] = set()
        self._counted = {"true masks": 0, "true boxes alone": 0}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Measure a batch of model outputs.

        Args:
            inputs: dicts with ``image_key``.
            outputs: dicts with ``instances``: `Instances` of the size of the original image.
        """
        for given, output in zip(inputs, outputs, strict=True):
            self.add(given["image_key"], prediction_of_instances(output["instances"]))

    def add(self, key: str, prediction: InstancePrediction, *, truth: Truth | None = None) -> None:
        """Measure one image.

        Args:
            key: image key.
            prediction: its instances, at the size of the ground truth.
            truth: its ground truth where the caller has it; None loads it.

        Raises:
            DataError: the prediction does not fit the image, or the image is not of the data set.
        """
        if key not in self._dicts:
            raise DataError(f"image {key} was predicted but is not in the evaluated data set")
        record = self._dicts[key]
        truth = self._load(record) if truth is None else truth
        size = (int(record["height"]), int(record["width"])) if truth is None else truth.void.shape
        prediction.check(key, size=size, num_classes=len(self.class_names))
        if self._masks.measures and prediction.masks is None:
            raise DataError(
                f"image {key}: a protocol for masks got boxes only; set MODEL.MASK_ON True or "
                'WSIS.EVALUATION.PROTOCOLS ("coco_bbox",)'
            )
        if self._writer is not None:
            self._writer.add(key, record.get("image_id", key), prediction)
        if truth is None:
            self.without_truth.add(key)
            truth = self._load_boxes(record) if self._load_boxes else None
            self._counted["true boxes alone"] += truth is not None
        else:
            self._counted["true masks"] += len(truth.masks)
            self._masks.add(key, InstancePair(key, prediction, truth))
        if truth is not None:
            self._boxes.add(key, InstancePair(key, prediction, truth))

    def miss(self, dataset_dict: Mapping[str, Any]) -> None:
        """Count an image that could not be read: nothing was found, all its objects are missed."""
        truth = self._load(self._dicts[dataset_dict["image_key"]])
        size = (int(dataset_dict["height"]), int(dataset_dict["width"]))
        found = no_instances(size if truth is None else truth.void.shape)
        self.add(dataset_dict["image_key"], found, truth=truth)

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{protocol: {metric: per cent}}`` on the main process, empty on the others."""
        if self._writer is not None:
            path = self._writer.finish()
            if path is not None:
                logger.info("Predictions in COCO's result format: %s", path)
        shares = comm.gather((self.without_truth, self._counted), dst=0)
        left_out = set().union(*(keys for keys, _ in shares))
        total = {name: sum(counted[name] for _, counted in shares) for name in self._counted}
        of_masks, of_boxes = self._masks.finish(), self._boxes.finish()
        if left_out:
            logger.warning(
                "%d images have no true masks; of these %d count for boxes, the others not at all",
                len(left_out),
                total["true boxes alone"],
            )
        if total["true boxes alone"] and not total["true masks"]:
            return of_boxes
        return OrderedDict(**of_masks, **of_boxes)
