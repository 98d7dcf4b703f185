"""Protocol ``coco``: pycocotools' own matching and accumulation, image by image.

`pycocotools.cocoeval.COCOeval` matches one image at a time against a ground truth made in memory;
only its scores and flags are kept, and its ``accumulate`` runs over them at the end, one class at a
time. The figures are those of COCOeval on files; images are ordered by key, which breaks ties
between scores. Areas and boxes of objects are those that the data set states (``areas``, ``boxes``
of the ground truth), as in COCOeval; where it states none, they are those of the masks.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from wsis.evaluation.records import RecordTable
from wsis.evaluation.streaming import InstancePair, InstancePrediction, Metrics, Truth
from wsis.evaluation.voc import ProtocolOptions, add_by_class
from wsis.layers.masks import mask_boxes
from wsis.layers.run_lengths import encode_mask

AREAS = ("all", "small", "medium", "large")
_SIZE_NAMES = {"small": "APs", "medium": "APm", "large": "APl"}
_EXTRA_THRESHOLD = 0.25  # the others are COCO's 0.50, 0.55, ..., 0.95
_IMAGE = 1  # the id of the only image in a ground truth of one


@dataclass(frozen=True)
class CocoMatches:
    """COCOeval's flags of one image for the thresholds (as bits, lowest first) and the A areas.

    Attributes:
        classes: (n,) int64, ascending; within a class best score first.
        scores: (n,) float64.
        true: (n, A) int64 bits, the prediction found an object.
        ignored: (n, A) int64 bits, it counts neither way.
        object_classes: (m,) int64, classes that occur in prediction or truth, ascending.
        objects: (m, A) int64, how many objects of the class count.
    """

    classes: np.ndarray
    scores: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    object_classes: np.ndarray
    objects: np.ndarray


def xywh_of_masks(masks: np.ndarray) -> np.ndarray:
    """Tightest boxes (N, 4) of masks (N, H, W): x, y, width, height in pixels, int64."""
    boxes = mask_boxes(torch.from_numpy(np.ascontiguousarray(masks))).numpy()
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xywh_of_prediction(prediction: InstancePrediction) -> np.ndarray:
    """Predicted boxes (n, 4) as x, y, width, height; those of the masks where there are no others.

    Detectron2's boxes are XYXY_ABS with continuous coordinates, so the width is x1 - x0.
    """
    if prediction.boxes is None:
        return xywh_of_masks(prediction.masks)
    boxes = np.asarray(prediction.boxes, dtype=np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _parameters(iou_type: str) -> Params:
    parameters = Params(iou_type)
    parameters.iouThrs = np.concatenate([[_EXTRA_THRESHOLD], parameters.iouThrs])
    parameters.maxDets = [100]
    parameters.imgIds = [_IMAGE]
    return parameters


def _stated(truth: Truth | None, prefix: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Areas (N,) and boxes (N, 4) that a ground truth states, NaN where it does not."""
    areas = getattr(truth, f"{prefix}areas", None)
    boxes = getattr(truth, f"{prefix}boxes", None)
    return (
        np.full(count, np.nan) if areas is None else areas,
        np.full((count, 4), np.nan) if boxes is None else boxes,
    )


def _to_bits(flags: np.ndarray) -> np.ndarray:
    """(T, n) bool as (n,) int64, threshold t in bit t."""
    return (flags.astype(np.int64) << np.arange(len(flags))[:, None]).sum(axis=0)


def _from_bits(bits: np.ndarray, number: int) -> np.ndarray:
    """The opposite of `_to_bits` for ``number`` thresholds."""
    return (bits[None] >> np.arange(number)[:, None]) & 1 > 0


