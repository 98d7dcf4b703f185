"""Masks predicted inside given boxes: their IoU with the true mask of each box.

No matching and no scores: every annotation has its own prediction. Two baselines stand beside it,
the filled box and GrabCut started from the box. K boxes, H x W image.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from wsis.data.builtin import class_names as class_names_of
from wsis.data.ground_truth import GroundTruth
from wsis.data.images import read_dataset_image
from wsis.errors import DataError
from wsis.evaluation.checks import check_instances
from wsis.evaluation.image_loop import DatasetDicts, ImageLoop, Product, Results
from wsis.evaluation.streaming import (
    Measure,
    Metrics,
    Record,
    column,
    percent,
    ratio,
    results_of,
)
from wsis.evaluation.truth import load_truth
from wsis.layers.masks import box_iou, iou_of_areas, mask_boxes
from wsis.methods.boxcaseg.box_baselines import filled_boxes, grabcut_boxes
from wsis.methods.boxcaseg.samples import annotated_boxes, boxed_annotations

logger = logging.getLogger(__name__)

IOU_LEVELS = (0.25, 0.5, 0.7, 0.75)
TRUSTED = 0.95  # the published confidence from which a mask teaches
_FILLED, _GRABCUT = "baseline filled box", "baseline GrabCut"  # protocols
_SAME_BOX = 0.5  # IoU of a box with that of a mask, from which they are the same object


def class_mean_iou(
    ious: np.ndarray, classes: np.ndarray, *, num_classes: int
) -> tuple[np.ndarray, float]:
    """The original's mIoU*: mean of the classes' mean IoU (boxcaseg spec 6).

    Args:
        ious: (K,) float.
        classes: (K,) class ids.
        num_classes: C.

    Returns:
        (C,) float64, 0 for a class without instance, and their sum over C.
    """
    sums = np.bincount(classes, weights=ious, minlength=num_classes)
    counts = np.bincount(classes, minlength=num_classes)
    means = sums / np.maximum(counts, 1)
    return means, float(means.sum() / num_classes)


def paired_iou(masks: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """(K,) float64 IoU of mask k with truth k, both (K, H, W) bool; 0 where both are empty."""
    shared = (masks & truths).sum(axis=(1, 2), dtype=np.float64)
    return iou_of_areas(shared, masks.sum(axis=(1, 2)), truths.sum(axis=(1, 2)))


def object_of_boxes(record: Mapping[str, Any], truth: GroundTruth) -> np.ndarray:
    """Which true object each annotated box encloses.

    A data set whose annotations hold the masks says so itself. Elsewhere (VOC's XML beside its
    PNG) a box and a mask of the same class belong together by the IoU of their boxes, best first.

    Args:
        record: dataset dict; crowds and annotations without a box do not count.
        truth: of the same image.

    Returns:
        (K,) int64, -1 where there is none.
    """
    boxed = boxed_annotations(record)
    objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd")]
    if "instance_file_name" not in record:
        position = {id(a): i for i, a in enumerate(objects)}
        return np.array([position[id(a)] for a in boxed], dtype=np.int64)
    return _matched(annotated_boxes(record), np.array([a["category_id"] for a in boxed]), truth)


def objects_of_product(
    record: Mapping[str, Any], truth: GroundTruth, boxes: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Which true object each box of a product encloses.

    A product of the evaluated data set has its boxes, one by one. That of another one with the same
    images (boxes of a detector, say) has others; they find their objects by class and overlap.

    Args:
        record: dataset dict of the evaluated data set.
        truth: of the same image.
        boxes: (K, 4) of the product.
        classes: (K,) of the product.

    Returns:
        (K,) int64, -1 where there is none.
    """
    stated, boxes = annotated_boxes(record), np.asarray(boxes, dtype=np.float64)
    if len(stated) == len(boxes) and bool((box_iou(stated, boxes).diagonal() >= _SAME_BOX).all()):
        return object_of_boxes(record, truth)
    return _matched(boxes, np.asarray(classes), truth)


