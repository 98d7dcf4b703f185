"""Confusion matrices and mIoU."""

import math

import numpy as np
import pytest
from wsis.errors import DataError
from wsis.evaluation.semantic import (
    LabelPair,
    SemanticMeasure,
    confusion_matrix,
    iou_of_classes,
    paint_instances,
)

from tests.evaluation.cases import box, prediction

NAMES = ("cat", "dog")
TRUE = np.array([[0, 0, 1], [1, 2, 255]])
FOUND = np.array([[0, 1, 1], [255, 2, 2]])


def test_worked_values():
    matrix = confusion_matrix(TRUE, np.where(FOUND == 255, 0, FOUND), num_labels=3)
    assert matrix.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(iou_of_classes(matrix), [1 / 3, 1 / 3, 1])
    measure = SemanticMeasure(NAMES)
    metrics = measure.summarise([measure.measure(LabelPair("a", FOUND, TRUE))])
    assert metrics["mIoU"] == pytest.approx(100 * (1 / 3 + 1 / 3 + 1) / 3)
    assert metrics["pixel_accuracy"] == pytest.approx(60)
    assert metrics["IoU/background"] == pytest.approx(100 / 3)


def test_labels_that_never_occur_do_not_count():
    measure = SemanticMeasure(NAMES)
    blank = np.zeros((3, 5), dtype=np.uint8)
    metrics = measure.summarise([measure.measure(LabelPair("a", blank, blank))])
    assert metrics["mIoU"] == 100.0
    assert math.isnan(metrics["IoU/dog"])
    assert math.isnan(measure.summarise([])["mIoU"])


def test_records_of_images_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    true = rng.choice([0, 1, 2, 255], size=(6, 9, 7))
    found = rng.choice([0, 1, 2], size=(6, 9, 7))
    measure = SemanticMeasure(NAMES)
    parts = [measure.measure(LabelPair("a", f, t)) for f, t in zip(found, true, strict=True)]
    whole = np.zeros((3, 3), dtype=np.int64)
    for t, f in zip(true.ravel(), found.ravel(), strict=True):
        if t != 255:
            whole[t, f] += 1
    np.testing.assert_array_equal(measure.total(parts), whole)


def test_wrong_labels_and_sizes_are_named():
    measure = SemanticMeasure(NAMES)
    with pytest.raises(DataError, match="image k: expected 0..2 or 255"):
        measure.measure(LabelPair("k", np.full((2, 3), 7), TRUE))
    with pytest.raises(DataError, match=r"image k: expected \(2, 3\)"):
        measure.measure(LabelPair("k", np.zeros((3, 3), int), TRUE))


def test_the_best_instance_lies_on_top():
    low, high = box(0, 0, 6, 8), box(0, 0, 2, 2)
    label = paint_instances(prediction([high, low], [1, 0], [0.9, 0.2]))
    assert label[0, 0] == 2
    assert label[5, 5] == 1
    tied = paint_instances(prediction([low, low], [1, 0], [0.5, 0.5]))
    assert (tied == 2).all()
    assert not paint_instances(prediction([], [], [])).any()