def _in_memory(annotations: list[dict[str, Any]], size: tuple[int, int]) -> COCO:
    """A COCO object of one image; categories are numbered class + 1."""
    classes = sorted({annotation["category_id"] for annotation in annotations})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": _IMAGE, "height": size[0], "width": size[1]}],
        "categories": [{"id": number, "name": str(number)} for number in classes],
        "annotations": [
            {"image_id": _IMAGE, "id": number, **annotation}
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    coco.createIndex()
    return coco


class CocoMeasure:
    """AP, AP50, AP75, AP by size, and AP25 and AP70 (what CIM reports), means and per class.

    At most the 100 best predictions of a class in an image count, as in COCO. Crowd regions, where
    the ground truth knows their class (`wsis.evaluation.truth.EvaluationTruth`), are ``iscrowd``.

    Args:
        class_names: C names.
        iou_type: "segm", or "bbox" for protocol ``coco_bbox``: predicted boxes against the true
            objects' boxes.
        options: departures from COCO's rule.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        iou_type: str = "segm",
        options: ProtocolOptions | None = None,
    ) -> None:
        if iou_type not in ("segm", "bbox"):
            raise ValueError(f"iou_type must be segm or bbox, got {iou_type!r}")
        self.class_names = tuple(class_names)
        self.iou_type = iou_type
        self.options = options or ProtocolOptions()
        self.protocol = self.options.name("coco" if iou_type == "segm" else "coco_bbox")

    def measure(self, pair: InstancePair) -> CocoMatches:
        """What COCOeval says of one image."""
        size = tuple(pair.truth.void.shape)
        truth = self._true_annotations(pair.truth, pair.prediction.classes)
        predicted = self._predicted_annotations(pair.prediction)
        parameters = _parameters(self.iou_type)
        present = {annotation["category_id"] for annotation in truth + predicted}
        if not present:
            return self._compact([], [])
        parameters.catIds = sorted(present)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by print
            evaluation = COCOeval(
                _in_memory(truth, size), _in_memory(predicted, size), self.iou_type
            )
            evaluation.params = parameters
            evaluation.evaluate()
        return self._compact(evaluation.evalImgs, parameters.catIds)

    def _geometry(
        self, masks: np.ndarray, areas: np.ndarray, boxes: np.ndarray
    ) -> list[dict[str, Any]]:
        areas = areas.tolist()
        if self.iou_type == "bbox":
            return [
                {"bbox": box, "area": area} for box, area in zip(boxes.tolist(), areas, strict=True)
            ]
        return [
            {"segmentation": encode_mask(mask), "area": area}
            for mask, area in zip(masks, areas, strict=True)
        ]

    def _true_annotations(self, truth: Truth, predicted: np.ndarray) -> list[dict[str, Any]]:
        crowd_masks = getattr(truth, "crowd_masks", None)
        masks, stated = [truth.masks], [_stated(truth, "", len(truth.masks))]
        classes = [np.asarray(truth.classes)]
        crowd = [truth.difficult & (not self.options.use_difficult)]
        if crowd_masks is not None and len(crowd_masks):
            masks.append(crowd_masks)
            classes.append(np.asarray(truth.crowd_classes))
            stated.append(_stated(truth, "crowd_", len(crowd_masks)))
            crowd.append(np.ones(len(crowd_masks), dtype=bool))
        if self.options.ignore_void and truth.void.any():
            everywhere = np.unique(predicted)
            masks.append(np.broadcast_to(truth.void, (len(everywhere), *truth.void.shape)))
            classes.append(everywhere)
            stated.append(_stated(None, "", len(everywhere)))
            crowd.append(np.ones(len(everywhere), dtype=bool))
        stacked = np.concatenate(masks)
        areas, boxes = (np.concatenate(values) for values in zip(*stated, strict=True))
        areas = np.where(np.isnan(areas), stacked.sum(axis=(1, 2)), areas)
        boxes = np.where(np.isnan(boxes), xywh_of_masks(stacked), boxes)
        shapes = self._geometry(stacked, areas, boxes)
        return [
            {**shape, "category_id": int(number) + 1, "iscrowd": int(ignored)}
            for shape, number, ignored in zip(
                shapes, np.concatenate(classes), np.concatenate(crowd), strict=True
            )
        ]

    def _predicted_annotations(self, prediction: InstancePrediction) -> list[dict[str, Any]]:
        if self.iou_type == "bbox":
            boxes = xywh_of_prediction(prediction)
            shapes = [{"bbox": box, "area": box[2] * box[3]} for box in boxes.tolist()]
        else:
            areas = prediction.masks.sum(axis=(1, 2))
            shapes = self._geometry(prediction.masks, areas, np.zeros((len(areas), 4)))
        return [
            {**shape, "category_id": int(number) + 1, "score": float(score), "iscrowd": 0}
            for shape, number, score in zip(
                shapes, prediction.classes, prediction.scores, strict=True
            )
        ]

    @staticmethod
    def _compact(found: Sequence[dict[str, Any]], categories: list[int]) -> CocoMatches:
        """COCOeval's results, which come class by class and within a class area by area."""
        by_class = [found[i : i + len(AREAS)] for i in range(0, len(found), len(AREAS))]
        sizes = [len(areas[0]["dtScores"]) for areas in by_class]
        classes = np.array(categories, dtype=np.int64) - 1

        def flags(name: str) -> np.ndarray:
            rows = [
                np.stack([_to_bits(np.asarray(area[name]) > 0) for area in areas], axis=1)
                for areas in by_class
            ]
            return np.concatenate([np.zeros((0, len(AREAS)), dtype=np.int64), *rows])

        objects = [[np.sum(np.asarray(a["gtIgnore"]) == 0) for a in areas] for areas in by_class]
        return CocoMatches(
            classes=np.repeat(classes, np.array(sizes, dtype=np.int64)),
            scores=np.array([score for areas in by_class for score in areas[0]["dtScores"]]),
            true=flags("dtMatches"),
            ignored=flags("dtIgnore"),
            object_classes=classes,
            objects=np.array(objects, dtype=np.int64).reshape(-1, len(AREAS)),
        )

    def _precision(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """COCOeval's precision of one class, (T, 101, areas); -1 where there are no objects.

        ``accumulate`` sees all images as one, whose predictions it ranks as it would anyway.
        """
        parameters = _parameters(self.iou_type)
        number = len(parameters.iouThrs)
        parameters.catIds, parameters.maxDets = [0], [max(1, len(found["scores"]))]
        evaluation = COCOeval(iouType=self.iou_type)
        evaluation.params = evaluation._paramsEval = parameters
        evaluation.evalImgs = [
            {
                "dtScores": found["scores"],
                "dtMatches": _from_bits(found["true"][:, area], number),
                "dtIgnore": _from_bits(found["ignored"][:, area], number),
                "gtIgnore": np.zeros(objects, dtype=bool),
            }
            for area, objects in enumerate(found["objects"].sum(axis=0).tolist())
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        return evaluation.eval["precision"][:, :, 0, :, 0]

    def _by_class(self, table: RecordTable) -> Iterator[dict[str, np.ndarray]]:
        """The rows of each class in turn; images keep their order."""
        flags = {
            name: table.column(name, np.int16).reshape(-1, len(AREAS))
            for name in ("true", "ignored")
        }
        objects = table.column("objects", np.int64).reshape(-1, len(AREAS))
        classes = [table.column(name, np.int64) for name in ("classes", "object_classes")]
        orders = [np.argsort(numbers, kind="stable") for numbers in classes]
        borders = np.arange(len(self.class_names) + 1)
        ends = [np.searchsorted(n[o], borders) for n, o in zip(classes, orders, strict=True)]
        scores = table.column("scores", np.float64)
        for index in range(len(self.class_names)):
            rows, cells = (o[e[index] : e[index + 1]] for o, e in zip(orders, ends, strict=True))
            of_class = {name: values[rows] for name, values in flags.items()}
            yield {**of_class, "scores": scores[rows], "objects": objects[cells]}

    def summarise(self, records: RecordTable | Sequence[CocoMatches]) -> Metrics:
        """COCO's figures and the fixed thresholds, in per cent."""
        number = len(self.class_names)
        thresholds = np.round(_parameters(self.iou_type).iouThrs, 2)
        unknown = 0.0 if self.options.absent_is_zero else np.nan
        shares = np.full((number, len(thresholds), len(AREAS)), unknown)
        for index, found in enumerate(self._by_class(RecordTable.of(records))):
            precision = self._precision(found)
            for area in range(len(AREAS)):
                if (precision[..., area] > -1).all():
                    shares[index, :, area] = precision[..., area].mean(axis=1)
        strict = thresholds >= 0.5
        metrics: Metrics = {}
        add_by_class(metrics, "AP", shares[:, strict, 0].mean(axis=1), self.class_names)
        for threshold in (0.25, 0.5, 0.7, 0.75):
            column = int(np.flatnonzero(thresholds == threshold)[0])
            name = f"AP{round(100 * threshold)}"
            add_by_class(metrics, name, shares[:, column, 0], self.class_names)
        for area, name in _SIZE_NAMES.items():
            by_size = shares[:, strict, AREAS.index(area)].mean(axis=1)
            add_by_class(metrics, name, by_size, self.class_names)
        return metrics
