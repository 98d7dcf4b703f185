import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.boxcaseg import painted
from wsis.layers.proxy_masks import (
    fair_confidence,
    full_masks,
    masks_in_boxes,
    merge_masks,
    normalise_maps,
    original_confidence,
    painting_order,
    parts_of,
    quantise_maps,
    tight_boxes,
)


def areas_of(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


@st.composite
def scenes(draw):
    count = draw(st.integers(0, 6))
    seed = draw(st.integers(0, 2**16))
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 8, (count, 2))
    extents = generator.integers(1, 5, (count, 2))
    boxes = np.concatenate([corners, corners + extents], axis=1)
    parts = [generator.random((y1 - y0, x1 - x0)) < 0.7 for x0, y0, x1, y1 in boxes.tolist()]
    return boxes, parts


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_merging_against_the_plain_way(scene):
    boxes, parts = scene
    size = (12, 12)
    masks = full_masks(parts, boxes, size)
    merged = full_masks(merge_masks(parts, boxes, size, areas=areas_of(boxes)), boxes, size)
    np.testing.assert_array_equal(merged, painted(masks, areas_of(boxes)))
    assert merged.sum(axis=0).max(initial=0) <= 1
    np.testing.assert_array_equal(merged.any(axis=0), masks.any(axis=0))
    for part, again in zip(parts, parts_of(masks, boxes), strict=True):
        np.testing.assert_array_equal(part, again)


def test_of_equal_boxes_the_first_wins():
    boxes = np.array([[0, 0, 4, 4]] * 3)
    merged = merge_masks([np.ones((4, 4), bool)] * 3, boxes, (5, 5), areas=areas_of(boxes))
    assert [part.sum() for part in merged] == [16, 0, 0]
    assert painting_order(np.array([3, 5, 3, 5])).tolist() == [3, 1, 2, 0]


def test_the_area_is_the_annotated_one():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4]])
    parts = [np.ones((4, 4), bool)] * 2
    merged = merge_masks(parts, boxes, (4, 4), areas=np.array([16.4, 16.2]))
    assert [part.sum() for part in merged] == [0, 16]


def test_tight_boxes():
    part = np.zeros((4, 6), dtype=bool)
    part[1:3, 2:5] = True
    boxes = np.array([[10, 20, 16, 24], [0, 0, 6, 4]])
    found = tight_boxes([part, np.zeros((4, 6), bool)], boxes)
    assert found.tolist() == [[12, 21, 14, 22], [0, 0, 0, 0]]


@pytest.mark.parametrize("side", [1, 10, 38, 39, 200])
def test_confidence_of_a_perfect_mask(side):
    mask, given_box = np.array([[5, 5, 4 + side, 4 + side]]), np.array([[5, 5, 5 + side, 5 + side]])
    published = original_confidence(mask, given_box)[0]
    assert published == pytest.approx(side**2 / (side + 1) ** 2)
    assert (published > 0.95) == (side >= 39)
    assert fair_confidence(mask, given_box)[0] == 1
    assert fair_confidence(mask, given_box, tolerance=0)[0] == 1


def test_fair_confidence_forgives_a_pixel_of_rounding_but_not_more():
    given_box = np.array([[5.0, 5.0, 15.0, 15.0]] * 3)
    masks = np.array([[6, 5, 14, 13], [7, 5, 14, 14], [0, 0, 0, 0]])
    found = fair_confidence(masks, given_box)
    np.testing.assert_allclose(found, [1, 0.8, 0])
    np.testing.assert_allclose(fair_confidence(masks, given_box, tolerance=0), [0.81, 0.8, 0])


def test_an_empty_mask_is_not_confident():
    empty, box = np.zeros((2, 4), dtype=np.int64), np.array([[0, 0, 4, 4], [9, 9, 20, 20]])
    np.testing.assert_allclose(original_confidence(empty, box), [1 / 25, 0])
    np.testing.assert_array_equal(fair_confidence(empty, box), [0, 0])


def test_maps_to_masks():
    maps = torch.tensor([[[0.2, 0.4], [0.4, 0.6]], [[0.5, 0.5], [0.5, 0.5]]])
    levels = quantise_maps(normalise_maps(maps))
    assert levels.tolist() == [[[0, 127], [127, 255]], [[0, 0], [0, 0]]]
    boxes = np.array([[3, 1, 5, 3], [0, 0, 1, 1]])
    parts = masks_in_boxes(levels, boxes)
    assert parts[0].tolist() == [[False, False], [False, True]]
    assert parts[1].tolist() == [[False]]
    masks = full_masks(parts, boxes, (4, 6))
    assert np.argwhere(masks).tolist() == [[0, 2, 4]]


def test_nothing():
    none = np.zeros((0, 4), dtype=np.int64)
    assert full_masks([], none, (3, 4)).shape == (0, 3, 4)
    assert merge_masks([], none, (3, 4), areas=np.zeros(0)) == []
    assert original_confidence(none, none).shape == fair_confidence(none, none).shape == (0,)
