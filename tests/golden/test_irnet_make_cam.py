import re

import numpy as np
import pytest
import torch
from wsis.data.transforms import resize_image, scaled_size
from wsis.modeling.image_classifier import fuse_cams

from tests.golden.conftest import assert_close
from tests.golden.test_irnet_cam_forward import build_camnet, camnet_cfg, to_tensor


@pytest.fixture(scope="module")
def scales(arrays):
    """Suffixes in the order of the file, and their numbers."""
    found = [re.fullmatch(r"out_(\d+)p(\d+)", name) for name in arrays]
    return {m.group(0)[4:]: float(f"{m.group(1)}.{m.group(2)}") for m in found if m}


def test_resizing(arrays, scales):
    image = arrays["image"]
    for suffix, scale in scales.items():
        size = scaled_size(image.shape[:2], scale)
        assert np.array_equal(resize_image(image, size), arrays[f"img_{suffix}"]), suffix


def test_keys(arrays):
    assert np.flatnonzero(arrays["label"]).tolist() == arrays["keys"].tolist()


def test_fusion_of_stored_maps(arrays, scales):
    maps = [torch.from_numpy(arrays[f"out_{suffix}"]) for suffix in scales]
    size = arrays["image"].shape[:2]
    cam, high_res = fuse_cams(maps, size, torch.from_numpy(arrays["keys"]))
    assert_close(cam, arrays["cam"], 1e-6, "cam")
    assert_close(high_res, arrays["high_res"], 1e-6, "high_res")


def test_from_the_image(golden, arrays, scales):
    model = build_camnet(camnet_cfg(len(arrays["label"])), golden.weights(arrays)).eval()
    height, width = arrays["image"].shape[:2]
    sizes = [scaled_size((height, width), scale) for scale in scales.values()]
    sample = {
        "images": [to_tensor(resize_image(arrays["image"], size)) for size in sizes],
        "image_labels": np.flatnonzero(arrays["label"]).tolist(),
        "height": height,
        "width": width,
    }
    with torch.no_grad():
        found = model([sample])[0]
    assert found["keys"].tolist() == arrays["keys"].tolist()
    assert_close(found["cam"], arrays["cam"], 1e-4, "cam")
    assert_close(found["high_res"], arrays["high_res"], 1e-4, "high_res")
