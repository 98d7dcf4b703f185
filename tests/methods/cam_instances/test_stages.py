"""Class activation maps to instances, by hand."""

import numpy as np
import pytest
from wsis.config import get_wsis_cfg
from wsis.methods.cam_instances.stages import derive_cam_instances


def instances_of(maps, **changes):
    """Instances of maps (K, 10, 12) of the classes 2, 5, ..."""
    cfg = get_wsis_cfg()
    for name, value in changes.items():
        cfg.MODEL.CAM_INSTANCES[name] = value
    keys = np.array([2, 5, 7][: len(maps)], dtype=np.int64)
    cam = {"keys": keys, "high_res": np.asarray(maps, dtype=np.float16)}
    return derive_cam_instances({}, {"cam": cam}, cfg)


def two_maps():
    maps = np.zeros((2, 10, 12))
    maps[0, 1:4, 1:4] = 1.0
    maps[0, 6:9, 1:3] = 0.75
    maps[0, 9, 11] = 1.0  # a speck
    maps[1, 1:4, 3:8] = 0.5
    maps[1, 2, 4] = 1.0
    return maps


def test_components_of_each_map_with_the_mean_as_score():
    made = instances_of(two_maps(), MIN_AREA=0.02)  # 2.4 pixels
    assert made["classes"].tolist() == [2, 2, 5]
    assert made["classes"].dtype == np.int64
    assert made["scores"].tolist() == pytest.approx([1.0, 0.75, (14 * 0.5 + 1) / 15])
    assert made["masks"].dtype == bool
    assert made["masks"].sum(axis=(1, 2)).tolist() == [9, 6, 15]
    assert (made["masks"][0] & made["masks"][2]).sum() == 3  # maps do not compete for pixels


def test_a_fixed_threshold_cuts_elsewhere():
    made = instances_of(two_maps(), MIN_AREA=0.0, THRESHOLD=0.75)
    assert made["classes"].tolist() == [2, 2, 5]  # 0.75 is not above 0.75
    assert made["masks"].sum(axis=(1, 2)).tolist() == [9, 1, 1]


def test_the_largest_component_of_a_tag_alone():
    made = instances_of(two_maps(), LARGEST_ONLY=True)
    assert made["classes"].tolist() == [2, 5]
    assert made["masks"].sum(axis=(1, 2)).tolist() == [9, 15]


def test_a_tag_keeps_its_largest_component_however_small():
    made = instances_of(two_maps(), MIN_AREA=0.5)
    assert made["classes"].tolist() == [2, 5]
    assert made["masks"].sum(axis=(1, 2)).tolist() == [9, 15]


@pytest.mark.parametrize("maps", [np.zeros((0, 10, 12)), np.zeros((2, 10, 12))])
def test_without_tags_or_activation_there_are_no_instances(maps):
    made = instances_of(maps)
    assert made["masks"].shape == (0, 10, 12)
    assert made["classes"].shape == made["scores"].shape == (0,)
