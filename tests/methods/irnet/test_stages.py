"""What IRNet's stages keep, reduce and derive."""

import numpy as np
import pytest
import torch
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.methods.irnet import stages
from wsis.stage import get_stage


@pytest.mark.parametrize(("count", "used"), [(0, 0), (1, 1), (3, 3), (4, 4), (7, 4), (8, 8)])
def test_mean_displacement_drops_the_partial_group(count, used):
    cfg = get_wsis_cfg()
    cfg.MODEL.IRNET.MEAN_DISPLACEMENT_BATCH = 4
    means = np.random.default_rng(0).random((count, 2))
    found = stages.reduce_displacement(
        ((str(i), {"mean": mean}) for i, mean in enumerate(means)), cfg
    )["mean"]
    np.testing.assert_allclose(found, means[:used].mean(axis=0) if used else [0, 0])
    cfg.MODEL.IRNET.MEAN_DISPLACEMENT_BATCH = 0
    found = stages.reduce_displacement(((str(i), {"mean": m}) for i, m in enumerate(means)), cfg)
    np.testing.assert_allclose(found["mean"], means.mean(axis=0) if count else [0, 0])


def test_mean_displacement_of_one_image():
    field = torch.stack([torch.arange(6.0).view(2, 3), torch.full((2, 3), -1.0)])
    mean = stages.mean_displacement({"displacement": field})["mean"]
    assert mean.dtype == np.float64
    assert mean.tolist() == [2.5, -1]


class Reader:
    summary = {"mean": np.array([3.0, -4.0])}  # noqa: RUF012


def test_the_mean_is_measured_without_a_shift_and_used_with_it():
    assert get_stage("displacement_mean").config["MODEL.IRNET.MEAN_DISPLACEMENT"] == [0, 0]
    measured = get_stage("instances").measured({"displacement_mean": Reader(), "cam": None})
    assert measured == {"MODEL.IRNET.MEAN_DISPLACEMENT": [3, -4]}


@pytest.mark.parametrize(("clusters", "collapsed"), [([[0, 0], [0, 0]], 1), ([[0, 0], [1, 0]], 0)])
def test_a_single_cluster_counts_as_collapsed(clusters, collapsed):
    stage = get_stage("instances")
    counts = stage.tally({"clusters": np.array(clusters, dtype=np.int32)}, {})
    assert counts == {"collapsed": collapsed}
    said = stage.remarks["collapsed"].format_map({"collapsed": 3, "images": 7})
    assert "collapsed on 3 of 7 images" in said


def test_inter_pixel_label_of_a_file(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 4, (12, 15, 3), dtype=np.uint8)
    image[:, 8:] += 180
    Image.fromarray(image).save(tmp_path / "a.png")
    high_res = np.zeros((1, 12, 15), np.float16)
    high_res[0, :, 9:] = 0.8
    sample = {"file_name": str(tmp_path / "a.png"), "height": 12, "width": 15}
    cam = {"keys": np.array([5]), "high_res": high_res}
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    label = stages.derive_inter_pixel_label(sample, {"cam": cam}, cfg)["label"]
    assert (label[:, 8:] == 6).all()
    assert (label[:, :8] == 0).all()
    cfg.MODEL.IRNET.LABEL.CRF_ITERATIONS = 0
    plain = stages.derive_inter_pixel_label(sample, {"cam": cam}, cfg)["label"]
    assert (plain[:, 9:] == 6).all()
    assert (plain[:, :9] == 0).all()
