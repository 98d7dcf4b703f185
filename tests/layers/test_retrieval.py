"""Retrieval against a plain loop over peaks and proposals, and what must hold for any image."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.proposals import plain_scores
from wsis.layers.regions import Regions
from wsis.layers.retrieval import (
    contour_pixels,
    prepare_proposals,
    retrieval_scores,
    retrieve_instances,
    sampling_candidates,
)

FACTORS = (0.95, 1e-3, 0.8)


def scene(seed, count=8, peaks=4, size=(20, 26), target=(16, 12)):
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks:
        y, x = generator.integers(0, size[0] - 1), generator.integers(0, size[1] - 1)
        mask[y : y + generator.integers(1, 12), x : x + generator.integers(1, 14)] = True
    masks &= generator.random(masks.shape) < 0.95
    maps = generator.random((peaks, *target)) ** 6
    maps = (maps / maps.sum(axis=(1, 2), keepdims=True)).astype(np.float32)
    class_maps = generator.normal(size=(3, 4, 5)).astype(np.float32)
    return masks, class_maps, generator.integers(0, 3, peaks), maps


@given(
    seed=st.integers(0, 1 << 16),
    width=st.integers(1, 8),
    count=st.integers(0, 8),
    peaks=st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_scores_equal_the_plain_loop(seed, width, count, peaks):
    masks, class_maps, classes, maps = scene(seed, count, peaks)
    if count:
        masks[0] = True
    limits = (0.01, 0.6)
    prepared = prepare_proposals(
        Regions.from_masks(masks), maps.shape[1:], contour_width=width, size_limits=limits
    )
    options = {"factors": FACTORS, "size_limits": limits, "contour_width": width}
    pairs = zip(classes, maps, strict=True)
    expected = [plain_scores(masks, class_maps[c], one, **options)[0] for c, one in pairs]
    expected = np.reshape(expected, (peaks, count))
    scores = retrieval_scores(prepared, class_maps, classes, maps, factors=FACTORS)
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(expected))
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@given(seed=st.integers(0, 1 << 16), width=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_contours_equal_those_of_the_whole_image(seed, width):
    masks, *_ = scene(seed)
    regions = Regions.from_masks(masks)
    for index, mask in enumerate(masks.astype(np.uint8)):
        edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((width, width), np.uint8))
        np.testing.assert_array_equal(contour_pixels(regions, index, width), np.flatnonzero(edge))


def two_objects():
    """Two objects; peaks 0 and 2 on the left one, peak 1 on the right one."""
    masks = np.zeros((3, 10, 20), dtype=bool)
    masks[0, 2:8, 2:8], masks[1, 2:8, 12:18], masks[2, 2:8, 2:18] = True, True, True
    maps = np.zeros((3, 10, 20), dtype=np.float32)
    maps[0, 4:6, 4:6], maps[1, 4:6, 14:16], maps[2, 5, 5] = 0.25, 0.25, 0.9
    class_maps = np.zeros((2, 10, 20), dtype=np.float32)
    class_maps[:, 2:8, 2:8] = class_maps[:, 2:8, 12:18] = 1
    return prepare_proposals(Regions.from_masks(masks), (10, 20), contour_width=1), class_maps, maps


def test_each_peak_finds_its_object_and_a_second_one_merges():
    prepared, class_maps, maps = two_objects()
    classes, before = np.array([0, 1, 1]), maps.copy()
    factors = (0.95, 1e-3, 1.0)
    found = retrieve_instances(prepared, class_maps, classes, maps, factors=factors)
    assert found.peaks.tolist() == [0, 1]
    assert found.proposals.tolist() == [0, 1]
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [1, 1])
    np.testing.assert_allclose(found.peak_maps[0], maps[0] + maps[2])
    np.testing.assert_array_equal(maps, before)
    arguments = {"factors": factors, "within_class": True}
    apart = retrieve_instances(prepared, class_maps, classes, maps, **arguments)
    assert apart.peaks.tolist() == [0, 1, 2]  # another class: no suppression
    same = retrieve_instances(prepared, class_maps, np.zeros(3, int), maps, **arguments)
    assert same.peaks.tolist() == [0, 1]
    everything = retrieve_instances(
        prepared, class_maps, classes, maps, factors=factors, nms_threshold=None
    )
    assert everything.peaks.tolist() == [0, 1, 2]
    plain = retrieve_instances(prepared, class_maps, classes, maps, factors=factors, merge=False)
    np.testing.assert_allclose(plain.peak_maps, maps[[0, 1]])


def test_nothing_to_find():
    prepared, class_maps, maps = two_objects()
    none = retrieve_instances(prepared, class_maps, np.zeros(0, int), maps[:0])
    assert len(none.peaks) == 0
    assert none.peak_maps.shape == (0, 10, 20)
    empty = prepare_proposals(prepared.regions[:0], (10, 20))
    assert len(retrieve_instances(empty, class_maps, np.zeros(3, int), maps).peaks) == 0
    assert [len(c[0]) for c in sampling_candidates(empty, maps)] == [0, 0, 0]
    small = prepare_proposals(prepared.regions, (10, 20), size_limits=(0.9, 0.95))
    assert len(retrieve_instances(small, class_maps, np.zeros(3, int), maps).peaks) == 0
    assert [len(c[0]) for c in sampling_candidates(small, maps)] == [0, 0, 0]
    assert sampling_candidates(prepared, maps[:0]) == []


def test_factors_by_class_and_order_of_proposals():
    masks, class_maps, classes, maps = scene(3)
    regions = Regions.from_masks(masks)
    prepared = prepare_proposals(regions, maps.shape[1:])
    shared = retrieval_scores(prepared, class_maps, classes, maps, factors=FACTORS)
    listed = retrieval_scores(prepared, class_maps, classes, maps, factors=[FACTORS] * 3)
    np.testing.assert_array_equal(shared, listed)
    turned = prepare_proposals(regions[np.arange(len(masks))[::-1]], maps.shape[1:])
    scores = retrieval_scores(turned, class_maps, classes, maps, factors=FACTORS)
    np.testing.assert_allclose(scores[:, ::-1], shared, atol=1e-12)


def test_candidates_are_the_best_that_overlap_the_best():
    prepared, _, maps = two_objects()
    found = sampling_candidates(prepared, maps, balance=1.0, discard_threshold=None)
    assert [c.tolist() for c, _ in found] == [[0, 2, 1], [1, 2, 0], [0, 2, 1]]
    found = sampling_candidates(prepared, maps, balance=1.0, discard_threshold=0.2)
    assert [c.tolist() for c, _ in found] == [[0, 2], [1, 2], [0, 2]]
    found = sampling_candidates(prepared, maps, balance=1.0, max_candidates=1)
    assert [c.tolist() for c, _ in found] == [[0], [1], [0]]


def test_shrinking_leaves_the_soft_border_out():
    mask = np.zeros((1, 8, 8), dtype=bool)
    mask[0, :, 3:] = True  # half of the second column of four stays soft
    shrunk = Regions.from_masks(mask).shrink_to((4, 4)).decode()[0]
    assert shrunk.tolist() == [[False, False, True, True]] * 4


def test_wrong_inputs_are_named():
    prepared, class_maps, maps = two_objects()
    with pytest.raises(ValueError, match="2 peaks"):
        retrieval_scores(prepared, class_maps, np.zeros(2, int), maps)
    with pytest.raises(ValueError, match="proposals of"):
        sampling_candidates(prepared, maps[:, 1:])
    with pytest.raises(ValueError, match="contour_width"):
        prepare_proposals(prepared.regions, (10, 20), contour_width=0)


def test_area_speaks_against_a_candidate():
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[0, 2:5, 2:5] = True
    masks[1, :9] = True  # holds all of the response, and much else
    response = np.zeros((1, 10, 10), dtype=np.float32)
    response[0, 2:5, 2:5] = 0.1
    response[0, 7, 7] = 0.1
    prepared = prepare_proposals(Regions.from_masks(masks), (10, 10), size_limits=(0.0, 1.0))
    options = {"balance": 1.0, "discard_threshold": None}
    (free,) = sampling_candidates(prepared, response, **options)
    (dear,) = sampling_candidates(prepared, response, area_cost=1.0, **options)
    assert dear[0].tolist() == [0, 1]
    contour = {
        i: v - s
        for i, v, s in zip(
            free[0], free[1], prepared.inside_sums(response)[free[0], 0], strict=True
        )
    }
    assert dear[1].tolist() == pytest.approx([0.9 - 0.09 + contour[0], 1.0 - 0.9 + contour[1]])
