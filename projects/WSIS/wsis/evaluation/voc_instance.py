"""`VOCInstanceEvaluator`: instances under named protocols, as a Detectron2 evaluator."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from wsis.data.builtin import category_ids, class_names, get_dataset_dicts
from wsis.data.ground_truth import GroundTruth
from wsis.data.working_size import as_sample, file_size, resize_annotation
from wsis.errors import DataError, UsageError, known_words
from wsis.evaluation.coco import CocoMeasure, CocoResultWriter
from wsis.evaluation.evaluator import DatasetDict, Evaluator, Image
from wsis.evaluation.predictions import InstancePair, InstancePrediction, ProtocolOptions
from wsis.evaluation.streaming import Measure, Metrics, results_of
from wsis.evaluation.truth import load_box_truth, load_truth
from wsis.evaluation.voc import VocMeasure

logger = logging.getLogger(__name__)

PROTOCOLS: dict[str, Callable[..., Measure]] = {
    "voc": VocMeasure,
    "coco": CocoMeasure,
    "coco_bbox": partial(CocoMeasure, iou_type="bbox"),
}


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
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise UsageError(
                f"there is no evaluation protocol {protocol!r} (--protocol, "
                f"WSIS.EVALUATION.PROTOCOLS); there are {known_words(protocol, PROTOCOLS)}"
            )
    return [PROTOCOLS[name](class_names, options=options) for name in dict.fromkeys(protocols)]


def instance_pair(image: Image) -> InstancePair:
    """What was found, in any form that `InstancePrediction.of` takes, beside the truth.

    Raises:
        DataError: it does not fit the image.
    """
    size = image.truth.void.shape
    found = InstancePrediction.of(image.found, size)
    found.check(image.key, size=size, num_classes=len(image.class_names))
    return InstancePair(image.key, found, image.truth)


class VOCInstanceEvaluator(Evaluator, DatasetEvaluator):
    """Average precision of instance masks against the true masks of a registered data set.

    It is used as every evaluator of Detectron2::

        evaluator = VOCInstanceEvaluator("voc_2012_val_instance", output_dir="predictions")
        loader = build_detection_test_loader(cfg, "voc_2012_val_instance")
        inference_on_dataset(predictor.model, loader, evaluator)["voc"]["AP50"]

    It streams: of an image only scores and match flags are kept, and its true masks are read when
    it is measured. Every process evaluates its share and the figures do not depend on the number of
    processes. An image without true masks is left out, except for ``coco_bbox`` if it has boxes.

    Args:
        dataset_name: a data set registered with Detectron2.
        protocols: of `PROTOCOLS`.
        distributed: False gives every process the figures of its own images.
        output_dir: folder for the predictions in COCO's result format; None writes none.
        options: departures from the protocols, which their names then show.

    Attributes:
        without_truth: keys of this process's images without masks.

    Raises:
        UsageError: no such data set, or no such protocol.
    """

    def __init__(
        self,
        dataset_name: str,
        protocols: Sequence[str] = ("voc", "coco"),
        distributed: bool = True,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        options: ProtocolOptions | None = None,
    ) -> None:
        self.dataset_name, names = dataset_name, class_names(dataset_name)
        measures = build_measures(names, protocols, options=options)
        parts = [
            (self._mask_pair, [one for one in measures if one.needs_masks]),
            (instance_pair, [one for one in measures if not one.needs_masks]),
        ]
        super().__init__("instances", names, parts, self._truth, distributed)
        self._writers = []
        if output_dir is not None:
            ids = category_ids(dataset_name)
            self._writers = [CocoResultWriter(output_dir, category_ids=ids)]
        self.reset()

    @cached_property
    def _records(self) -> dict[str, DatasetDict]:
        """Dataset dicts by file and by image key; inputs lack annotations, which mappers drop."""
        given = get_dataset_dicts(self.dataset_name)
        return {record[name]: record for record in given for name in ("file_name", "image_key")}

    def reset(self) -> None:
        """Forget every image."""
        for one in (*self.measures, *self._writers):
            one.reset()
        self.counts.clear()
        self.without_truth: set[str] = set()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """`add` a batch of model outputs.

        Inputs have ``image_key`` (those of our loaders) or ``file_name``, outputs ``instances``:
        `Instances` of the size of the original image. If an input of our loaders was made smaller
        (it has ``file_size``), they have its size: there they are measured, and enlarged where they
        are written.
        """
        for given, output in zip(inputs, outputs, strict=True):
            name = given.get("image_key") or given["file_name"]
            if name not in self._records:
                raise DataError(f"image {name} was predicted but is not in {self.dataset_name}")
            self.add(as_sample(self._records[name], given), output)

    def order(self, record: DatasetDict) -> Any:
        """pycocotools' order, by image id."""
        key = record["image_key"]
        place = record.get("image_id", key)
        return isinstance(place, str), place, key

    def _truth(self, record: DatasetDict) -> GroundTruth | None:
        truth = load_truth(record)
        if truth is not None:
            self.counts["true masks"] += len(truth.masks)
            return truth
        self.without_truth.add(record["image_key"])
        truth = load_box_truth(record)
        self.counts["true boxes alone"] += truth is not None
        return truth

    def _mask_pair(self, image: Image) -> InstancePair | None:
        return None if image.key in self.without_truth else instance_pair(image)

    def add(self, record: DatasetDict, found: Any) -> None:
        """Measure what was found in an image, in any form that `InstancePrediction.of` takes.

        Raises:
            DataError: instances do not fit the image.
        """
        key, size = record["image_key"], (int(record["height"]), int(record["width"]))
        found = InstancePrediction.of(found, size)
        found.check(key, size=size, num_classes=len(self.class_names))
        if not found.has_masks and any(one.needs_masks for one in self.measures):
            raise DataError(
                f"image {key}: a protocol for masks got boxes only; set MODEL.MASK_ON True or "
                'WSIS.EVALUATION.PROTOCOLS ("coco_bbox",)'
            )
        for writer in self._writers:
            of_file = [resize_annotation(e, size, file_size(record)) for e in found.results]
            writer.add(key, (record.get("image_id", key), of_file))
        super().add(record, found)

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{protocol: {metric: per cent}}`` on the main process, empty on the others."""
        results_of(self._writers, distributed=self.distributed)
        self.counts["without true masks"] = len(self.without_truth)
        found, total = super().evaluate(), self.total()
        left_out, alone = total["without true masks"], total["true boxes alone"]
        if left_out:
            natural = not total["true masks"] and left_out == alone  # boxes and no masks
            logger.log(
                logging.INFO if natural else logging.WARNING,
                "%d images have no true masks; of these %d count for boxes, the others not at all",
                left_out,
                alone,
            )
        if alone and not total["true masks"]:
            boxes = [one.protocol for one in self.measures if not one.needs_masks]
            return OrderedDict((name, found[name]) for name in boxes)
        return found


def detection_evaluator(name: str, cfg: CfgNode, folder: Path) -> VOCInstanceEvaluator:
    """The evaluator of a network whose output has ``instances``; boxes are always measured.

    A network without masks (``MODEL.MASK_ON`` False: RetinaNet) is measured by its boxes alone.
    """
    of_masks = cfg.WSIS.EVALUATION.PROTOCOLS if cfg.MODEL.MASK_ON else ()
    protocols, options = dict.fromkeys((*of_masks, "coco_bbox")), ProtocolOptions.of(cfg)
    return VOCInstanceEvaluator(name, tuple(protocols), output_dir=folder, options=options)
