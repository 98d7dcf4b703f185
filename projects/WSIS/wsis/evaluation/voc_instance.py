"""`VOCInstanceEvaluator`: instances under named protocols, as a Detectron2 evaluator."""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from wsis.data.builtin import category_ids, class_names, get_dataset_dicts
from wsis.data.working_size import as_sample, file_size, resize_annotation
from wsis.errors import DataError, UsageError, known_words
from wsis.evaluation.coco import CocoMeasure, CocoResultWriter
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


class VOCInstanceEvaluator(DatasetEvaluator):
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
        dataset_dicts: those of `wsis.data.builtin.get_dataset_dicts`, where the caller has them;
            None reads the data set when the first image comes.

    Attributes:
        without_truth: keys of this process's images without masks.
        objects: how many true ones its images have.

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
        dataset_dicts: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        self.dataset_name = dataset_name
        self.class_names = class_names(dataset_name)
        self._given, self._distributed = dataset_dicts, distributed
        measures = build_measures(self.class_names, protocols, options=options)
        self._measures = sorted(measures, key=lambda one: not one.needs_masks)
        self._writers = []
        if output_dir is not None:
            ids = category_ids(dataset_name)
            self._writers = [CocoResultWriter(output_dir, category_ids=ids)]
        self.reset()

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        """Dataset dicts by file and by image key; inputs lack annotations, which mappers drop."""
        given = get_dataset_dicts(self.dataset_name) if self._given is None else self._given
        return {record[name]: record for record in given for name in ("file_name", "image_key")}

    def _record(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The dataset dict of an input, which has an ``image_key`` if it comes from our loaders."""
        name = given.get("image_key") or given["file_name"]
        if name not in self._records:
            raise DataError(f"image {name} was predicted but is not in {self.dataset_name}")
        return self._records[name]

    def reset(self) -> None:
        """Forget every image."""
        for one in (*self._measures, *self._writers):
            one.reset()
        self.without_truth: set[str] = set()
        self.objects = 0
        self._counted = Counter[str]()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """`add` a batch of model outputs.

        Inputs have ``image_key`` or ``file_name``, outputs ``instances``: `Instances` of the size
        of the original image. If an input of our loaders was made smaller (it has ``file_size``),
        they have its size: there they are measured, and enlarged where they are written.
        """
        for given, output in zip(inputs, outputs, strict=True):
            self.add(given, InstancePrediction.of_instances(output["instances"]))

    def miss(self, dataset_dict: Mapping[str, Any]) -> None:
        """Count an image that could not be read: nothing was found, all its objects are missed."""
        self.add(dataset_dict, None)

    def add(self, given: Mapping[str, Any], found: InstancePrediction | None) -> None:
        """Measure what was found in the image that ``given`` names; None stands for nothing found.

        Raises:
            DataError: an image is not of the data set, or instances do not fit it.
        """
        record = as_sample(self._record(given), given)
        key, truth = record["image_key"], load_truth(record)
        size = (int(record["height"]), int(record["width"]))
        size = size if truth is None else truth.void.shape
        found = found or InstancePrediction.nothing(size)
        found.check(key, size=size, num_classes=len(self.class_names))
        if not found.has_masks and any(one.needs_masks for one in self._measures):
            raise DataError(
                f"image {key}: a protocol for masks got boxes only; set MODEL.MASK_ON True or "
                'WSIS.EVALUATION.PROTOCOLS ("coco_bbox",)'
            )
        for writer in self._writers:
            of_file = [resize_annotation(e, size, file_size(record)) for e in found.results]
            writer.add(key, (record.get("image_id", key), of_file))
        measures: Sequence[Measure] = self._measures
        if truth is None:
            self.without_truth.add(key)
            measures = [one for one in measures if not one.needs_masks]
            truth = load_box_truth(record)
            self._counted["true boxes alone"] += truth is not None
        else:
            self._counted["true masks"] += len(truth.masks)
        if truth is not None:
            self.objects += len(truth.classes)
            pair = InstancePair(key, found, truth)
            place = record.get("image_id", key)  # pycocotools' order, which tells between ties
            for measure in measures:
                measure.add((isinstance(place, str), place, key), pair)

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{protocol: {metric: per cent}}`` on the main process, empty on the others."""
        results_of(self._writers, distributed=self._distributed)
        shares = [(self.without_truth, self._counted)]
        if self._distributed:
            shares = comm.gather(shares[0], dst=0)
        left_out = set[str]().union(*(keys for keys, _ in shares))
        total = sum((counted for _, counted in shares), Counter[str]())
        found = results_of(self._measures, distributed=self._distributed)
        alone = total["true boxes alone"]
        if left_out:
            natural = not total["true masks"] and len(left_out) == alone  # boxes and no masks
            logger.log(
                logging.INFO if natural else logging.WARNING,
                "%d images have no true masks; of these %d count for boxes, the others not at all",
                len(left_out),
                alone,
            )
        if alone and not total["true masks"]:
            boxes = [one.protocol for one in self._measures if not one.needs_masks]
            return OrderedDict((name, found[name]) for name in boxes)
        return found
