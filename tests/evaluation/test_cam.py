"""The CAM baseline."""

import numpy as np
import pytest
from wsis.evaluation.cam import cam_components, cam_label_map


def two_blobs():
    cam = np.zeros((2, 10, 12), dtype=np.float32)
    cam[0, 1:4, 1:4] = 1.0
    cam[0, 6:9, 1:4] = 0.5
    cam[1, 1:4, 3:8] = 0.7
    cam[1, 9, 11] = 0.9
    return np.array([2, 5]), cam


def test_label_map_takes_the_largest():
    keys, cam = two_blobs()
    label = cam_label_map(keys, cam, threshold=0.15)
    assert label[2, 2] == 3
    assert label[2, 3] == 3
    assert label[2, 4] == 6
    assert label[0, 0] == 0
    assert not cam_label_map(keys, cam, threshold=1.0).any()  # a CAM has to exceed it


def test_components_become_instances():
    keys, cam = two_blobs()
    found = cam_components(keys, cam, threshold=0.15)
    assert found.classes.tolist() == [2, 2, 5, 5]
    assert found.scores.tolist() == pytest.approx([1.0, 0.5, 0.7, 0.0])  # the speck scores 0
    assert found.masks.sum(axis=(1, 2)).tolist() == [9, 9, 12, 1]
    assert not (found.masks.sum(axis=0) > 1).any()
    kept = cam_components(keys, cam, threshold=0.15, min_area=0.0)
    assert kept.scores[3] == pytest.approx(0.9)


def test_no_class_no_instance():
    keys, cam = np.zeros(0, dtype=np.int64), np.zeros((0, 5, 7), dtype=np.float32)
    found = cam_components(keys, cam, threshold=0.15)
    assert found.masks.shape == (0, 5, 7)
    assert found.classes.shape == found.scores.shape == (0,)
    assert cam_label_map(keys, cam, threshold=0.15).shape == (5, 7)
