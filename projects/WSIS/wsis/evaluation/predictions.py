"""Predicted instances beside the true ones, and the options of the protocols that compare them.

K true objects, n predictions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances

from wsis.data.ground_truth import GroundTruth
from wsis.errors import DataError
from wsis.layers.run_lengths import (
    RLE,
    common_pixels,
    decode_rle,
    decode_rles,
    encode_masks,
    rle_areas,
    rle_boxes,
    rle_iou,
    shared_pixels,
)

SIZES = ("small", "medium", "large")
_SIZE_LIMITS = (32**2, 96**2)  # COCO's, in pixels


@dataclass(frozen=True)
class InstancePrediction:
    """Instances of one image, in any order: the form in which they are measured and drawn."""

    classes: np.ndarray  # (n,) int64, 0..C-1
    scores: np.ndarray  # (n,) float, finite
    masks: np.ndarray | None  # (n, H, W) bool; None where only boxes were predicted, or not decoded
    xywh: np.ndarray | None = None  # (n, 4) float64 boxes in pixels; None for those of the masks
    ignore: np.ndarray | None = None  # (H, W) bool, pixels that train nothing, where known
    encoded: Sequence[RLE] | None = None  # the masks as run lengths, where they came so

    @classmethod
    def of(cls, found: Any, size: tuple[int, int]) -> InstancePrediction:
        """What was found in an image of ``size`` (H, W), in the form in which it comes.

        A network's output has ``instances``, the product of that name has arrays; None is nothing.
        """
        if isinstance(found, cls):
            return found
        if found is None:
            masks = np.zeros((0, *size), dtype=bool)
            return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), masks)
        if "instances" in found:
            return cls.of_instances(found["instances"])
        return cls.of_artifact(found)

    @classmethod
    def of_instances(cls, instances: Instances) -> InstancePrediction:
        """Detectron2's output for one image, with ``pred_masks`` (n, H, W) or ``pred_boxes``."""
        instances = instances.to("cpu")
        masks = boxes = None
        if instances.has("pred_masks"):
            masks = np.asarray(instances.pred_masks).astype(bool, copy=False)
        if instances.has("pred_boxes"):
            # They are XYXY_ABS with continuous coordinates, so the width is x1 - x0.
            boxes = instances.pred_boxes.tensor.numpy().astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
        return cls(instances.pred_classes.numpy(), instances.scores.numpy(), masks, boxes)

    @classmethod
    def of_artifact(cls, arrays: Mapping[str, np.ndarray]) -> InstancePrediction:
        """Product ``instances`` of one image."""
        ignore = np.asarray(arrays["ignore"].any(axis=0)) if "ignore" in arrays else None
        return cls(arrays["classes"], arrays["scores"], arrays["masks"], ignore=ignore)

    @classmethod
    def of_annotations(cls, annotations: Sequence[Mapping[str, Any]]) -> InstancePrediction:
        """Of `wsis.data.label_files`, masks not decoded; a missing score counts as 1."""
        classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
        scores = np.array([a.get("score", 1.0) for a in annotations], dtype=np.float64)
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
        rles = [a["segmentation"] for a in annotations if "segmentation" in a]
        ignored = [decode_rle(a["ignore_mask"]) for a in annotations if "ignore_mask" in a]
        ignore = np.any(ignored, axis=0) if ignored else None
        encoded = rles if len(rles) == len(annotations) else None
        return cls(classes, scores, None, boxes, ignore, encoded)

    @property
    def has_masks(self) -> bool:
        """Whether masks were predicted, decoded or not; true where nothing was predicted."""
        return self.masks is not None or self.encoded is not None

    def decoded(self, size: tuple[int, int]) -> InstancePrediction:
        """The same with masks as arrays, of an image of ``size`` (H, W), if there are any.

        Raises:
            ValueError: they take too much memory.
        """
        if self.masks is not None or self.encoded is None:
            return self
        return replace(self, masks=decode_rles(self.encoded, size))

    def check(self, key: str, *, size: tuple[int, int], num_classes: int) -> None:
        """Raise `DataError` unless the fields fit each other and the image."""
        count = len(self.classes)
        expected = {
            "scores": (self.scores, (count,)),
            "masks": (self.masks, (count, *size)),
            "boxes": (self.xywh, (count, 4)),
        }
        for name, (value, shape) in expected.items():
            if value is not None and value.shape != shape:
                raise DataError(
                    f"predictions for image {key}: expected {name} of shape {shape}, got "
                    f"{value.shape}; make them again at the size of the ground truth"
                )
        if not np.isfinite(self.scores).all():
            raise DataError(f"predictions for image {key}: a score is not finite; train again")
        if count and not 0 <= int(self.classes.min()) <= int(self.classes.max()) < num_classes:
            raise DataError(
                f"predictions for image {key}: expected classes 0..{num_classes - 1}, got "
                f"{sorted(set(self.classes.tolist()))}; check MODEL.*.NUM_CLASSES"
            )

    def take(self, chosen: np.ndarray) -> InstancePrediction:
        """Some of them: indices, in the order wanted, or (n,) bool."""
        rows = {name: getattr(self, name) for name in ("classes", "scores", "masks", "xywh")}
        kept: dict[str, Any] = {k: None if v is None else v[chosen] for k, v in rows.items()}
        if self.encoded is not None:
            places = np.arange(len(self.encoded))[chosen].tolist()
            kept["encoded"] = [self.encoded[place] for place in places]
        return replace(self, **kept)

    @property
    def boxes(self) -> np.ndarray | None:
        """(n, 4) float64 XYXY in pixels, where boxes were predicted."""
        if self.xywh is None:
            return None
        return np.concatenate([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]], axis=1)

    @cached_property
    def rles(self) -> Sequence[RLE]:
        """The masks as run lengths, if there are any; encoded once."""
        if self.encoded is not None or self.masks is None:
            return self.encoded or []
        return encode_masks(self.masks)

    @cached_property
    def extents(self) -> np.ndarray:
        """(n, 4) float64 x, y, width, height: the predicted boxes, else those of the masks."""
        return rle_boxes(self.rles) if self.xywh is None else self.xywh

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Each instance in COCO's result format, but with a class id and without an image.

        The ``bbox`` is that of the mask where there is no other; ``segmentation`` is an RLE.
        """
        columns = {"category_id": self.classes.tolist(), "bbox": [], "score": self.scores.tolist()}
        if self.has_masks:
            columns["segmentation"] = list(self.rles)
        whole = self.xywh is None  # pixels
        columns["bbox"] = (self.extents.astype(np.int64) if whole else self.extents).tolist()
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def ranked(self) -> InstancePrediction:
        """The same, best score first; equal scores keep their order."""
        return self.take(rank_by_score(self.scores))


@dataclass(frozen=True)
class InstancePair:
    """Predicted and true instances of one image, with what several measures compute from them.

    Its key names the image in messages.
    """

    key: str
    prediction: InstancePrediction
    truth: GroundTruth

    @cached_property
    def same_class(self) -> np.ndarray:
        """(n, K) bool: prediction and object are of one class."""
        return self.prediction.classes[:, None] == self.truth.classes[None, :]

    @cached_property
    def shared(self) -> np.ndarray:
        """(n, K) float64: pixels common to prediction and object; 0 if classes differ."""
        return shared_pixels(self.iou, self.areas[0][:, None], self.areas[1][None, :])

    @cached_property
    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) and (K,) int64: pixels of each prediction and of each object."""
        return rle_areas(self.prediction.rles), rle_areas(self.truth.rles)

    @cached_property
    def iou(self) -> np.ndarray:
        """(n, K) float64 mask IoU; 0 for two empty masks and if classes differ."""
        return iou_within_classes(
            (self.prediction.rles, self.prediction.classes), (self.truth.rles, self.truth.classes)
        )

    def without_void(self) -> InstancePair:
        """The same image with void cut out of every prediction; those left empty are dropped."""
        found, (outside,) = self.prediction, encode_masks(~self.truth.void[None])
        inside = [common_pixels(rle, outside) for rle in found.rles]
        keep = (rle_areas(inside) > 0) | (self.areas[0] == 0)
        return replace(self, prediction=replace(found, masks=None, encoded=inside).take(keep))


