"""Protocol ``coco``: the matching and the accumulation of pycocotools' `COCOeval`; result files.

Of an image only scores and flags are kept, and at the end precision is taken one class at a time.
The figures are those of COCOeval on files; images are ordered by key, which breaks ties between
scores. Areas and boxes of objects are those that the data set states, as in COCOeval, else those of
the masks. COCOeval itself goes through thresholds, areas, predictions and objects in Python, which
takes several times as long as all that is done here.

n predictions and m objects of one image, T IoU thresholds, A ranges of areas.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.utils import comm
from pycocotools.cocoeval import Params

from wsis.data.files import atomic_write
from wsis.evaluation.predictions import InstancePair, ProtocolOptions, iou_within_classes
from wsis.evaluation.streaming import Measure, Metrics, Record, add_by_class, column
from wsis.evaluation.truth import EvaluationTruth
from wsis.layers.run_lengths import encode_masks, rle_areas, rle_boxes

logger = logging.getLogger(__name__)

_COCO = Params()
_AREAS = np.array(_COCO.areaRng)  # (A, 2): all, small, medium, large
_THRESHOLDS = np.concatenate([[0.25], _COCO.iouThrs])  # one more, and 0.50, 0.55, ..., 0.95
_MOST = _COCO.maxDets[-1]  # predictions of a class in an image
_FLAGS = (2, len(_AREAS))  # bytes of a prediction: a bit for each threshold
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

    def measure(self, pair: InstancePair) -> Record:
        """COCO's matches of one image.

        Returns:
            ``classes`` (n,) ascending, within a class best score first; ``scores`` (n,); ``true``
            and ``ignored`` (n, 2, A), found an object or counts neither way, a bit per threshold
            (`numpy.packbits`); ``object_classes`` (m,) that occur in prediction or truth,
            ascending; ``objects`` (m, A), how many objects of the class count.
        """
        rows = self._ranked(pair)
        predicted, scores = pair.prediction.classes[rows], pair.prediction.scores[rows]
        classes, crowd, areas, iou = self._objects(pair)
        ignore = crowd | _outside(areas)  # (A, m)
        found, ignored = match(iou[rows], ignore, crowd)
        if self.needs_masks:
            sizes = rle_areas(pair.prediction.rles)[rows]
        else:
            sizes = pair.prediction.extents[rows, 2:].prod(axis=1)
        ignored |= ~found & _outside(sizes).T[:, None]
        present = np.union1d(predicted, classes).astype(np.int64)
        return {
            "classes": predicted.astype(np.int64),
            "scores": scores.astype(np.float64),
            "true": np.packbits(found, axis=1),
            "ignored": np.packbits(ignored, axis=1),
            "object_classes": present,
            "objects": (present[:, None] == classes).astype(np.int64) @ ~ignore.T,
        }

    def _ranked(self, pair: InstancePair) -> np.ndarray:
        """Which predictions count, (n,) int64, by class, within a class best score first."""
        classes = pair.prediction.classes
        order = np.lexsort((-pair.prediction.scores, classes))
        first = np.searchsorted(classes[order], classes[order])
        return order[np.arange(len(order)) - first < _MOST]

    def _objects(self, pair: InstancePair) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What COCOeval reads of objects and crowd regions.

        Returns:
            class and whether it is a crowd, (m,) each; area, (m,) float64; IoU of all predictions
            (not ranked) with it, 0 if classes differ, (n, m).
        """
        truth, predicted = pair.truth, pair.prediction.classes
        voids = np.unique(predicted if self.options.ignore_void and truth.void.any() else [])
        crowds = getattr(truth, "crowds", None)
        known = [truth] if crowds is None else [truth, crowds]
        rles = [rle for part in known for rle in part.rles]
        rles += encode_masks(truth.void[None]) * len(voids)
        classes = np.concatenate([*(part.classes for part in known), voids]).astype(np.int64)
        crowd = np.ones(len(rles), dtype=bool)
        crowd[: len(truth.classes)] = truth.difficult & (not self.options.use_difficult)
        areas = rle_areas(rles).astype(np.float64)
        boxes = np.zeros((len(rles), 4)) if self.needs_masks else rle_boxes(rles)
        if isinstance(truth, EvaluationTruth):
            for values, name in ((areas, "areas"), (boxes, "boxes")):
                stated = np.concatenate([getattr(part, name) for part in known])
                np.copyto(values[: len(stated)], stated, where=~np.isnan(stated))
        if not self.needs_masks:
            extents = (pair.prediction.extents, predicted)
            return classes, crowd, areas, iou_within_classes(extents, (boxes, classes), crowd)
        iou = np.zeros((len(predicted), len(rles)))
        iou[:, : len(truth.classes)] = pair.iou
        regions = [rles[place] for place in np.flatnonzero(crowd)], classes[crowd]
        found = (pair.prediction.rles, predicted)
        iou[:, crowd] = iou_within_classes(found, regions, crowd[crowd])
        return classes, crowd, areas, iou

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """COCO's figures and the fixed thresholds, in per cent."""
        classes, of_objects = (column(records, n, np.int64) for n in ("classes", "object_classes"))
        scores, objects = (
            column(records, "scores", np.float64),
            column(records, "objects", np.int64, len(_AREAS)),
        )
        true, ignored = (column(records, n, np.uint8, *_FLAGS) for n in ("true", "ignored"))
        thresholds = np.round(_THRESHOLDS, 2)
        unknown = 0.0 if self.options.absent_is_zero else np.nan
        shares = np.full((len(self.class_names), len(thresholds), len(_AREAS)), unknown)
        for index, area in np.ndindex(len(shares), len(_AREAS)):
            rows, count = classes == index, objects[of_objects == index, area].sum()
            if count:
                flags = [packed[rows, :, area] for packed in (true, ignored)]
                of_class = _precision(scores[rows], flags, count)
                shares[index, :, area] = of_class.mean(axis=1)
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


