"""Result files exactly as the original IRNet writes them are readable."""

import numpy as np
import pytest
from wsis.methods.irnet.original_files import read_irnet_cam, read_irnet_instances

from tests.golden.conftest import assert_close


def test_cam(golden):
    cam = read_irnet_cam(golden.path("irnet_sample_cam.npy"))
    count = len(cam["keys"])
    assert cam["keys"].dtype == np.int64
    assert cam["cam"].dtype == np.float32
    assert cam["cam"].shape[0] == cam["high_res"].shape[0] == count
    assert (np.diff(cam["keys"]) > 0).all()
    assert 0 <= cam["cam"].min() <= cam["cam"].max() <= 1


def test_cam_is_the_one_of_make_cam(golden):
    """Same content as irnet_make_cam."""
    cam = read_irnet_cam(golden.path("irnet_sample_cam.npy"))
    expected = golden.load("irnet_make_cam")
    if cam["high_res"].shape != expected["high_res"].shape:
        pytest.skip("the sample is of another image than irnet_make_cam")
    for name in ("keys", "cam", "high_res"):
        assert_close(cam[name], expected[name], 1e-6, name)


def test_instances(golden):
    found = read_irnet_instances(golden.path("irnet_sample_ins.npy"))
    count = len(found["classes"])
    assert found["masks"].dtype == bool
    assert found["masks"].shape[0] == len(found["scores"]) == count
    assert found["classes"].dtype == np.int64
    assert found["masks"].any(axis=(1, 2)).all()
    assert ((found["scores"] >= 0) & (found["scores"] <= 1)).all()


def test_instances_are_those_of_irnet_instances(golden):
    """Same content as irnet_instances."""
    found = read_irnet_instances(golden.path("irnet_sample_ins.npy"))
    expected = golden.load("irnet_instances")
    shape = tuple(expected["mask_shape"].tolist())
    if found["masks"].shape != shape:
        pytest.skip("the sample is of another image than irnet_instances")
    masks = np.unpackbits(expected["mask_packed"], axis=-1)[..., : shape[-1]].astype(bool)
    np.testing.assert_array_equal(found["masks"], masks)
    np.testing.assert_array_equal(found["classes"], expected["class"])
    assert_close(found["scores"], expected["score64"], 1e-6, "scores")