def _matched(boxes: np.ndarray, classes: np.ndarray, truth: GroundTruth) -> np.ndarray:
    """(K,) int64: objects of the boxes by class and the IoU of boxes, best first; -1 for none."""
    result = np.full(len(boxes), -1, dtype=np.int64)
    if not len(boxes) or not len(truth.classes):
        return result
    true_boxes = mask_boxes(torch.from_numpy(np.ascontiguousarray(truth.masks))).double()
    iou = box_iou(boxes, true_boxes).numpy()
    iou[classes[:, None] != truth.classes[None, :]] = 0
    while iou.max(initial=0) >= _SAME_BOX:
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        result[row] = column
        iou[row], iou[:, column] = 0, 0
    return result


@dataclass(frozen=True)
class BoxMasks:
    """Masks of an image's boxes beside the true ones; a box without a true mask is left out.

    Attributes:
        masks: protocol to (K, H, W) bool, the masks that it measures.
        truths: (K, H, W) bool.
        classes: (K,) int64 class ids.
    """

    masks: Mapping[str, np.ndarray]
    truths: np.ndarray
    classes: np.ndarray


class BoxMaskMeasure(Measure):
    """mIoU of masks inside given boxes: of ``protocol``, with C ``class_names``."""

    def __init__(self, protocol: str, class_names: Sequence[str]) -> None:
        super().__init__(protocol)
        self.class_names = tuple(class_names)

    def measure(self, pair: BoxMasks) -> Record:
        """``iou`` (K,) of each box's mask and ``classes`` (K,)."""
        iou = paired_iou(pair.masks[self.protocol], pair.truths)
        return {"iou": iou, "classes": pair.classes}

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """``mIoU`` over instances, the original's ``mIoU*`` over classes, shares above an IoU."""
        number = len(self.class_names)
        ious, classes = column(records, "iou", np.float64), column(records, "classes", np.int64)
        means, starred = class_mean_iou(ious, classes, num_classes=number)
        metrics: Metrics = {"mIoU": ratio(float(ious.sum()), len(ious))}
        metrics["mIoU*"] = percent(starred) if len(ious) else float("nan")
        for level in IOU_LEVELS:
            name = f"IoU@{100 * level:.0f}"
            metrics[name] = ratio(int((ious >= level).sum()), len(ious))
        present = np.bincount(classes, minlength=number) > 0
        for name, mean, there in zip(self.class_names, means, present, strict=True):
            metrics[f"mIoU/{name}"] = percent(mean) if there else float("nan")
        metrics["boxes"] = len(ious)
        return metrics


class BoxMaskStream:
    """The masks of a network, filled boxes and GrabCut, measured on the same boxes.

    Args:
        class_names: C names.
        grabcut_iterations: 0 leaves GrabCut out.
        title: of the network's masks.
        baselines: measure filled boxes and GrabCut too.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        grabcut_iterations: int = 5,
        title: str = "box masks",
        baselines: bool = True,
    ) -> None:
        self.grabcut_iterations = grabcut_iterations if baselines else 0
        titles = [title, _FILLED] if baselines else [title]
        titles += [_GRABCUT] if self.grabcut_iterations else []
        self.measures = [BoxMaskMeasure(one, class_names) for one in titles]
        self._titles = titles

    def take(
        self,
        record: Mapping[str, Any],
        truth: GroundTruth,
        masks: np.ndarray,
        boxes: np.ndarray,
        *,
        classes: np.ndarray | None = None,
        chosen: np.ndarray | None = None,
    ) -> None:
        """Measure one image.

        Args:
            record: dataset dict.
            truth: its true masks.
            masks: (K, H, W) bool, one for each box.
            boxes: (K, 4) integers, the boxes that were given to the network: those of the
                annotations in their order, or others with ``classes``.
            classes: (K,) class ids of the boxes, see `objects_of_product`.
            chosen: (K,) bool, those that count; None for all.

        Raises:
            DataError: the numbers of masks and boxes differ.
        """
        if classes is None:
            objects = object_of_boxes(record, truth)
        else:
            objects = objects_of_product(record, truth, boxes, classes)
        size = truth.void.shape
        if masks.shape != (len(objects), *size):
            raise DataError(
                f"image {record['image_key']}: masks of shape {masks.shape} for {len(objects)} "
                f"boxes in an image of {size[0]} x {size[1]}; make them again"
            )
        known = (objects >= 0) & (True if chosen is None else chosen)
        truths, classes = truth.masks[objects[known]], truth.classes[objects[known]]
        ways = {self._titles[0]: masks[known]}
        if _FILLED in self._titles:
            ways[_FILLED] = filled_boxes(boxes[known], size)
        if _GRABCUT in self._titles:
            image, iterations = read_dataset_image(dict(record)), self.grabcut_iterations
            ways[_GRABCUT] = grabcut_boxes(image, boxes[known], iterations=iterations)
        self._add(record, BoxMasks(ways, truths, classes))

    def _add(self, record: Mapping[str, Any], pair: BoxMasks) -> None:
        for measure in self.measures:
            measure.add(record["image_key"], pair)

    def miss(self, record: Mapping[str, Any], truth: GroundTruth) -> None:
        """Count an image that could not be read: every box of it has an empty mask."""
        objects = object_of_boxes(record, truth)
        objects = objects[objects >= 0]
        truths, classes = truth.masks[objects], truth.classes[objects]
        ways = dict.fromkeys(self._titles, np.zeros_like(truths))
        self._add(record, BoxMasks(ways, truths, classes))


def check_box_masks(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product with ``masks`` and ``boxes`` per annotation: mIoU of them and of the baselines."""
    iterations = cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS
    stream = BoxMaskStream(class_names, grabcut_iterations=iterations)
    loop = ImageLoop("box masks", dataset_dicts, product)
    for record, truth, arrays in loop:
        if arrays is None:
            stream.miss(record, truth)
        else:
            boxes, classes = arrays["boxes"], arrays["classes"]
            stream.take(record, truth, arrays["masks"], boxes, classes=classes)
    return loop.results(results_of(stream.measures))