# Of one image: run lengths, or boxes as x, y, width, height; and their classes.
Shapes = tuple[Sequence[Any] | np.ndarray, np.ndarray]


def iou_within_classes(
    found: Shapes, objects: Shapes, crowd: np.ndarray | None = None
) -> np.ndarray:
    """(n, K) float64 IoU of shapes with their classes (n,) and (K,); 0 if classes differ.

    Of a crowd, ``crowd`` (K,) bool, it is the share of the prediction that lies in it.
    """
    (shapes, classes), (others, other_classes) = found, objects
    crowd = np.zeros(len(others), dtype=bool) if crowd is None else crowd
    iou = np.zeros((len(shapes), len(others)))
    for number in np.intersect1d(classes, other_classes):
        rows = np.flatnonzero(classes == number).tolist()
        columns = np.flatnonzero(other_classes == number).tolist()
        a, b = [shapes[row] for row in rows], [others[column] for column in columns]
        iou[np.ix_(rows, columns)] = rle_iou(a, b, crowd[columns])
    return iou


def rank_by_score(scores: np.ndarray) -> np.ndarray:
    """Indices of (n,) scores from highest to lowest; equal scores keep their order."""
    return np.argsort(-np.asarray(scores), kind="stable")


def size_index(areas: np.ndarray) -> np.ndarray:
    """Index into `SIZES` of areas in pixels: below 32 x 32, below 96 x 96, and from there on."""
    return np.digitize(areas, _SIZE_LIMITS)


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """Departures from a protocol; each changes its printed name."""

    # VOC 2007's 11-point AP (``voc`` only)
    eleven_point: bool = False
    # Difficult objects count like others; else ``voc`` neither asks for them nor punishes finding
    # them, and ``coco`` treats them as crowds.
    use_difficult: bool = True
    # Void pixels are cut out of the predictions, and those with nothing left dropped (``voc``), or
    # they are a crowd of every class (``coco``).
    ignore_void: bool = False
    # A class without any object has AP 0, as in CIM, and is not left out (``coco`` only).
    absent_is_zero: bool = False

    @classmethod
    def of(cls, cfg: CfgNode) -> ProtocolOptions:
        """The options in ``WSIS.EVALUATION`` of a config."""
        keys = cfg.WSIS.EVALUATION
        return cls(**{field.name: keys[field.name.upper()] for field in fields(cls)})

    def name(self, protocol: str) -> str:
        """``protocol`` with the departures that apply to it, ``"voc, 11-point"``."""
        departures = {
            "11-point": self.eleven_point and protocol == "voc",
            "without difficult": not self.use_difficult,
            "void ignored": self.ignore_void,
            "absent classes 0": self.absent_is_zero and protocol.startswith("coco"),
        }
        return ", ".join([protocol, *(name for name, applies in departures.items() if applies)])
