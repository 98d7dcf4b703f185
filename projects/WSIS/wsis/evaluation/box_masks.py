"""Masks predicted inside given boxes: their IoU with the true mask of each box.

No matching and no scores: every annotation has its own prediction. Two baselines stand beside it,
the filled box and GrabCut started from the box. K boxes, H x W image.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm

from wsis.data.artifacts import ProductReader
from wsis.data.images import read_dataset_image
from wsis.errors import DataError
from wsis.evaluation.box_baselines import filled_boxes, grabcut_boxes
from wsis.evaluation.checks import check_instances
from wsis.evaluation.records import RecordTable
from wsis.evaluation.streaming import Metrics, StreamingEvaluation, Truth, percent, ratio
from wsis.evaluation.truth import load_truth
from wsis.evaluation.walk import CheckOptions, Results, Walk

logger = logging.getLogger(__name__)

IOU_LEVELS = (0.25, 0.5, 0.7, 0.75)
TRUSTED = 0.95  # the published confidence from which a mask teaches
_SAME_BOX = 0.5  # IoU of a box with that of a mask, from which they are the same object


def class_mean_iou(
    ious: np.ndarray, classes: np.ndarray, *, num_classes: int, divisor: int | None = None
) -> tuple[np.ndarray, float]:
    """The original's mIoU*: mean of the classes' mean IoU (boxcaseg spec 6).

    Args:
        ious: (K,) float.
        classes: (K,) class ids.
        num_classes: C.
        divisor: of the sum over classes; ``num_classes`` if None.

    Returns:
        (C,) float64, 0 for a class without instance, and their sum over the divisor.
    """
    sums = np.bincount(classes, weights=ious, minlength=num_classes)
    counts = np.bincount(classes, minlength=num_classes)
    means = sums / np.maximum(counts, 1)
    return means, float(means.sum() / (divisor or num_classes))


def paired_iou(masks: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """(K,) float64 IoU of mask k with truth k; 0 where both are empty.

    Args:
        masks: (K, H, W) bool.
        truths: (K, H, W) bool.
    """
    shared = (masks & truths).sum(axis=(1, 2))
    union = (masks | truths).sum(axis=(1, 2))
    return shared / np.maximum(union, 1)


def _boxes_of(masks: np.ndarray) -> np.ndarray:
    boxes = np.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(columns):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(c[:, 2:] - c[:, :2]).prod(axis=1) for c in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-9)


def object_of_boxes(record: Mapping[str, Any], truth: Truth) -> np.ndarray:
    """Which true object each annotated box encloses.

    A data set whose annotations hold the masks says so itself. Elsewhere (VOC's XML beside its
    PNG) a box and a mask of the same class belong together by the IoU of their boxes, best first.

    Args:
        record: dataset dict; crowds and annotations without a box do not count.
        truth: of the same image.

    Returns:
        (K,) int64, -1 where there is none.
    """
    boxed = [a for a in record.get("annotations", ()) if "bbox" in a and not a.get("iscrowd")]
    objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd")]
    if "instance_file_name" not in record:
        position = {id(a): i for i, a in enumerate(objects)}
        return np.array([position[id(a)] for a in boxed], dtype=np.int64)
    return _matched(_corners(boxed), np.array([a["category_id"] for a in boxed]), truth)


def _corners(boxed: Sequence[Mapping[str, Any]]) -> np.ndarray:
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in boxed]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def objects_of_product(
    record: Mapping[str, Any], truth: Truth, boxes: np.ndarray, classes: np.ndarray
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
    boxed = [a for a in record.get("annotations", ()) if "bbox" in a and not a.get("iscrowd")]
    stated, boxes = _corners(boxed), np.asarray(boxes, dtype=np.float64)
    if len(stated) == len(boxes) and (_box_iou(stated, boxes).diagonal() >= _SAME_BOX).all():
        return object_of_boxes(record, truth)
    return _matched(boxes, np.asarray(classes), truth)


def _matched(boxes: np.ndarray, classes: np.ndarray, truth: Truth) -> np.ndarray:
    """(K,) int64: objects of the boxes by class and the IoU of boxes, best first; -1 for none."""
    result = np.full(len(boxes), -1, dtype=np.int64)
    if not len(boxes) or not len(truth.classes):
        return result
    iou = _box_iou(boxes, _boxes_of(truth.masks))
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
        masks: (K, H, W) bool.
        truths: (K, H, W) bool.
        classes: (K,) int64 class ids.
    """

    masks: np.ndarray
    truths: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class BoxOverlaps:
    """What is kept of an image: (K,) float64 IoU of each box's mask, and (K,) int64 class ids."""

    iou: np.ndarray
    classes: np.ndarray


