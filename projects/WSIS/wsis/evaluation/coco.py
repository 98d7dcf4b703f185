"""Protocol ``coco``: pycocotools' own matching and accumulation, image by image; result files.

`pycocotools.cocoeval.COCOeval` matches one image at a time; only its scores and flags are kept, and
its ``accumulate`` runs over them at the end, one class at a time. The figures are those of COCOeval
on files; images are ordered by key, which breaks ties between scores. Areas and boxes of objects
are those that the data set states (``areas``, ``boxes`` of the ground truth), as in COCOeval; where
it states none, they are those of the masks. Nothing is held but those flags: predictions go to a
file while they stream by.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval, Params

from wsis.data.files import atomic_write
from wsis.data.ground_truth import GroundTruth
from wsis.evaluation.predictions import InstancePair, InstancePrediction, ProtocolOptions
from wsis.evaluation.streaming import KeyedRecords, Metrics, Record, RecordTable, add_by_class
from wsis.evaluation.truth import EvaluationTruth
from wsis.layers.masks import mask_boxes
from wsis.layers.run_lengths import encode_mask

_AREAS = 4  # COCO's: all, small, medium, large
_EXTRA_THRESHOLD = 0.25  # the others are COCO's 0.50, 0.55, ..., 0.95
_MOST = 100  # predictions of a class in an image
FILE_NAME = "coco_instances_results.json"  # as Detectron2 calls it


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xywh_of_masks(masks: np.ndarray) -> np.ndarray:
    """Tightest boxes (N, 4) of masks (N, H, W): x, y, width, height in pixels, int64."""
    return _xywh(mask_boxes(torch.from_numpy(np.ascontiguousarray(masks))).numpy())


def xywh_of_prediction(prediction: InstancePrediction) -> np.ndarray:
    """Predicted boxes (n, 4) as x, y, width, height; those of the masks where there are no others.

    Detectron2's boxes are XYXY_ABS with continuous coordinates, so the width is x1 - x0.
    """
    if prediction.boxes is None:
        assert prediction.masks is not None
        return xywh_of_masks(prediction.masks)
    return _xywh(np.asarray(prediction.boxes, dtype=np.float64))


def _to_bits(flags: np.ndarray) -> np.ndarray:
    """(T, n) bool as (n,) int64, threshold t in bit t."""
    return (flags.astype(np.int64) << np.arange(len(flags))[:, None]).sum(axis=0)


def _from_bits(bits: np.ndarray, number: int) -> np.ndarray:
    """The opposite of `_to_bits` for ``number`` thresholds."""
    return (bits[None] >> np.arange(number)[:, None]) & 1 > 0


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

    def _parameters(self) -> Params:
        parameters = Params(self.iou_type)
        parameters.iouThrs = np.concatenate([[_EXTRA_THRESHOLD], parameters.iouThrs])
        return parameters

    def measure(self, pair: InstancePair) -> Record:
        """What COCOeval says of one image, for T thresholds and A areas.

        Returns:
            ``classes`` (n,) ascending, within a class best score first; ``scores`` (n,); ``true``
            and ``ignored`` (n, A), found an object or counts neither way, a bit per threshold
            (lowest first); ``object_classes`` (m,) that occur in prediction or truth, ascending;
            ``objects`` (m, A), how many objects of the class count.
        """
        truth = self._true_annotations(pair.truth, pair.prediction.classes)
        predicted = self._predicted_annotations(pair.prediction)
        evaluation = COCOeval(iouType=self.iou_type)
        evaluation.params = self._parameters()
        evaluation.params.maxDets = [_MOST]
        # What COCOeval.evaluate would read from two COCO objects.
        for known, entries in ((evaluation._gts, truth), (evaluation._dts, predicted)):
            for entry in entries:
                known[0, entry["category_id"]].append(entry)
        classes = sorted({number for _, number in [*evaluation._gts, *evaluation._dts]})
        evaluation.ious = {(0, number): evaluation.computeIoU(0, number) for number in classes}
        found = [
            [evaluation.evaluateImg(0, number, area, _MOST) for area in evaluation.params.areaRng]
            for number in classes
        ]
        none = np.zeros((0, _AREAS), dtype=np.int64)

        def flags(name: str) -> np.ndarray:
            rows = ([_to_bits(np.asarray(area[name]) > 0) for area in areas] for areas in found)
            return np.concatenate([none, *(np.stack(columns, axis=1) for columns in rows)])

        objects = [[np.sum(np.asarray(a["gtIgnore"]) == 0) for a in areas] for areas in found]
        scores = [np.asarray(areas[0]["dtScores"], dtype=np.float64) for areas in found]
        numbers = np.array(classes, dtype=np.int64)
        return {
            "classes": np.repeat(numbers, np.array([len(s) for s in scores], dtype=np.int64)),
            "scores": np.concatenate([np.zeros(0), *scores]),
            "true": flags("dtMatches"),
            "ignored": flags("dtIgnore"),
            "object_classes": numbers,
            "objects": np.concatenate([none, np.array(objects, np.int64).reshape(-1, _AREAS)]),
        }

    def _annotations(
        self, classes: np.ndarray, masks: np.ndarray, boxes: np.ndarray, **more: np.ndarray
    ) -> list[dict[str, Any]]:
        """What COCOeval reads of objects or predictions, one dict each."""
        numbers = range(1, len(classes) + 1)
        columns = {"id": numbers, "category_id": np.asarray(classes).tolist()}
        columns |= {name: values.tolist() for name, values in more.items()}
        columns |= (
            {"bbox": boxes.tolist()}
            if self.iou_type == "bbox"
            else {"segmentation": [encode_mask(mask) for mask in masks]}
        )
        return _rows(columns)

    def _true_annotations(self, truth: GroundTruth, predicted: np.ndarray) -> list[dict[str, Any]]:
        voids = np.unique(predicted if self.options.ignore_void and truth.void.any() else [])
        everywhere = np.broadcast_to(truth.void, (len(voids), *truth.void.shape))
        crowds = getattr(truth, "crowds", None)
        known = [truth] if crowds is None else [truth, crowds]
        masks = np.concatenate([*(part.masks for part in known), everywhere])
        numbers = [*(part.classes for part in known), voids]
        crowd = np.ones(len(masks), dtype=bool)
        crowd[: len(truth.masks)] = truth.difficult & (not self.options.use_difficult)
        areas, boxes = masks.sum(axis=(1, 2)).astype(float), xywh_of_masks(masks).astype(float)
        if isinstance(truth, EvaluationTruth):
            for values, name in ((areas, "areas"), (boxes, "boxes")):
                stated = np.concatenate([getattr(part, name) for part in known])
                np.copyto(values[: len(stated)], stated, where=~np.isnan(stated))
        return self._annotations(
            np.concatenate([np.asarray(n, dtype=np.int64) for n in numbers]),
            masks,
            boxes,
            area=areas,
            iscrowd=crowd,
            ignore=crowd,
        )

    def _predicted_annotations(self, prediction: InstancePrediction) -> list[dict[str, Any]]:
        if self.iou_type == "bbox":
            boxes = xywh_of_prediction(prediction)
            areas, masks = boxes[:, 2] * boxes[:, 3], boxes
        else:
            assert prediction.masks is not None
            masks = boxes = prediction.masks
            areas = masks.sum(axis=(1, 2))
        scores = np.asarray(prediction.scores)
        return self._annotations(prediction.classes, masks, boxes, area=areas, score=scores)

    def _precision(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """COCOeval's precision of one class, (T, 101, areas); -1 where there are no objects.

        ``accumulate`` sees all images as one, whose predictions it ranks as it would anyway.
        """
        parameters = self._parameters()
        number = len(parameters.iouThrs)
        parameters.imgIds, parameters.catIds = [0], [0]
        parameters.maxDets = [max(1, len(found["scores"]))]
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
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by print
            evaluation.accumulate()
        return evaluation.eval["precision"][:, :, 0, :, 0]

    def _by_class(self, table: RecordTable) -> Iterator[dict[str, np.ndarray]]:
        """The rows of each class in turn; images keep their order."""
        classes, of_objects = (
            table.column(name, np.int64) for name in ("classes", "object_classes")
        )
        objects = table.column("objects", np.int64).reshape(-1, _AREAS)
        columns = {
            "scores": table.column("scores", np.float64),
            "true": table.column("true", np.int16).reshape(-1, _AREAS),
            "ignored": table.column("ignored", np.int16).reshape(-1, _AREAS),
        }
        for index in range(len(self.class_names)):
            rows = classes == index
            found = {name: values[rows] for name, values in columns.items()}
            yield found | {"objects": objects[of_objects == index]}

    def summarise(self, records: RecordTable | Sequence[Record]) -> Metrics:
        """COCO's figures and the fixed thresholds, in per cent."""
        number = len(self.class_names)
        thresholds = np.round(self._parameters().iouThrs, 2)
        unknown = 0.0 if self.options.absent_is_zero else np.nan
        shares = np.full((number, len(thresholds), _AREAS), unknown)
        for index, found in enumerate(self._by_class(RecordTable.of(records))):
            precision = self._precision(found)
            for area in range(_AREAS):
                if (precision[..., area] > -1).all():
                    shares[index, :, area] = precision[..., area].mean(axis=1)
        strict = thresholds >= 0.5
        metrics: Metrics = {}
        add_by_class(metrics, "AP", shares[:, strict, 0].mean(axis=1), self.class_names)
        for threshold in (0.25, 0.5, 0.7, 0.75):
            column = int(np.flatnonzero(thresholds == threshold)[0])
            name = f"AP{round(100 * threshold)}"
            add_by_class(metrics, name, shares[:, column, 0], self.class_names)
        for area, size in enumerate("sml", start=1):
            by_size = shares[:, strict, area].mean(axis=1)
            add_by_class(metrics, f"AP{size}", by_size, self.class_names)
        return metrics