def _outside(areas: np.ndarray) -> np.ndarray:
    """(A, N) bool: areas (N,) out of the range."""
    return (areas < _AREAS[:, :1]) | (areas > _AREAS[:, 1:])


def match(iou: np.ndarray, ignore: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO's greedy rule.

    Going down from the best score, a prediction takes the free object that it overlaps most (of
    equals the last), if that reaches the threshold. It takes one that is ignored only if no other
    is left. Crowds stay free.

    Args:
        iou: (n, m) float64, predictions of a class best score first, 0 if classes differ.
        ignore: (A, m) bool, objects that do not count.
        crowd: (m,) bool.

    Returns:
        two arrays (n, T, A) bool: the prediction found an object; one that does not count.
    """
    limits = np.minimum(_THRESHOLDS, 1 - 1e-10)
    found = np.zeros((len(iou), len(limits), len(ignore)), dtype=bool)
    ignored, free = found.copy(), np.ones((len(limits), *ignore.shape), dtype=bool)
    ranges = np.arange(len(ignore))
    for row in np.flatnonzero((iou >= limits[0]).any(axis=1)):
        near = np.argsort(iou[row], kind="stable")
        near = near[iou[row, near] >= limits[0]]  # from the worst to the best
        can = free[:, :, near] & (iou[row, near] >= limits[:, None])[:, None]  # (T, A, k)
        worth = np.arange(1, len(near) + 1) + len(near) * ~ignore[:, near]  # (A, k)
        best = near[(can * worth).argmax(axis=2)]  # (T, A)
        found[row] = can.any(axis=2)
        ignored[row] = found[row] & ignore[ranges, best]
        level, area = np.nonzero(found[row])
        taken = best[level, area]
        free[level, area, taken] = crowd[taken]
    return found, ignored


def _precision(scores: np.ndarray, flags: Sequence[np.ndarray], objects: int) -> np.ndarray:
    """COCOeval's precision at 101 levels of recall, (T, 101), of the n predictions of a class.

    The two ``flags``, true and ignored, are (n, 2) uint8 as `CocoMeasure.measure` packs them;
    ``objects`` (at least 1) is how many there are to find.
    """
    order = np.argsort(-scores, kind="stable")
    number = len(_THRESHOLDS)
    true, ignored = (np.unpackbits(f[order], axis=1, count=number).T > 0 for f in flags)
    counts = ~ignored
    hits = np.cumsum(true & counts, axis=1).astype(np.float64)
    misses = np.cumsum(~true & counts, axis=1).astype(np.float64)
    shares = hits / (misses + hits + np.spacing(1))
    shares = np.maximum.accumulate(shares[:, ::-1], axis=1)[:, ::-1]
    shares = np.concatenate([shares, np.zeros((len(shares), 1))], axis=1)  # beyond all recall
    places = [np.searchsorted(recall, _COCO.recThrs) for recall in hits / objects]
    return np.take_along_axis(shares, np.array(places), axis=1)


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

    def gather(self, *, distributed: bool = True) -> list[Record] | None:
        """Where all processes' results are, or (``distributed`` False) those of this one."""
        self._close()
        return super().gather(distributed=distributed)

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
