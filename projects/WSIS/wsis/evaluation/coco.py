"""Protocol ``coco``: pycocotools' own matching and accumulation, image by image; result files.

`pycocotools.cocoeval.COCOeval` matches one image at a time; only its scores and flags are kept, and
its ``accumulate`` runs over them at the end, one class at a time. The figures are those of COCOeval
on files; images are ordered by key, which breaks ties between scores. Areas and boxes of objects
are those that the data set states, as in COCOeval, else those of the masks.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval

from wsis.data.files import atomic_write
from wsis.evaluation.predictions import (
    InstancePair,
    ProtocolOptions,
    rows_of,
    xywh_of_masks,
)
from wsis.evaluation.streaming import Measure, Metrics, Record, add_by_class, column
from wsis.evaluation.truth import EvaluationTruth
from wsis.layers.run_lengths import encode_mask, rle_area

logger = logging.getLogger(__name__)

_AREAS = 4  # COCO's: all, small, medium, large
_EXTRA_THRESHOLD = 0.25  # the others are COCO's 0.50, 0.55, ..., 0.95
_MOST = 100  # predictions of a class in an image
_FLAGS = (2, _AREAS)  # bytes of a prediction: a bit for each threshold
_NOTHING = {
    "classes": np.zeros(0, np.int64),
    "scores": np.zeros(0, np.float64),
    "true": np.zeros((0, *_FLAGS), np.uint8),
    "ignored": np.zeros((0, *_FLAGS), np.uint8),
    "object_classes": np.zeros(0, np.int64),
    "objects": np.zeros((0, _AREAS), np.int64),
}
FILE_NAME = "coco_instances_results.json"  # as Detectron2 calls it


class CocoMeasure(Measure):
    """AP, AP50, AP75, AP by size, and AP25 and AP70 (what CIM reports), means and per class.

    At most the 100 best predictions of a class in an image count, as in COCO. Crowd regions, where
    the ground truth knows their class (`wsis.evaluation.truth.EvaluationTruth`), are ``iscrowd``.
    An ``iou_type`` "bbox" is protocol ``coco_bbox``: predicted boxes against true boxes.
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
        self.iou_type = iou_type
        self.needs_masks = iou_type == "segm"
        self.options = options or ProtocolOptions()
        protocol = self.options.name("coco" if self.needs_masks else "coco_bbox")
        super().__init__(protocol, class_names)

    def _evaluation(self) -> COCOeval:
        evaluation = COCOeval(iouType=self.iou_type)
        thresholds = evaluation.params.iouThrs
        evaluation.params.iouThrs = np.concatenate([[_EXTRA_THRESHOLD], thresholds])
        return evaluation

    def measure(self, pair: InstancePair) -> Record:
        """COCOeval's matches of one image, for T thresholds and A areas.

        Returns:
            ``classes`` (n,) ascending, within a class best score first; ``scores`` (n,); ``true``
            and ``ignored`` (n, 2, A), found an object or counts neither way, a bit per threshold
            (`numpy.packbits`); ``object_classes`` (m,) that occur in prediction or truth,
            ascending; ``objects`` (m, A), how many objects of the class count.
        """
        evaluation = self._evaluation()
        evaluation.params.maxDets = [_MOST]
        # What COCOeval.evaluate would read from two COCO objects.
        for entry in self._true_annotations(pair):
            evaluation._gts[0, entry["category_id"]].append(entry)
        for number, entry in enumerate(pair.prediction.results, start=1):
            _, _, width, height = entry["bbox"]
            area = rle_area(entry["segmentation"]) if self.needs_masks else width * height
            evaluation._dts[0, entry["category_id"]].append(entry | {"id": number, "area": area})
        classes = sorted({number for _, number in [*evaluation._gts, *evaluation._dts]})
        evaluation.ious = {(0, number): evaluation.computeIoU(0, number) for number in classes}
        parts: dict[str, list[Any]] = {name: [nothing] for name, nothing in _NOTHING.items()}
        for number in classes:
            areas = [
                evaluation.evaluateImg(0, number, area, _MOST) for area in evaluation.params.areaRng
            ]
            parts["classes"].append(np.full(len(areas[0]["dtScores"]), number))
            parts["scores"].append(np.asarray(areas[0]["dtScores"], dtype=np.float64))
            for name, key in (("true", "dtMatches"), ("ignored", "dtIgnore")):
                flags = np.array([area[key] for area in areas]) > 0  # (A, T, n)
                parts[name].append(np.packbits(flags, axis=1).T)
            counts = [np.sum(np.asarray(area["gtIgnore"]) == 0) for area in areas]
            parts["object_classes"].append(np.array([number]))
            parts["objects"].append(np.array([counts]))
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _true_annotations(self, pair: InstancePair) -> list[dict[str, Any]]:
        """The annotations that COCOeval reads, one dict for each object."""
        truth, predicted = pair.truth, pair.prediction.classes
        voids = np.unique(predicted if self.options.ignore_void and truth.void.any() else [])
        everywhere = np.broadcast_to(truth.void, (len(voids), *truth.void.shape))
        crowds = getattr(truth, "crowds", None)
        known = [truth] if crowds is None else [truth, crowds]
        masks = np.concatenate([*(part.masks for part in known), everywhere])
        classes = np.concatenate([*(part.classes for part in known), voids]).astype(np.int64)
        crowd = np.ones(len(masks), dtype=bool)
        crowd[: len(truth.masks)] = truth.difficult & (not self.options.use_difficult)
        columns = {"area": masks.sum(axis=(1, 2)).astype(float)}
        if not self.needs_masks:
            columns["bbox"] = xywh_of_masks(masks).astype(float)
        if isinstance(truth, EvaluationTruth):
            for (_, values), name in zip(columns.items(), ("areas", "boxes"), strict=False):
                stated = np.concatenate([getattr(part, name) for part in known])
                np.copyto(values[: len(stated)], stated, where=~np.isnan(stated))
        columns |= {"category_id": classes, "iscrowd": crowd, "ignore": crowd}
        rows = {name: values.tolist() for name, values in columns.items()}
        if self.needs_masks:
            others = [encode_mask(mask) for mask in masks[len(truth.masks) :]]
            rows["segmentation"] = [*pair.true_rles, *others]
        return rows_of({"id": range(1, len(masks) + 1), **rows})

    def _precision(
        self, scores: np.ndarray, true: np.ndarray, ignored: np.ndarray, objects: np.ndarray
    ) -> np.ndarray:
        """COCOeval's precision of one class, (T, 101, areas); -1 where there are no objects.

        ``accumulate`` sees all images as one; this does not change how it ranks the predictions.
        """
        evaluation = self._evaluation()
        parameters = evaluation._paramsEval = evaluation.params
        parameters.imgIds, parameters.catIds = [0], [0]
        parameters.maxDets = [max(1, len(scores))]
        number = len(parameters.iouThrs)
        evaluation.evalImgs = [
            {
                "dtScores": scores,
                "dtMatches": np.unpackbits(true[:, :, area].T, axis=0, count=number),
                "dtIgnore": np.unpackbits(ignored[:, :, area].T, axis=0, count=number),
                "gtIgnore": np.zeros(count, dtype=bool),
            }
            for area, count in enumerate(objects.tolist())
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by print
            evaluation.accumulate()
        return evaluation.eval["precision"][:, :, 0, :, 0]

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """COCO's figures and the fixed thresholds, in per cent."""
        classes, of_objects = (column(records, n, np.int64) for n in ("classes", "object_classes"))
        scores, objects = (
            column(records, "scores", np.float64),
            column(records, "objects", np.int64, _AREAS),
        )
        true, ignored = (column(records, n, np.uint8, *_FLAGS) for n in ("true", "ignored"))
        thresholds = np.round(self._evaluation().params.iouThrs, 2)
        unknown = 0.0 if self.options.absent_is_zero else np.nan
        shares = np.full((len(self.class_names), len(thresholds), _AREAS), unknown)
        for index in range(len(shares)):
            rows, counts = classes == index, objects[of_objects == index].sum(axis=0)
            precision = self._precision(scores[rows], true[rows], ignored[rows], counts)
            for area in range(_AREAS):
                if (precision[..., area] > -1).all():
                    shares[index, :, area] = precision[..., area].mean(axis=1)
        strict = thresholds >= 0.5
        metrics: Metrics = {}
        add_by_class(metrics, "AP", shares[:, strict, 0].mean(axis=1), self.class_names)
        for threshold in (0.25, 0.5, 0.7, 0.75):
            at = int(np.flatnonzero(thresholds == threshold)[0])
            name = f"AP{round(100 * threshold)}"
            add_by_class(metrics, name, shares[:, at, 0], self.class_names)
        for area, size in enumerate("sml", start=1):
            by_size = shares[:, strict, area].mean(axis=1)
            add_by_class(metrics, f"AP{size}", by_size, self.class_names)
        return metrics


class CocoResultWriter(Measure):
    """Writes ``coco_instances_results.json``, ordered by image key, and measures nothing.

    Each process appends to its own file in the shared folder. The main process joins these files at
    the end. A record says where an image's results are.
    """

    def __init__(self, folder: str | os.PathLike[str], *, category_ids: Sequence[int]) -> None:
        self.folder = Path(folder)
        self.category_ids = tuple(category_ids)
        self._stream: IO[bytes] | None = None
        super().__init__(FILE_NAME)

    def reset(self) -> None:
        """Forget every image."""
        self._close()
        super().reset()

    def _part(self, rank: int) -> Path:
        return self.folder / f".{FILE_NAME}.{rank}.tmp"

    def measure(self, pair: tuple[int | str, Sequence[dict[str, Any]]]) -> Record:
        """Append the results of one image: its id, and its `InstancePrediction.results`."""
        (image_id, results), rank = pair, comm.get_rank()
        if self._stream is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stream = open(self._part(rank), "wb")  # noqa: SIM115  (closed by _close)
        lines = [
            {"image_id": image_id, **entry, "category_id": self.category_ids[entry["category_id"]]}
            for entry in results
        ]
        data = ",\n".join(json.dumps(line, allow_nan=False) for line in lines).encode()
        place = np.array([[rank, self._stream.tell(), len(data)]])
        self._stream.write(data)
        return {"place": place}

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def finish(self, *, distributed: bool = True) -> Metrics | None:
        """Join all processes' results, or (``distributed`` False) write those of this one."""
        self._close()
        return super().finish(distributed=distributed)

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """Write the file."""
        places = column(records, "place", np.int64, 3)
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
        logger.info("Predictions in COCO's result format: %s", path)
        return {}
