"""Mask overlaps: worked values, a slow oracle, and what must hold for any masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.layers.masks import (
    box_iou,
    droppers,
    iou_of_areas,
    mask_boxes,
    mask_iou,
    mask_nms,
    stays,
)
from wsis.layers.run_lengths import encode_masks, rle_intersection, rle_iou


def random_masks(seed, count, height, width, density=0.4):
    return np.random.default_rng(seed).random((count, height, width)) < density


def slow_iou(a, b):
    out = np.zeros((len(a), len(b)))
    for i, first in enumerate(a):
        for j, second in enumerate(b):
            union = (first | second).sum()
            out[i, j] = (first & second).sum() / union if union else 0.0
    return out


def test_worked_values():
    a = np.array([[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=bool)
    b = np.array([[[0, 1, 0], [1, 1, 0]], [[1, 1, 0], [0, 0, 0]], [[0, 0, 0]] * 2], dtype=bool)
    encoded = encode_masks(a), encode_masks(b)
    assert rle_intersection(*encoded).tolist() == [[1, 2, 0], [0, 0, 0]]
    assert rle_iou(*encoded).tolist() == [[0.25, 1, 0], [0, 0, 0]]
    assert mask_boxes(torch.from_numpy(a)).tolist() == [[0, 0, 2, 1], [0, 0, 0, 0]]
    assert mask_boxes(torch.from_numpy(b)).tolist() == [[0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 0, 0]]


@given(
    seed=st.integers(0, 1 << 16),
    counts=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=40, deadline=None)
def test_agrees_with_plain_loops(seed, counts, size):
    a, b = random_masks(seed, counts[0], *size), random_masks(seed + 1, counts[1], *size)
    encoded = encode_masks(a), encode_masks(b)
    iou = rle_iou(*encoded)
    np.testing.assert_array_equal(iou, slow_iou(a, b))
    np.testing.assert_array_equal(iou, rle_iou(*encoded[::-1]).T)
    np.testing.assert_array_equal(mask_iou(a), slow_iou(a, a))
    shared = rle_intersection(*encoded)
    np.testing.assert_array_equal(shared, (a[:, None] & b[None]).sum(axis=(2, 3)))


@given(seed=st.integers(0, 1 << 16), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=25, deadline=None)
def test_iou_is_one_on_itself_and_boxes_are_tight(seed, size):
    masks = random_masks(seed, 4, *size, density=0.3)
    iou = mask_iou(masks)
    for index, (x0, y0, x1, y1) in enumerate(mask_boxes(torch.from_numpy(masks)).tolist()):
        if not masks[index].any():
            assert (x0, y0, x1, y1) == (0, 0, 0, 0)
            continue
        assert float(iou[index, index]) == 1.0
        ys, xs = np.nonzero(masks[index])
        assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_non_contiguous_masks():
    masks = random_masks(3, 4, 7, 12)
    turned = masks.transpose(0, 2, 1)
    np.testing.assert_array_equal(mask_iou(turned), mask_iou(masks))


def test_shared_pixels_of_large_masks_are_exact():
    masks = np.zeros((3, 4000, 3000), dtype=bool)
    masks[0], masks[1, :, :2999], masks[2, 3999, 7:] = True, True, True
    expected = [[12_000_000, 11_996_000, 2993], [11_996_000, 11_996_000, 2992], [2993, 2992, 2993]]
    encoded = encode_masks(masks)
    assert rle_intersection(encoded, encoded).tolist() == expected


def test_wrong_inputs_are_named():
    for masks in (np.zeros((1, 2, 2)), np.zeros((2, 2), dtype=bool)):
        with pytest.raises(ValueError, match="boolean"):
            mask_iou(masks)


def test_suppression_by_hand():
    masks = torch.zeros(4, 1, 10, dtype=torch.bool)
    masks[0, 0, :6] = masks[1, 0, 1:7] = masks[2, 0, 2:8] = masks[3, 0, 9:] = True
    scores = torch.tensor([0.5, 0.9, 0.5, 0.1])  # overlaps: 0-1 and 1-2 5/7, 0-2 4/8
    assert mask_nms(masks, scores, 0.5).tolist() == [1, 3]
    assert mask_nms(masks, scores, 0.8).tolist() == [1, 0, 2, 3]
    assert mask_nms(masks, scores, 5 / 7).tolist() == [1, 3]  # the limit itself drops
    assert mask_nms(masks, scores, 1.1).tolist() == [1, 0, 2, 3]
    # A mask that is dropped drops no other.
    assert mask_nms(masks, torch.tensor([0.9, 0.5, 0.4, 0.1]), 0.6).tolist() == [0, 2, 3]
    assert mask_nms(masks, scores, 0.5, groups=torch.tensor([0, 1, 1, 0])).tolist() == [1, 0, 3]
    assert mask_nms(masks[:0], scores[:0], 0.5).tolist() == []
    once = mask_nms(masks, scores, 0.4)
    assert mask_nms(masks[once], scores[once], 0.4).tolist() == list(range(len(once)))


def test_boxes_stay_on_their_device():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool, device="meta")
    assert mask_boxes(masks).device == masks.device


def test_iou_from_counts_of_pairs_and_of_all_combinations():
    areas, others = np.array([4, 0]), np.array([2, 0])
    assert iou_of_areas(np.array([2.0, 0.0]), areas, others).tolist() == [0.5, 0]
    table = iou_of_areas(np.array([[2.0, 0], [0, 0]]), areas[:, None], others[None, :])
    assert table.tolist() == [[0.5, 0], [0, 0]]
    assert iou_of_areas(np.array([1.0]), areas[:1], others[:1], epsilon=1.0)[0] == 1 / 6


def test_boxes_by_hand():
    a = np.array([[0.0, 0, 2, 2], [1, 1, 1, 1]])
    b = np.array([[1.0, 0, 3, 2], [1, 1, 1, 1], [5, 5, 6, 6]])
    assert box_iou(a, b).tolist() == [[1 / 3, 0, 0], [0, 0, 0]]


@given(seed=st.integers(0, 1 << 16), count=st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_who_drops_whom(seed, count):
    rivals = np.random.default_rng(seed).random((count, count)) < 0.3
    expected, kept = [], []
    for item in range(count):
        better = [k for k in kept if rivals[k, item]]
        expected.append(better[0] if better else item)
        if not better:
            kept.append(item)
    assert droppers(rivals).tolist() == expected
    assert stays(droppers(rivals)).tolist() == kept
