"""RLE from outside is checked without trusting pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from wsis.layers import run_lengths as run_lengths_module
from wsis.layers.run_lengths import (
    check_rle,
    check_rles,
    decode_rle,
    encode_mask,
    encode_masks,
    polygons_to_rle,
    rle_area,
    rle_areas,
    rle_box,
    rle_boxes,
    rle_iou,
    run_lengths,
    runs_of_ones,
)


def slow_lengths(mask):
    """Run lengths by walking over the columns."""
    lengths, current, count = [], 0, 0
    for value in mask.T.reshape(-1):
        if int(value) != current:
            lengths.append(count)
            current, count = int(value), 0
        count += 1
    return [*lengths, count]


def test_by_hand():
    mask = np.array([[0, 1], [1, 1], [0, 0]], dtype=bool)  # columns 0 1 0 | 1 1 0
    rle = encode_mask(mask)
    assert run_lengths(rle["counts"]).tolist() == [1, 1, 1, 2, 1]
    first, stop = runs_of_ones(rle["counts"], (3, 2))
    assert (first.tolist(), stop.tolist()) == ([1, 3], [2, 5])
    assert rle_area(rle) == 3
    assert rle_box(rle) == [0, 0, 2, 2]
    assert check_rle({"size": [3, 2], "counts": [1, 1, 1, 2, 1]}, (3, 2)) == rle


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.5])
)
def test_round_trip(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = encode_mask(mask)
    assert run_lengths(rle["counts"]).tolist() == slow_lengths(mask)
    assert check_rle(rle, (height, width)) == rle
    as_bytes = {"size": (height, width), "counts": rle["counts"].encode()}
    assert check_rle(as_bytes, (height, width)) == rle
    np.testing.assert_array_equal(decode_rle(rle), mask)


def test_long_runs():
    mask = np.zeros((3000, 2000), dtype=bool)
    mask[:, 1500:1502] = True
    assert run_lengths(encode_mask(mask)["counts"]).tolist() == [4_500_000, 6000, 1_494_000]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (None, "not an RLE"),
        ({"counts": "04"}, "not an RLE"),
        ({"size": [2, 2], "counts": None}, "neither"),
        ({"size": [2, 2], "counts": [4.0]}, "neither"),
        ({"size": [2, 2], "counts": [True, 3]}, "neither"),
        ({"size": [2, 2], "counts": [5, -1]}, "negative"),
        ({"size": [2, 2], "counts": [3]}, "cover 3 pixels"),
        ({"size": [2, 2], "counts": [10**30]}, "longer than the image"),
        ({"size": [2, 2], "counts": "0" * 41}, "longer than any mask"),
        ({"size": [2, 3], "counts": [6]}, "has size"),
        ({"size": "22", "counts": [4]}, "has size"),
        ({"size": [10**6, 10**6], "counts": "04"}, "has size"),
        ({"size": [2, 2], "counts": "\u00e9"}, "ASCII"),
        ({"size": [2, 2], "counts": "~~"}, "no RLE has"),
        ({"size": [2, 2], "counts": "04P"}, "inside a number"),
        ({"size": [2, 2], "counts": "P" * 30 + "0"}, "absurdly"),
        ({"size": [2, 2], "counts": ""}, "cover 0 pixels"),
        ({"size": [2, 2], "counts": "5O"}, "negative run"),
    ],
)
def test_bad_rle(rle, message):
    with pytest.raises(ValueError, match=message):
        check_rle(rle, (2, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.02, 0.5, 1.0]), max_size=6), st.integers(0, 2**32 - 1))
def test_many_at_once_are_as_one_by_one(shares, seed):
    rng, size = np.random.default_rng(seed), (9, 14)
    rles = encode_masks(np.array([rng.random(size) < s for s in shares]).reshape(-1, *size))
    assert check_rles(rles, size) == rles == [check_rle(rle, size) for rle in rles]
    for place, bad in enumerate(("", "P", "~", "00", "n0n0n0")):
        wrong = [*rles, {"size": list(size), "counts": bad}]
        wrong = wrong[place:] + wrong[:place]
        with pytest.raises(ValueError, match=r"^counts "):
            check_rles(wrong, size)


def test_any_number_of_masks_is_measured():
    """pycocotools' own area of a list ends at 255 masks."""
    masks = np.random.default_rng(0).random((300, 3, 4)) < 0.5
    rles = encode_masks(masks)
    assert rle_areas(rles).tolist() == masks.sum(axis=(1, 2)).tolist()
    assert rle_boxes(rles).tolist() == [rle_box(rle) for rle in rles]
    np.testing.assert_array_equal(rle_iou(rles, rles[:2]), rle_iou(rles[:2], rles).T)
    for none in (rle_areas([]), rle_boxes([]), rle_iou([], rles)):
        assert none.shape[0] == 0


def test_many_long_ones_are_checked_in_portions(monkeypatch):
    monkeypatch.setattr(run_lengths_module, "_MAX_TOGETHER", 40)
    rng, size = np.random.default_rng(0), (9, 14)
    rles = encode_masks(rng.random((20, *size)) < 0.5)
    assert check_rles(rles, size) == rles
    for place in (0, 7, 19):
        wrong = list(rles)
        wrong[place] = {"size": list(size), "counts": rles[place]["counts"] + "1"}
        with pytest.raises(ValueError, match="cover|negative run"):
            check_rles(wrong, size)


def test_a_sum_that_comes_round_is_refused():
    """300,000 ever longer runs, whose sum in 64 bits is anything one likes."""
    counts = "ooooo?" * 300_000
    lengths = run_lengths(counts)
    assert lengths.min() > 0
    assert sum(lengths.tolist()) > 1 << 63
    with pytest.raises(ValueError, match="longer than the image"):
        check_rle({"size": [1000, 1000], "counts": counts}, (1000, 1000))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=[chr(c) for c in range(48, 112)], max_size=12))
def test_whatever_passes_decodes(counts):
    """What is accepted, pycocotools decodes to the same runs."""
    try:
        rle = check_rle({"size": [3, 4], "counts": counts}, (3, 4))
    except ValueError:
        return
    lengths = run_lengths(rle["counts"])
    expected = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(4, 3).T
    np.testing.assert_array_equal(decode_rle(rle), expected.astype(bool))


def test_polygons_are_united():
    rle = polygons_to_rle([[0, 0, 2, 0, 2, 2, 0, 2], [3, 0, 5, 0, 5, 2, 3, 2]], (4, 6))
    assert rle_area(rle) == 8
    assert coco_mask.decode(rle)[:2].sum() == 8