class BoxMaskMeasure:
    """mIoU of masks inside given boxes.

    Args:
        protocol: name of what is measured.
        class_names: C names.
    """

    def __init__(self, protocol: str, class_names: Sequence[str]) -> None:
        self.protocol = protocol
        self.class_names = tuple(class_names)

    def measure(self, pair: BoxMasks) -> BoxOverlaps:
        """IoU and class of each box."""
        return BoxOverlaps(paired_iou(pair.masks, pair.truths), pair.classes)

    def summarise(self, records: RecordTable | Sequence[BoxOverlaps]) -> Metrics:
        """``mIoU`` over instances, the original's ``mIoU*`` over classes, shares above an IoU."""
        table, number = RecordTable.of(records), len(self.class_names)
        ious, classes = table.column("iou", np.float64), table.column("classes", np.int64)
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
        self.baselines = baselines
        titles = [title, "baseline filled box"] if baselines else [title]
        titles += ["baseline GrabCut"] if self.grabcut_iterations else []
        self._streams = [StreamingEvaluation([BoxMaskMeasure(t, class_names)]) for t in titles]

    def reset(self) -> None:
        """Forget every image."""
        for stream in self._streams:
            stream.reset()

    def add(
        self,
        record: Mapping[str, Any],
        truth: Truth,
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
        ways = [masks[known]]
        if self.baselines:
            ways.append(filled_boxes(boxes[known], size))
        if self.grabcut_iterations:
            image = read_dataset_image(dict(record))
            ways.append(grabcut_boxes(image, boxes[known], iterations=self.grabcut_iterations))
        for stream, found in zip(self._streams, ways, strict=True):
            stream.add(record["image_key"], BoxMasks(found, truths, classes))

    def miss(self, record: Mapping[str, Any], truth: Truth) -> None:
        """Count an image that could not be read: every box of it has an empty mask."""
        objects = object_of_boxes(record, truth)
        truths = truth.masks[objects[objects >= 0]]
        classes = truth.classes[objects[objects >= 0]]
        for stream in self._streams:
            stream.add(record["image_key"], BoxMasks(np.zeros_like(truths), truths, classes))

    def finish(self) -> OrderedDict[str, Metrics]:
        """``{protocol: metrics}`` on the main process, empty on the others."""
        results: OrderedDict[str, Metrics] = OrderedDict()
        for stream in self._streams:
            results.update(stream.finish())
        return results


def check_box_masks(
    dataset_dicts: Sequence[dict[str, Any]], product: ProductReader, options: CheckOptions
) -> Results:
    """Product with ``masks`` and ``boxes`` per annotation: mIoU of them and of the baselines."""
    stream = BoxMaskStream(options.class_names, grabcut_iterations=options.grabcut_iterations)
    walk = Walk("box masks", options)
    for record, truth, arrays in walk.over(dataset_dicts, product):
        if arrays is None:
            stream.miss(record, truth)
        else:
            boxes, classes = arrays["boxes"], arrays["classes"]
            stream.add(record, truth, arrays["masks"], boxes, classes=classes)
    return walk.entries(stream.finish())


def check_proxy_masks(
    dataset_dicts: Sequence[dict[str, Any]], product: ProductReader, options: CheckOptions
) -> Results:
    """Product ``instances`` of boxes: as `check_instances`, mIoU per box, and the confidence."""
    results = check_instances(dataset_dicts, product, options)
    measures = {
        title: BoxMaskStream(options.class_names, title=title, baselines=False)
        for title in ("proxy masks", f"proxy masks, confidence > {TRUSTED}")
    }
    walk = Walk("proxy masks", options)
    for record, truth, arrays in walk.over(dataset_dicts, product):
        if arrays is None:
            measures["proxy masks"].miss(record, truth)
            continue
        sure = arrays["confidence"] > TRUSTED
        for stream, chosen in zip(measures.values(), (None, sure), strict=True):
            boxes, classes = arrays["boxes"], arrays["classes"]
            stream.add(record, truth, arrays["masks"], boxes, classes=classes, chosen=chosen)
    found: dict[str, Metrics] = {}
    for stream in measures.values():
        found.update(stream.finish())
    return results + walk.entries(found)


class BoxMaskEvaluator(DatasetEvaluator):
    """mIoU of a network that takes boxes, on a test set.

    Args:
        dataset_dicts: of the test set.
        class_names: C names.
        grabcut_iterations: 0 leaves GrabCut out.
    """

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
        self._stream.reset()
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
                self._stream.add(record, truth, masks, boxes)

    def miss(self, dataset_dict: Mapping[str, Any]) -> None:
        """Count an image that could not be read: its objects are missed, not forgiven."""
        truth = load_truth(dict(dataset_dict))
        if truth is not None:
            self._objects += len(truth.masks)
            self._stream.miss(dataset_dict, truth)

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{protocol: metrics}`` on the main process, empty on the others and without any mask."""
        results = self._stream.finish()
        if sum(comm.all_gather(self._objects)):
            return results
        logger.warning("no image has true masks, so masks inside boxes have no figures")
        return OrderedDict()