def to_coco_results(
    prediction: InstancePrediction, image_id: int | str, *, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One entry per instance: image_id, category_id, bbox (x, y, w, h), score, segmentation (RLE).

    Args:
        prediction: instances of one image.
        image_id: the JSON's image id.
        category_ids: the JSON's category id of each class.
    """
    ids = [int(category_ids[int(number)]) for number in prediction.classes]
    columns = {
        "category_id": ids,
        "bbox": xywh_of_prediction(prediction).tolist(),
        "score": [float(score) for score in prediction.scores],
    }
    if prediction.masks is not None:
        columns["segmentation"] = [encode_mask(mask) for mask in prediction.masks]
    return [{"image_id": image_id, **row} for row in _rows(columns)]


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A table by columns as a dict for each row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class CocoResultWriter:
    """Writes predictions in COCO's result format, ordered by image key.

    Each process appends to a file of its own in the folder, which all processes share; the main
    process joins them.

    Args:
        folder: where ``coco_instances_results.json`` goes; created.
        category_ids: the JSON's category id of each class.
    """

    def __init__(self, folder: str | os.PathLike[str], *, category_ids: Sequence[int]) -> None:
        self.folder = Path(folder)
        self.category_ids = tuple(category_ids)
        self._stream: IO[bytes] | None = None
        self._places = KeyedRecords(1)

    def reset(self) -> None:
        """Forget every image."""
        self._close()
        self._places = KeyedRecords(1)

    def _part(self, rank: int) -> Path:
        return self.folder / f".{FILE_NAME}.{rank}.tmp"

    def add(self, key: str, image_id: int | str, prediction: InstancePrediction) -> None:
        """Append the results of one image."""
        rank = comm.get_rank()
        if self._stream is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stream = open(self._part(rank), "wb")  # noqa: SIM115  (closed by _close)
        entries = to_coco_results(prediction, image_id, category_ids=self.category_ids)
        data = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries).encode()
        place = np.array([[rank, self._stream.tell(), len(data)]])
        self._places.add(key, [{"place": place}])
        self._stream.write(data)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def finish(self, *, distributed: bool = True) -> Path | None:
        """Join all processes' results; the file's path on the main process, None elsewhere.

        Args:
            distributed: False writes those of this process alone.
        """
        self._close()
        tables = self._places.gather(distributed=distributed)
        if tables is None:
            return None
        places = tables[0].column("place", np.int64).reshape(-1, 3)
        path, ranks = self.folder / FILE_NAME, set(places[:, 0].tolist())
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(atomic_write(path))
            parts = {rank: stack.enter_context(open(self._part(rank), "rb")) for rank in ranks}
            separator = b"[\n"
            for rank, offset, length in places[places[:, 2] > 0].tolist():
                parts[rank].seek(offset)
                stream.write(separator + parts[rank].read(length))
                separator = b",\n"
            stream.write(b"\n]\n" if separator == b",\n" else b"[\n]\n")
        for rank in ranks:
            self._part(rank).unlink(missing_ok=True)
        return path
