import numpy as np
import pytest
from wsis.errors import UsageError
from wsis.peak_thresholds import gap_threshold, histogram_text


def heights(own, other):
    return np.array([[v, 1] for v in own] + [[v, 0] for v in other], dtype=float)


def test_the_threshold_separates():
    text = histogram_text(heights(np.linspace(20, 40, 101), np.linspace(-10, 10, 1001)))
    assert "PEAK_THRESHOLD 9.80 leaves 1 % of the peaks of other classes and 100.0 %" in text
    assert text.count("\n") == 19
    low = histogram_text(heights(np.linspace(0, 10, 1001), np.linspace(0, 10, 1001)))
    assert "and 1.0 % of those of tags" in low


def test_two_groups():
    assert gap_threshold(np.array([9.0, 0.0, 1.0, 10.0, 0.5])) == 5
    assert gap_threshold(np.array([1.0, 3.0])) == 2


def test_both_kinds_are_needed():
    for own, other in (([], [1.0]), ([1.0], [])):
        with pytest.raises(UsageError, match="are needed"):
            histogram_text(heights(own, other))
