import numpy as np
import pytest
import torch
from plain.cim import coco_overlaps, plain_overlaps
from wsis.layers.regions import Regions
from wsis.methods.cim.overlaps import (
    Overlaps,
    exceeds,
    overlap_nms,
    overlaps_of_boxes,
    overlaps_of_intersections,
    overlaps_of_regions,
    rounded,
)


def random_masks(seed, count=20, size=(13, 17)):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *size)) < rng.random((count, 1, 1))
    masks[0] = False
    return masks


def test_by_hand():
    masks = np.zeros((3, 2, 4), dtype=bool)
    masks[0, :, :2], masks[1, 0], masks[2, 1, 3] = True, True, True
    found = overlaps_of_regions(Regions.from_masks(masks))
    assert found.iou.dtype == torch.float16
    third = np.float16(1 / 3)
    np.testing.assert_array_equal(found.iou, [[1, third, 0], [third, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(found.containment, [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    assert len(found) == 3
    assert len(found.to("cpu")) == 3


@pytest.mark.parametrize("rows", [3, 512])
def test_pair_by_pair(rows):
    masks = random_masks(1)
    regions = Regions.from_masks(masks)
    shared = np.array([[(a & b).sum() for b in masks] for a in masks], dtype=float)
    found = overlaps_of_intersections(
        torch.from_numpy(shared), torch.from_numpy(regions.areas), rows=rows
    )
    iou, containment = plain_overlaps(masks, len(masks))
    for maps in (found, overlaps_of_regions(regions)):
        np.testing.assert_array_equal(maps.iou, iou)
        np.testing.assert_array_equal(maps.containment, containment)
    kept = masks.any(axis=(1, 2))  # to pycocotools empty masks are equal
    by_runs = coco_overlaps(masks[kept].astype(np.uint8))
    np.testing.assert_array_equal(by_runs[0], iou[kept][:, kept])
    np.testing.assert_array_equal(by_runs[1], containment[kept][:, kept])


def test_of_nothing():
    empty = overlaps_of_regions(Regions.from_masks(np.zeros((0, 3, 3), dtype=bool)))
    assert empty.iou.shape == empty.containment.shape == (0, 0)
    for rows in (0, 2):
        order = torch.zeros(rows, 0, dtype=torch.int64)
        assert [len(found) for found in overlap_nms(empty, order, threshold=0.5)] == [0, 0]


def test_boxes():
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 0, 4, 4], [8, 8, 9, 9], [1, 1, 1, 1]])
    found = overlaps_of_boxes(boxes)
    assert found.iou[0, 1] == 0.5
    assert found.containment[0, 1] == 1
    assert found.containment[1, 0] == 0.5
    assert found.iou[0, 2] == found.containment[0, 3] == 0
    assert bool(torch.isfinite(found.iou).all())


def test_thresholds_are_rounded():
    values = torch.tensor([0.35009765625, 0.3503], dtype=torch.float16)
    assert rounded(0.35, values) == values[0]
    assert exceeds(values, 0.35).tolist() == [False, True]
    assert exceeds(values.double(), 0.35).tolist() == [True, True]


def test_suppression_against_the_plain_loop():
    for seed in range(5):
        overlaps = overlaps_of_regions(Regions.from_masks(random_masks(seed, 40)))
        generator = np.random.default_rng(seed)
        order = torch.from_numpy(np.stack([generator.permutation(40)[:25] for _ in range(2)]))
        kept = [[], []]
        for row, own in zip(order.tolist(), kept, strict=True):
            for i in row:
                if all(overlaps.iou[i, j] < rounded(0.3, overlaps.iou) for j in own):
                    own.append(i)
        rows, found = overlap_nms(overlaps, order, threshold=0.3)
        assert [found[rows == row].tolist() for row in (0, 1)] == kept
        assert found.tolist() == kept[0] + kept[1]
        again = overlap_nms(overlaps, found[rows == 0][None], threshold=0.3)
        assert again[1].tolist() == kept[0]


def test_an_equal_overlap():
    iou = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    order = torch.tensor([[1, 0]])
    assert overlap_nms(Overlaps(iou, iou), order, threshold=0.5)[1].tolist() == [1]
    strict = Overlaps(iou, iou, suppress_equal=False)
    assert overlap_nms(strict, order, threshold=0.5)[1].tolist() == [1, 0]
