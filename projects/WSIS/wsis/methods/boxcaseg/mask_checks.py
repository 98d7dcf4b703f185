"""Masks inside given boxes, measured: the network of joint training, and proxy masks.

`wsis.evaluation.box_masks` has the measures, and the check of the product ``box_masks``.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from wsis.data.builtin import class_names
from wsis.data.working_size import as_sample
from wsis.evaluation.box_masks import BoxMaskStream
from wsis.evaluation.checks import check_instances
from wsis.evaluation.image_loop import DatasetDicts, ImageLoop, Product, Results
from wsis.evaluation.streaming import Metrics, results_of
from wsis.evaluation.truth import load_truth

logger = logging.getLogger(__name__)

TRUSTED = 0.95  # masks with a confidence above this train Mask R-CNN's masks, as published


def check_proxy_masks(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``instances`` made from boxes: figures of `check_instances`, and mIoU inside boxes.

    The mIoU is that of all masks, and of those with a confidence above `TRUSTED`.
    """
    results = check_instances(dataset_dicts, product, class_names, cfg)
    every, sure = (
        BoxMaskStream(class_names, title=title, baselines=False)
        for title in ("proxy masks", f"proxy masks, confidence > {TRUSTED}")
    )
    loop = ImageLoop("proxy masks", dataset_dicts, product)
    for record, truth, arrays in loop:
        every.take(record, truth, arrays)
        if arrays is not None:
            sure.take(record, truth, arrays, chosen=arrays["confidence"] > TRUSTED)
    return results + loop.results([*every.measures, *sure.measures])


class BoxMaskEvaluator(DatasetEvaluator):
    """mIoU of a network that takes boxes, on a test set; see `BoxMaskStream`."""

    def __init__(
        self,
        dataset_dicts: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        grabcut_iterations: int = 5,
    ) -> None:
        self._records = {record["image_key"]: record for record in dataset_dicts}
        self._stream = BoxMaskStream(class_names, grabcut_iterations=grabcut_iterations)
        self._objects = 0

    def reset(self) -> None:
        """Forget every image."""
        for measure in self._stream.measures:
            measure.reset()
        self._objects = 0

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take a batch: outputs have ``instances`` with a mask per annotated box."""
        for given, output in zip(inputs, outputs, strict=True):
            record = as_sample(self._records[given["image_key"]], given)
            self._take(record, output["instances"])

    def miss(self, dataset_dict: Mapping[str, Any]) -> None:
        """Count an image that could not be read: its masks count as empty."""
        self._take(dataset_dict, None)

    def _take(self, record: Mapping[str, Any], instances: Instances | None) -> None:
        truth = load_truth(dict(record))
        if truth is None:
            return
        self._objects += len(truth.masks)
        found = None
        if instances is not None:
            boxes = instances.pred_boxes.tensor.cpu().numpy().astype(np.int64)
            found = {"masks": instances.pred_masks.cpu().numpy(), "boxes": boxes}
        self._stream.take(record, truth, found)

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{protocol: metrics}`` on the main process, empty on the others and without any mask."""
        results = results_of(self._stream.measures)
        if sum(comm.all_gather(self._objects)):
            return results
        return OrderedDict()


def box_mask_evaluator(
    dataset_name: str, dataset_dicts: DatasetDicts, cfg: CfgNode, output_dir: os.PathLike[str]
) -> BoxMaskEvaluator:
    """The evaluator of a training stage whose network takes boxes; it writes no predictions."""
    names, iterations = class_names(dataset_name), cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS
    return BoxMaskEvaluator(dataset_dicts, names, grabcut_iterations=iterations)
