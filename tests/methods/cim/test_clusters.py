import numpy as np
import torch
from wsis.layers.regions import Regions
from wsis.methods.cim.clusters import class_peaks, cluster_proposals, peaks_to_pixels


def scene():
    """Two objects; whole, nearly whole and part of the first; the second; both together."""
    masks = np.zeros((5, 12, 12), dtype=bool)
    masks[0, 1:6, 1:6] = masks[1, 1:6, 1:5] = masks[2, 1:3, 1:3] = True
    masks[3, 8:11, 8:11] = masks[4, 1:11, 1:11] = True
    return Regions.from_masks(masks)


def plain(regions, points, classes, mean_threshold=0.7, iou_threshold=0.5):
    masks = regions.decode()
    ids, owners = np.zeros(len(masks), int), np.zeros(len(masks), int)
    near = set()
    for number, ((y, x), c) in enumerate(zip(points, classes, strict=True), 1):
        covering = [m for m in masks if m[y, x]]
        if not covering:
            continue
        shape = np.mean(covering, axis=0) > mean_threshold
        for i, m in enumerate(masks):
            iou = (m & shape).sum() / max((m | shape).sum(), 1)
            if iou > iou_threshold:
                ids[i], owners[i] = number, c + 1
            elif iou > 0:
                near.add(i)
    for i in near:
        if ids[i] == 0:
            ids[i] = len(points) + 1
    return ids, owners


def test_against_the_plain_loop():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        corners = np.sort(rng.integers(0, 13, (25, 2, 2)), axis=1)
        masks = np.zeros((25, 12, 12), dtype=bool)
        for mask, ((y0, x0), (y1, x1)) in zip(masks, corners, strict=True):
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
        regions = Regions.from_masks(masks)
        points, classes = rng.integers(0, 12, (4, 2)), rng.integers(0, 3, 4)
        found = cluster_proposals(regions, points, classes)
        ids, owners = plain(regions, points, classes)
        np.testing.assert_array_equal(found.ids, ids)
        np.testing.assert_array_equal(found.classes, owners)


def test_a_scene():
    points = np.array([[2, 2], [9, 9]])
    found = cluster_proposals(scene(), points, np.array([3, 0]))
    np.testing.assert_array_equal(found.ids, plain(scene(), points, [3, 0])[0])
    assert found.ids[3] == 2
    assert found.classes[3] == 1


def test_points_outside_and_uncovered_make_nothing():
    found = cluster_proposals(scene(), np.array([[0, 11], [-1, 3], [12, 0]]), np.array([0, 1, 2]))
    assert not found.ids.any()
    assert not found.classes.any()
    nothing = cluster_proposals(scene(), np.zeros((0, 2), int), np.zeros(0, int))
    assert nothing.ids.tolist() == [1] * 5
    nobody = Regions.from_masks(np.zeros((0, 4, 4), dtype=bool))
    assert len(cluster_proposals(nobody, np.array([[1, 1]]), np.array([0])).ids) == 0


def test_peaks():
    maps = torch.zeros(3, 5, 5)
    maps[0, 1, 1], maps[0, 3, 3], maps[2, 2, 2], maps[1, 0, 0] = 12.0, 11.0, 3.0, 50.0
    peaks, values = class_peaks(maps, torch.tensor([2, 0]))
    assert peaks.tolist() == [[2, 2, 2], [0, 3, 3], [0, 1, 1]]
    assert values.tolist() == [3, 11, 12]
    nothing, _ = class_peaks(maps, torch.zeros(0, dtype=torch.int64))
    assert nothing.shape == (0, 3)
    none, _ = class_peaks(maps, torch.tensor([2]), peak_filter=5.0)
    assert none.shape == (0, 3)


def test_pixels():
    pixels = peaks_to_pixels(np.array([[0, 0], [111, 111], [56, 1]]), (112, 112), (375, 500))
    assert pixels.tolist() == [[0, 0], [371, 495], [187, 4]]
