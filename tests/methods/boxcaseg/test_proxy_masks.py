import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.boxcaseg import painted
from wsis.layers.box_baselines import filled_boxes
from wsis.layers.masks import fair_confidence
from wsis.methods.boxcaseg.proxy_masks import (
    masks_in_boxes,
    merge_by_odds,
    merge_masks,
    normalize_maps,
    original_confidence,
    painting_order,
    quantize_maps,
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
    masks = filled_boxes(boxes, (12, 12)) & (generator.random((count, 12, 12)) < 0.7)
    return boxes, masks


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_merging_against_the_plain_way(scene):
    boxes, masks = scene
    merged = merge_masks(masks, areas=areas_of(boxes))
    np.testing.assert_array_equal(merged, painted(masks, areas_of(boxes)))
    assert merged.sum(axis=0).max(initial=0) <= 1
    np.testing.assert_array_equal(merged.any(axis=0), masks.any(axis=0))


def test_of_equal_boxes_the_first_wins():
    boxes = np.array([[0, 0, 4, 4]] * 3)
    merged = merge_masks(filled_boxes(boxes, (5, 5)), areas=areas_of(boxes))
    assert merged.sum(axis=(1, 2)).tolist() == [16, 0, 0]
    assert painting_order(np.array([3, 5, 3, 5])).tolist() == [3, 1, 2, 0]


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(0, 2**16))
def test_merging_by_odds_against_the_plain_way(scene, seed):
    boxes, masks = scene
    levels = np.random.default_rng(seed).integers(0, 256, (len(boxes), 1, 1)).astype(np.uint8)
    merged = merge_by_odds(masks, levels, boxes, areas=areas_of(boxes))
    share = (levels[:, 0, 0] + 0.5) / 256
    odds = share / (1 - share) / areas_of(boxes)
    for y, x in np.ndindex(masks.shape[1:]):
        claims = np.flatnonzero(masks[:, y, x])
        wanted = [claims[odds[claims].argmax()]] if len(claims) else []
        assert np.flatnonzero(merged[:, y, x]).tolist() == wanted


@pytest.mark.parametrize(("level", "owner"), [(240, 0), (200, 1)])
def test_a_large_box_must_be_surer_than_a_small_one(level, owner):
    boxes = np.array([[0, 0, 4, 4], [1, 1, 3, 3]])  # (130.5 / 125.5) / 4 is 0.26
    levels = np.array([level, 130], np.uint8)[:, None, None]  # / 16: 0.97 or 0.23
    merged = merge_by_odds(filled_boxes(boxes, (4, 4)), levels, boxes, areas=areas_of(boxes))
    assert merged[owner, 1:3, 1:3].all()
    assert not merged[1 - owner, 1:3, 1:3].any()


def test_the_area_is_the_annotated_one():
    merged = merge_masks(np.ones((2, 4, 4), bool), areas=np.array([16.4, 16.2]))
    assert merged.sum(axis=(1, 2)).tolist() == [0, 16]


@pytest.mark.parametrize("side", [1, 10, 38, 39, 200])
def test_confidence_of_a_perfect_mask(side):
    mask = given_box = np.array([[5, 5, 5 + side, 5 + side]])
    published = original_confidence(mask, given_box)[0]
    assert published == pytest.approx(side**2 / (side + 1) ** 2)
    assert (published > 0.95) == (side >= 39)
    assert fair_confidence(mask, given_box)[0] == 1
    assert fair_confidence(mask, given_box, tolerance=0)[0] == 1


def test_fair_confidence_forgives_a_pixel_of_rounding_but_not_more():
    given_box = np.array([[5.0, 5.0, 15.0, 15.0]] * 3)
    masks = np.array([[6, 5, 15, 14], [7, 5, 15, 15], [0, 0, 0, 0]])
    found = fair_confidence(masks, given_box)
    np.testing.assert_allclose(found, [1, 0.8, 0])
    np.testing.assert_allclose(fair_confidence(masks, given_box, tolerance=0), [0.81, 0.8, 0])


def test_an_empty_mask_is_not_confident():
    empty, box = np.zeros((2, 4), dtype=np.int64), np.array([[0, 0, 4, 4], [9, 9, 20, 20]])
    np.testing.assert_allclose(original_confidence(empty, box), [1 / 25, 0])
    np.testing.assert_array_equal(fair_confidence(empty, box), [0, 0])


def test_a_single_pixel_in_the_corner():
    given = np.array([[0.0, 0, 1, 1]])
    assert fair_confidence(np.array([[0, 0, 1, 1]]), given).tolist() == [1]
    assert fair_confidence(np.zeros((1, 4), int), given).tolist() == [0]


def test_maps_to_masks():
    maps = torch.tensor([[[0.2, 0.4], [0.4, 0.6]], [[0.5, 0.5], [0.5, 0.5]]])
    levels = quantize_maps(normalize_maps(maps))
    assert levels.tolist() == [[[0, 127], [127, 255]], [[0, 0], [0, 0]]]
    boxes = np.array([[3, 1, 5, 3], [0, 0, 1, 1]])
    masks = masks_in_boxes(levels, boxes, (4, 6))
    assert masks.shape == (2, 4, 6)
    assert np.argwhere(masks).tolist() == [[0, 2, 4]]


def test_nothing():
    none = np.zeros((0, 4), dtype=np.int64)
    maps = np.zeros((0, 2, 2), dtype=np.uint8)
    assert masks_in_boxes(maps, none, (3, 4)).shape == (0, 3, 4)
    assert merge_masks(np.zeros((0, 3, 4), bool), areas=np.zeros(0)).shape == (0, 3, 4)
    assert original_confidence(none, none).shape == fair_confidence(none, none).shape == (0,)
