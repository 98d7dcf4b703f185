"""Average precision: worked values and a slow oracle."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.evaluation.average_precision import average_precision


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


def test_worked_values():
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
def test_agrees_with_the_definition(rows, missed, eleven_point):
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
