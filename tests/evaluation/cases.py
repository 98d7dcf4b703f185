"""Ground truths and predictions for the evaluation tests."""

from dataclasses import dataclass

import numpy as np
from wsis.evaluation.predictions import InstancePair, InstancePrediction


@dataclass(frozen=True)
class SimpleTruth:
    """A ground truth without a file behind it."""

    masks: np.ndarray
    classes: np.ndarray
    void: np.ndarray
    difficult: np.ndarray

    def semantic(self, num_classes):
        label = np.where(self.void, 255, 0)
        for mask, number in zip(self.masks, self.classes, strict=True):
            label[mask] = number + 1
        return label


def truth(masks, classes, *, void=None, difficult=None, size=(6, 8)):
    masks = np.asarray(masks, dtype=bool).reshape(-1, *size)
    return SimpleTruth(
        masks=masks,
        classes=np.asarray(classes, dtype=np.int64),
        void=np.zeros(size, dtype=bool) if void is None else void,
        difficult=np.zeros(len(masks), bool) if difficult is None else np.array(difficult, bool),
    )


def prediction(masks, classes, scores, *, size=(6, 8)):
    return InstancePrediction(
        classes=np.asarray(classes, dtype=np.int64),
        scores=np.asarray(scores, dtype=np.float32),
        masks=np.asarray(masks, dtype=bool).reshape(-1, *size),
    )


def box(y0, x0, y1, x1, size=(6, 8)):
    """A mask filled from (y0, x0) to (y1, x1), exclusive."""
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def random_box(rng, size):
    y0, x0 = rng.integers(0, size[0] - 1), rng.integers(0, size[1] - 1)
    y1, x1 = rng.integers(y0 + 1, size[0] + 1), rng.integers(x0 + 1, size[1] + 1)
    return box(y0, x0, y1, x1, size)


def random_pair(seed, *, size=(40, 48), num_classes=4, key=None, distinct=False, void=False):
    """Objects and noisy copies of them, some of a wrong class, some missing, some invented."""
    rng = np.random.default_rng(seed)
    objects = int(rng.integers(0, 5))
    masks = [random_box(rng, size) for _ in range(objects)]
    classes = rng.integers(0, num_classes, objects)
    found, labels = [], []
    for mask, number in zip(masks, classes, strict=True):
        for _ in range(int(rng.integers(0, 3))):
            found.append(mask ^ (random_box(rng, size) & (rng.random(size) < 0.4)))
            labels.append(number if rng.random() < 0.8 else rng.integers(0, num_classes))
    for _ in range(int(rng.integers(0, 3))):
        found.append(random_box(rng, size))
        labels.append(rng.integers(0, num_classes))
    scores = rng.random(len(found)) if distinct else rng.integers(0, 5, len(found)) / 4
    unknown = np.zeros(size, dtype=bool)
    if void:
        unknown = random_box(rng, size) & ~np.any([np.zeros(size, bool), *masks], axis=0)
    return InstancePair(
        key or f"{seed:06d}",
        prediction(found, labels, scores, size=size),
        truth(masks, classes, size=size, void=unknown, difficult=rng.random(objects) < 0.3),
    )
