"""Predicted instances beside the true ones, and the options of the protocols that compare them.

K true objects, n predictions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from wsis.data.ground_truth import GroundTruth
from wsis.errors import DataError
from wsis.layers.masks import iou_of_areas, mask_boxes, mask_intersection
from wsis.layers.run_lengths import decode_rles, encode_mask

SIZES = ("small", "medium", "large")
_SIZE_LIMITS = (32**2, 96**2)  # COCO's, in pixels


@dataclass(frozen=True)
class InstancePrediction:
    """Instances of one image, in any order: the form in which they are measured and drawn."""

    classes: np.ndarray  # (n,) int64, 0..C-1
    scores: np.ndarray  # (n,) float, finite
    masks: np.ndarray | None  # (n, H, W) bool; None where only boxes were predicted
    boxes: np.ndarray | None = None  # (n, 4) float XYXY in pixels; None for those of the masks
    ignore: np.ndarray | None = None  # (H, W) bool, pixels that train nothing, where known

    @classmethod
    def of_instances(cls, instances: Instances) -> InstancePrediction:
        """Detectron2's output for one image, with ``pred_masks`` (n, H, W) or ``pred_boxes``."""
        instances = instances.to("cpu")
        masks = boxes = None
        if instances.has("pred_masks"):
            masks = np.asarray(instances.pred_masks).astype(bool, copy=False)
        if instances.has("pred_boxes"):
            boxes = instances.pred_boxes.tensor.numpy()
        return cls(instances.pred_classes.numpy(), instances.scores.numpy(), masks, boxes)

    @classmethod
    def of_artifact(cls, arrays: Mapping[str, np.ndarray]) -> InstancePrediction:
        """Product ``instances`` of one image."""
        ignore = np.asarray(arrays["ignore"].any(axis=0)) if "ignore" in arrays else None
        return cls(arrays["classes"], arrays["scores"], arrays["masks"], ignore=ignore)

    @classmethod
    def of_annotations(
        cls, annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]
    ) -> InstancePrediction:
        """Instances of an image of ``size`` (H, W) with RLE masks; a missing score counts as 1."""
        masks = decode_rles([a["segmentation"] for a in annotations], size)
        ignored = decode_rles([a["ignore_mask"] for a in annotations if "ignore_mask" in a], size)
        classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
        scores = np.array([a.get("score", 1.0) for a in annotations], dtype=np.float64)
        return cls(classes, scores, masks, ignore=np.asarray(ignored.any(axis=0)))

    @classmethod
    def nothing(cls, size: tuple[int, int]) -> InstancePrediction:
        """No instances on an image of ``size`` (H, W)."""
        masks = np.zeros((0, *size), dtype=bool)
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), masks)

    def check(self, key: str, *, size: tuple[int, int], num_classes: int) -> None:
        """Raise `DataError` unless the fields fit each other and the image."""
        count = len(self.classes)
        expected = {"scores": (count,), "masks": (count, *size), "boxes": (count, 4)}
        for name, shape in expected.items():
            value = getattr(self, name)
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
        rows = {name: getattr(self, name) for name in ("classes", "scores", "masks", "boxes")}
        kept: dict[str, Any] = {k: None if v is None else v[chosen] for k, v in rows.items()}
        return replace(self, **kept)

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Each instance in COCO's result format, but with a class id and without an image.

        The ``bbox`` is that of the mask where there is no other; ``segmentation`` is an RLE.
        """
        columns = {"category_id": self.classes.tolist(), "bbox": [], "score": self.scores.tolist()}
        if self.masks is not None:
            columns["bbox"] = xywh_of_masks(self.masks).tolist()
            columns["segmentation"] = [encode_mask(mask) for mask in self.masks]
        if self.boxes is not None:
            # They are XYXY_ABS with continuous coordinates, so the width is x1 - x0.
            columns["bbox"] = xywh(self.boxes.astype(np.float64)).tolist()
        return rows_of(columns)

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
    def shared(self) -> np.ndarray:
        """(n, K) float64: pixels common to prediction and object."""
        assert self.prediction.masks is not None
        return mask_intersection(self.prediction.masks, self.truth.masks)

    @cached_property
    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) and (K,) int64: pixels of each prediction and of each object."""
        assert self.prediction.masks is not None
        return self.prediction.masks.sum(axis=(1, 2)), self.truth.masks.sum(axis=(1, 2))

    @cached_property
    def iou(self) -> np.ndarray:
        """(n, K) float64 mask IoU; 0 for two empty masks."""
        return iou_of_areas(self.shared, self.areas[0][:, None], self.areas[1][None, :])

    def without_void(self) -> InstancePair:
        """The same image with void cut out of every prediction; those left empty are dropped."""
        assert self.prediction.masks is not None
        inside = self.prediction.masks & ~self.truth.void
        keep = inside.any(axis=(1, 2)) | ~self.prediction.masks.any(axis=(1, 2))
        return replace(self, prediction=replace(self.prediction, masks=inside).take(keep))


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A table by columns as a dict for each row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def xywh(boxes: np.ndarray) -> np.ndarray:
    """XYXY boxes (N, 4) as x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xywh_of_masks(masks: np.ndarray) -> np.ndarray:
    """Tightest boxes (N, 4) of masks (N, H, W): x, y, width, height in pixels, int64."""
    return xywh(mask_boxes(torch.from_numpy(np.ascontiguousarray(masks))).numpy())


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
