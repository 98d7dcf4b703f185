"""The samples of joint training, one per box and one per salient image, and their order.

Nw box samples come first, then Nf salient images (spec 3.1, 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.annotations import boxed_annotations, given_boxes
from wsis.data.records import compact
from wsis.data.salient import SALIENT_KEY, without_salient
from wsis.data.supervision import restrict_supervision
from wsis.errors import UsageError
from wsis.layers.masks import box_iou

Record = dict[str, Any]


def overlapping(boxes: np.ndarray, *, threshold: float = 0.5) -> np.ndarray:
    """(K,) bool: boxes (K, 4) that overlap another one by an IoU above ``threshold`` (spec 3.5)."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return (box_iou(boxes, boxes).fill_diagonal_(0.0) > threshold).any(dim=1).numpy()


@dataclass(frozen=True)
class CombinedOrder:
    """Order of an epoch that keeps a share of box samples in every batch (spec 3.5).

    An epoch has every salient image once, and box samples in proportion. If there are too few box
    samples they come again in a new order.

    There are Nw = ``num_boxes`` box samples and Nf = ``num_salient`` salient images, at least 1 of
    each. ``batch`` counts the samples of all processes, ``share`` of them, above 0 and below 1, are
    box samples. Each epoch leaves out each of the ``dropped`` box samples with
    ``drop_probability``. ``whole_batches`` leaves out a last, partial batch.
    """

    num_boxes: int
    num_salient: int
    batch: int
    share: float
    dropped: tuple[int, ...] = ()
    drop_probability: float = 0.75
    whole_batches: bool = True

    def __len__(self) -> int:
        total = math.ceil(round(self.num_salient / (1 - self.share), 6))
        return max(total - total % self.batch, self.batch) if self.whole_batches else total

    def epoch(self, generator: np.random.Generator) -> np.ndarray:
        """Indices of one epoch, drawn by ``generator``: (len,) int64.

        Every whole batch has max(int(batch * share), 1) box samples.
        """
        per_batch = max(int(self.batch * self.share), 1)
        kept = self._kept(generator)
        salient = generator.permutation(self.num_salient) + self.num_boxes
        boxes = generator.permutation(kept)
        parts, taken_boxes, taken_salient = [], 0, 0
        missing = len(self)
        while missing > 0:
            full = salient[taken_salient : taken_salient + self.batch - per_batch]
            taken_salient += len(full)
            wanted = self.batch - len(full)
            while taken_boxes + wanted > len(boxes):
                boxes = np.concatenate([boxes, generator.permutation(kept)])
            batch = np.concatenate([boxes[taken_boxes : taken_boxes + wanted], full])
            taken_boxes += wanted
            parts.append(generator.permutation(batch)[:missing])
            missing -= len(parts[-1])
        return np.concatenate(parts).astype(np.int64)

    def _kept(self, generator: np.random.Generator) -> np.ndarray:
        kept = np.ones(self.num_boxes, dtype=bool)
        doubtful = np.unique(np.asarray(self.dropped, dtype=np.int64))
        kept[doubtful] = generator.random(len(doubtful)) > self.drop_probability
        return np.flatnonzero(kept if kept.any() else np.ones_like(kept))


class JointSamples(Sequence[Record]):
    """The box samples and then the salient images of dataset dicts, each a dataset dict.

    They are made when they are read: as dicts, COCO's 860,000 would take gigabytes. A box sample is
    its image's dict with one annotation, without any mask.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = compact(records).unmasked
        is_salient = np.array([SALIENT_KEY in record for record in self.records.heads], dtype=bool)
        counts = np.where(is_salient, 0, self.records.objects("bbox"))
        before = np.repeat(np.cumsum(counts) - counts, counts)
        images = np.repeat(np.arange(len(counts)), counts)
        self.boxes = np.stack([images, np.arange(len(images)) - before], axis=1)
        self.salient = np.flatnonzero(is_salient)

    def __len__(self) -> int:
        return len(self.boxes) + len(self.salient)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index >= len(self.boxes):
            return self.records[self.salient[index - len(self.boxes)]]
        number, position = self.boxes[index]
        record = self.records[number]
        one = record | {"annotations": [boxed_annotations(record)[position]]}
        return restrict_supervision(one, "box")

    def overlapping(self, threshold: float) -> tuple[int, ...]:
        """Indices of box samples whose whole-pixel box overlaps another one of their image."""
        found = [
            overlapping(given_boxes(record), threshold=threshold)
            for record in self.records
            if SALIENT_KEY not in record
        ]
        return tuple(np.flatnonzero(np.concatenate(found)).tolist()) if found else ()


def joint_samples(
    records: Sequence[Record], cfg: CfgNode
) -> tuple[JointSamples, CombinedOrder | None]:
    """Samples of joint training, and their order; None for a plain shuffle.

    ``records`` are dataset dicts of images with boxes and of salient images. The order follows from
    ``MODEL.BOXCASEG.SAMPLER`` and ``SOLVER.IMS_PER_BATCH``.

    Raises:
        UsageError: no box or no salient image.
    """
    samples, keys = JointSamples(records), cfg.MODEL.BOXCASEG.SAMPLER
    if not len(samples.boxes):
        raise UsageError(
            f"no box to train on in {', '.join(cfg.DATASETS.TRAIN)}; the segmenter wants boxes"
        )
    if not len(samples.salient):
        raise UsageError(
            f"no salient image to train on in {', '.join(cfg.DATASETS.TRAIN)}, and masks are "
            f"learnt from nothing else; {without_salient('photos/salient')}"
        )
    if keys.BOX_SHARE <= 0:
        return samples, None
    if keys.BOX_SHARE >= 1:
        raise UsageError(
            f"MODEL.BOXCASEG.SAMPLER.BOX_SHARE {keys.BOX_SHARE} is not below 1; 0 shuffles all "
            "samples"
        )
    if cfg.SOLVER.IMS_PER_BATCH < 2:
        raise UsageError(
            "SOLVER.IMS_PER_BATCH 1 leaves no place for salient images beside boxes; use 2 or "
            "more, or MODEL.BOXCASEG.SAMPLER.BOX_SHARE 0, which shuffles all samples"
        )
    dropped = samples.overlapping(keys.OVERLAP) if keys.DROP_PROBABILITY > 0 else ()
    counts = len(samples.boxes), len(samples.salient), cfg.SOLVER.IMS_PER_BATCH
    return samples, CombinedOrder(*counts, keys.BOX_SHARE, dropped, keys.DROP_PROBABILITY)
