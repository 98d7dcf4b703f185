"""Protocol voc: hand-worked images, and a slow loop written from the rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.evaluation.predictions import InstancePair, ProtocolOptions
from wsis.evaluation.voc import VocMeasure, average_precision, match_instances

from tests.evaluation.cases import box, prediction, random_pair, truth

NAMES = ("cat", "dog", "bird", "cow")


def slow_ap(scores, true, positives, eleven_point):
    """By definition: best precision at any recall of at least r, integrated over r."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    points, hits = [], 0
    for rank, index in enumerate(order, start=1):
        hits += bool(true[index])
        points.append((hits / positives, hits / rank))

    def best(level):
        return max((p for r, p in points if r >= level), default=0.0)

    if eleven_point:
        return sum(best(level) for level in np.arange(0.0, 1.1, 0.1)) / 11
    return sum(best(k / positives) for k in range(1, positives + 1)) / positives


def test_worked_average_precision():
    scores, true = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    # precision 1, 1/2, 2/3 at recall 1/4, 1/4, 1/2
    assert average_precision(scores, true, positives=4) == pytest.approx(1 / 4 + 2 / 3 / 4)
    expected = (3 * 1 + 3 * 2 / 3) / 11  # recall 0, 0.1, 0.2; then 0.3, 0.4, 0.5
    actual = average_precision(scores, true, positives=4, eleven_point=True)
    assert actual == pytest.approx(expected)


def test_nothing_there_and_nothing_found():
    empty, none = np.zeros(0), np.zeros(0, dtype=bool)
    assert average_precision(empty, none, positives=3) == 0.0
    assert average_precision(empty, none, positives=3, eleven_point=True) == 0.0
    assert math.isnan(average_precision(empty, none, positives=0))
    assert math.isnan(average_precision(np.ones(1), np.zeros(1, bool), positives=0))


def test_ignored_predictions_count_neither_way():
    scores, true = np.array([0.9, 0.8]), np.array([False, True])
    ignored = np.array([True, False])
    assert average_precision(scores, true, positives=1, ignored=ignored) == 1.0
    assert average_precision(scores, true, positives=1) == 0.5


def test_ties_keep_their_order():
    tied = np.ones(40)
    true = np.arange(40) == 0
    assert average_precision(tied, true, positives=1) == 1.0
    assert average_precision(tied, true[::-1], positives=1) == pytest.approx(1 / 40)


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=30),
    missed=st.integers(0, 5),
    eleven_point=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_average_precision_agrees_with_its_definition(rows, missed, eleven_point):
    scores = np.array([row[0] for row in rows], dtype=np.float32)
    true = np.array([row[1] for row in rows], dtype=bool)
    positives = int(true.sum()) + missed
    actual = average_precision(scores, true, positives=positives, eleven_point=eleven_point)
    if positives:
        assert actual == pytest.approx(slow_ap(scores, true, positives, eleven_point), abs=1e-12)
        assert 0 <= actual <= 1 + 1e-12
    else:
        assert math.isnan(actual)


def test_area_of_a_perfect_curve_is_one():
    scores, true = np.arange(5), np.ones(5, dtype=bool)
    for eleven_point in (False, True):
        found = average_precision(scores, true, positives=5, eleven_point=eleven_point)
        assert found == pytest.approx(1)


def summarise(pairs, **options):
    measure = VocMeasure(NAMES, options=ProtocolOptions(**options))
    return measure.summarise([measure.measure(pair) for pair in pairs])


def slow_voc(pairs, number, threshold):
    """Predictions of one class, image by image, with plain loops."""
    rows, positives = [], 0
    for pair in pairs:
        objects = [
            m for m, c in zip(pair.truth.masks, pair.truth.classes, strict=True) if c == number
        ]
        positives += len(objects)
        found = [
            (score, mask)
            for score, mask, c in zip(
                pair.prediction.scores, pair.prediction.masks, pair.prediction.classes, strict=True
            )
            if c == number
        ]
        taken = set()
        for score, mask in sorted(found, key=lambda item: -item[0]):
            best, best_iou = None, -1.0
            for index, other in enumerate(objects):
                union = (mask | other).sum()
                iou = (mask & other).sum() / union if union else 0.0
                if iou > best_iou:
                    best, best_iou = index, iou
            rows.append((score, best_iou >= threshold and best not in taken))
            if best_iou >= threshold:
                taken.add(best)
    if not positives:
        return math.nan
    return slow_ap([r[0] for r in rows], [r[1] for r in rows], positives, False)


@pytest.mark.parametrize("start", [0, 100, 200])
def test_agrees_with_plain_loops(start):
    pairs = [random_pair(start + i) for i in range(12)]
    metrics = summarise(pairs)
    for threshold, name in ((0.25, "AP25"), (0.5, "AP50"), (0.7, "AP70"), (0.75, "AP75")):
        expected = [100 * slow_voc(pairs, number, threshold) for number in range(len(NAMES))]
        for number, class_name in enumerate(NAMES):
            assert metrics[f"{name}/{class_name}"] == pytest.approx(
                expected[number], abs=1e-9, nan_ok=True
            )
        assert metrics[name] == pytest.approx(np.nanmean(expected), abs=1e-9)


def test_duplicates_are_false_and_the_better_score_wins():
    mask = box(0, 0, 4, 4)
    pair = InstancePair("a", prediction([mask, mask], [0, 0], [0.3, 0.9]), truth([mask], [0]))
    matches = match_instances(pair)
    assert matches.scores.tolist() == pytest.approx([0.9, 0.3])
    assert matches.true_at(0.5)[0].tolist() == [True, False]
    assert summarise([pair])["AP50/cat"] == 100.0