def check_proxy_masks(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``instances`` of boxes: as `check_instances`, mIoU per box, and the confidence."""
    results = check_instances(dataset_dicts, product, class_names, cfg)
    streams = {
        title: BoxMaskStream(class_names, title=title, baselines=False)
        for title in ("proxy masks", f"proxy masks, confidence > {TRUSTED}")
    }
    loop = ImageLoop("proxy masks", dataset_dicts, product)
    for record, truth, arrays in loop:
        if arrays is None:
            streams["proxy masks"].miss(record, truth)
            continue
        sure = arrays["confidence"] > TRUSTED
        for stream, chosen in zip(streams.values(), (None, sure), strict=True):
            boxes, classes = arrays["boxes"], arrays["classes"]
            stream.take(record, truth, arrays["masks"], boxes, classes=classes, chosen=chosen)
    found = results_of(measure for stream in streams.values() for measure in stream.measures)
    return results + loop.results(found)


class BoxMaskEvaluator(DatasetEvaluator):
    """mIoU of a network that takes boxes, on a test set; arguments as of `BoxMaskStream`."""

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
            record = self._records[given["image_key"]]
            truth = load_truth(record)
            if truth is not None:
                self._objects += len(truth.masks)
                found = output["instances"]
                masks = found.pred_masks.cpu().numpy()
                boxes = found.pred_boxes.tensor.cpu().numpy().astype(np.int64)
                self._stream.take(record, truth, masks, boxes)

    def miss(self, dataset_dict: Mapping[str, Any]) -> None:
        """Count an image that could not be read: its objects are missed, not forgiven."""
        truth = load_truth(dict(dataset_dict))
        if truth is not None:
            self._objects += len(truth.masks)
            self._stream.miss(dataset_dict, truth)

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{protocol: metrics}`` on the main process, empty on the others and without any mask."""
        results = results_of(self._stream.measures)
        if sum(comm.all_gather(self._objects)):
            return results
        logger.warning("no image has true masks, so masks inside boxes have no figures")
        return OrderedDict()


def box_mask_evaluator(
    dataset_name: str, dataset_dicts: DatasetDicts, cfg: CfgNode, output_dir: os.PathLike[str]
) -> BoxMaskEvaluator:
    """The evaluator of a training stage whose network takes boxes; it writes no predictions."""
    iterations = cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS
    return BoxMaskEvaluator(
        dataset_dicts, class_names_of(dataset_name), grabcut_iterations=iterations
    )
