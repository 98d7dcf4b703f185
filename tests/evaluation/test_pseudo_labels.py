"""Merged and split objects, precision and recall, by class and size."""

import math

import numpy as np
import pytest
from wsis.evaluation.predictions import InstancePair
from wsis.evaluation.pseudo_labels import (
    QualityMeasure,
    merged_objects,
    size_index,
    split_objects,
)

from tests.evaluation.cases import box, prediction, random_pair, truth

LEFT, RIGHT, ALL = box(0, 0, 6, 4), box(0, 4, 6, 8), box(0, 0, 6, 8)


def pair_of(found, classes, scores, objects, object_classes):
    return InstancePair("a", prediction(found, classes, scores), truth(objects, object_classes))


def test_one_prediction_over_two_objects_merges_them():
    pair = pair_of([ALL], [0], [1], [LEFT, RIGHT], [0, 0])
    assert merged_objects(pair).tolist() == [True, True]
    other_class = pair_of([ALL], [0], [1], [LEFT, RIGHT], [0, 1])
    assert not merged_objects(other_class).any()
    apart = pair_of([LEFT, RIGHT], [0, 0], [1, 1], [LEFT, RIGHT], [0, 0])
    assert not merged_objects(apart).any()
    slightly = pair_of([box(0, 0, 6, 5)], [0], [1], [LEFT, RIGHT], [0, 0])
    assert not merged_objects(slightly).any()


def test_fragments_split_an_object_but_duplicates_do_not():
    halves = pair_of([LEFT, RIGHT], [0, 0], [1, 1], [ALL], [0])
    assert split_objects(halves).tolist() == [True]
    twice = pair_of([ALL, ALL, LEFT], [0, 0, 0], [0.1, 0.9, 0.5], [ALL], [0])
    assert split_objects(twice).tolist() == [False]
    other_class = pair_of([LEFT, RIGHT], [0, 1], [1, 1], [ALL], [0])
    assert not split_objects(other_class).any()
    speck = pair_of([LEFT, box(0, 6, 1, 8)], [0, 0], [1, 1], [ALL], [0])  # 2 of 48 pixels
    assert not split_objects(speck).any()


def test_sizes_are_those_of_coco():
    assert size_index(np.array([1, 1023, 1024, 9215, 9216])).tolist() == [0, 0, 1, 1, 2]


def test_worked_quality():
    measure = QualityMeasure(("cat", "dog"))
    pair = pair_of([LEFT, LEFT, RIGHT], [0, 0, 1], [0.9, 0.8, 0.0], [LEFT, RIGHT], [0, 1])
    metrics = measure.summarise([measure.measure(pair)])
    assert metrics["precision50"] == metrics["recall50"] == 50.0  # the dog's score is 0
    assert metrics["precision50/cat"] == 50.0
    assert metrics["recall50/cat"] == 100.0
    assert metrics["recall50/dog"] == metrics["merged"] == metrics["split"] == 0.0
    assert math.isnan(metrics["precision50/dog"])
    assert metrics["recall50/size small"] == 50.0
    assert math.isnan(metrics["recall50/size large"])
    assert (metrics["images"], metrics["objects"], metrics["instances"]) == (1, 2, 2)
    assert metrics["IoU/cat"] == 100.0
    assert metrics["mIoU"] == pytest.approx(100 / 3)
    assert measure.protocol == "quality, score > 0"


def test_nothing_at_all():
    measure = QualityMeasure(("cat", "dog"))
    nothing = InstancePair("a", prediction([], [], []), truth([], []))
    metrics = measure.summarise([measure.measure(nothing)])
    assert math.isnan(metrics["precision50"])
    assert metrics["mIoU"] == 100.0
    assert math.isnan(measure.summarise([])["recall50"])


@pytest.mark.parametrize("seed", range(6))
def test_perfect_pseudo_labels_are_perfect(seed):
    pair = random_pair(seed)
    objects = pair.truth
    perfect = InstancePair(
        "a",
        prediction(objects.masks, objects.classes, np.ones(len(objects.classes)), size=(40, 48)),
        objects,
    )
    measure = QualityMeasure(("a", "b", "c", "d"))
    metrics = measure.summarise([measure.measure(perfect)])
    if len(np.unique(objects.masks, axis=0)) == len(objects.masks) > 0:
        assert metrics["precision50"] == metrics["recall50"] == 100.0