def test_equal_scores_keep_the_order_of_the_predictions():
    good, bad = box(0, 0, 4, 4), box(4, 4, 6, 8)
    objects = truth([good], [0])
    first = InstancePair("a", prediction([good, bad], [0, 0], [0.5, 0.5]), objects)
    last = InstancePair("a", prediction([bad, good], [0, 0], [0.5, 0.5]), objects)
    assert summarise([first])["AP50"] == 100.0
    assert summarise([last])["AP50"] == 50.0


def test_a_taken_object_is_not_exchanged_for_the_second_best():
    left, right = box(0, 0, 6, 4), box(0, 2, 6, 6)
    wide = box(0, 0, 6, 5)  # 0.8 with left, 0.5 with right
    pair = InstancePair(
        "a", prediction([left, wide], [0, 0], [0.9, 0.8]), truth([left, right], [0, 0])
    )
    assert match_instances(pair).true_at(0.5)[0].tolist() == [True, False]


def test_reaching_the_threshold_exactly_counts():
    half = InstancePair("a", prediction([box(0, 0, 2, 4)], [0], [1]), truth([box(0, 0, 4, 4)], [0]))
    assert summarise([half])["AP50"] == 100.0
    assert summarise([half])["AP70"] == 0.0


def test_classes_without_objects_are_undefined_and_do_not_count():
    mask = box(0, 0, 2, 2)
    pair = InstancePair("a", prediction([mask, mask], [0, 1], [0.9, 0.9]), truth([mask], [0]))
    metrics = summarise([pair])
    assert metrics["AP50"] == 100.0
    assert math.isnan(metrics["AP50/dog"])
    assert math.isnan(metrics["ABO/dog"])


def test_no_objects_no_predictions_no_images():
    nothing = InstancePair("a", prediction([], [], []), truth([], []))
    assert math.isnan(summarise([nothing])["AP50"])
    assert math.isnan(summarise([])["AP50"])
    missed = InstancePair("b", prediction([], [], []), truth([box(0, 0, 2, 2)], [2]))
    metrics = summarise([nothing, missed])
    assert metrics["AP50/bird"] == metrics["AP50"] == metrics["ABO"] == 0.0
    invented = InstancePair("c", prediction([box(0, 0, 2, 2)], [1], [0.5]), truth([], []))
    assert math.isnan(summarise([invented])["AP50"])


def test_void_stays_in_the_union_unless_it_is_ignored():
    objects = truth([box(0, 0, 6, 4)], [0], void=box(0, 4, 6, 8))
    everything = InstancePair("a", prediction([box(0, 0, 6, 8)], [0], [1]), objects)
    assert summarise([everything])["AP50"] == 100.0  # IoU exactly one half
    assert summarise([everything])["AP70"] == 0.0
    assert summarise([everything], ignore_void=True)["AP75"] == 100.0
    in_void = prediction([box(0, 5, 6, 8), box(0, 0, 6, 4)], [0, 0], [0.9, 0.1])
    assert summarise([InstancePair("a", in_void, objects)])["AP50"] == 50.0
    assert summarise([InstancePair("a", in_void, objects)], ignore_void=True)["AP50"] == 100.0


def test_difficult_objects_can_be_left_out():
    easy, hard = box(0, 0, 3, 3), box(3, 3, 6, 8)
    objects = truth([easy, hard], [0, 0], difficult=[False, True])
    pair = InstancePair("a", prediction([hard, easy], [0, 0], [0.9, 0.8]), objects)
    missed = InstancePair("a", prediction([easy], [0], [0.8]), objects)
    assert summarise([pair], use_difficult=False)["AP50"] == 100.0
    assert summarise([missed], use_difficult=False)["AP50"] == 100.0
    assert summarise([missed], use_difficult=False)["ABO"] == 100.0
    assert summarise([missed])["AP50"] == summarise([missed])["ABO"] == 50.0


def test_average_best_overlap_is_a_mean_over_objects_then_classes():
    full, half, away = box(0, 0, 4, 4), box(0, 0, 2, 4), box(5, 5, 6, 8)
    objects = truth([full, away, full], [0, 0, 1])
    found = prediction([half, full, full], [0, 2, 1], [0.1, 0.9, 0.0])
    metrics = summarise([InstancePair("a", found, objects)])
    assert metrics["ABO/cat"] == 25.0  # (0.5 + 0) / 2: the bird does not help the cat
    assert metrics["ABO/dog"] == 100.0
    assert metrics["ABO"] == 62.5


def test_names_show_every_departure():
    options = ProtocolOptions(eleven_point=True, use_difficult=False, ignore_void=True)
    assert options.name("voc") == "voc, 11-point, without difficult, void ignored"
    assert options.name("coco") == "coco, without difficult, void ignored"
    assert ProtocolOptions().name("voc") == "voc"


def test_reordering_objects_and_distinct_predictions_changes_nothing():
    pair = random_pair(7, distinct=True)
    rng = np.random.default_rng(0)
    rows, columns = (
        rng.permutation(len(pair.prediction.classes)),
        rng.permutation(len(pair.truth.classes)),
    )
    other = InstancePair(
        pair.key,
        prediction(
            pair.prediction.masks[rows],
            pair.prediction.classes[rows],
            pair.prediction.scores[rows],
            size=(40, 48),
        ),
        truth(pair.truth.masks[columns], pair.truth.classes[columns], size=(40, 48)),
    )
    assert summarise([pair]) == pytest.approx(summarise([other]), nan_ok=True)


def test_best_overlaps_without_objects_of_the_class():
    mask = box(0, 0, 4, 4)
    pair = InstancePair("a", prediction([mask], [1], [1]), truth([mask], [0]))
    matches = match_instances(pair)
    assert matches.best_object.tolist() == [-1]
    assert matches.object_iou.tolist() == [0.0]
