"""IRNet's mappers: labels and maps go where their image goes."""

import numpy as np
import pytest
import torch
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.data.mappers import build_mapper
from wsis.errors import DataError

SIZE = (40, 60)


@pytest.fixture
def cfg():
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.CROP_SIDE = 48
    return cfg


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "a1.png"
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    known = {"image_key": "a1", "image_id": 5, "height": SIZE[0], "width": SIZE[1]}
    return known | {"file_name": str(path), "image_labels": [2]}


@pytest.fixture
def products(tmp_path):
    label = np.full(SIZE, 0, dtype=np.uint8)
    label[:, 30:] = 3
    cam = {"keys": np.array([2]), "cam": np.random.default_rng(1).random((1, 10, 15), np.float32)}
    found = {}
    for name, arrays in {"inter_pixel_label": {"label": label}, "cam": cam}.items():
        found[name] = ProductReader(tmp_path / name, name)
        write_artifact(found[name].path("a1"), arrays)
    return found


def run(cfg, name, sample, products, *, is_train=True, seed=0):
    mapper = build_mapper(cfg, name, is_train=is_train, products=products)
    np.random.seed(seed)  # noqa: NPY002
    return mapper(sample)


def test_label_follows_its_image(cfg, sample, products, tmp_path):
    """A picture that is its own label: whatever is drawn, both stay together."""
    values = np.zeros(SIZE, dtype=np.uint8)
    values[:, 24:] = 200
    Image.fromarray(np.repeat(values[:, :, None], 3, axis=2)).save(sample["file_name"])
    write_artifact(products["inter_pixel_label"].path("a1"), {"label": values})
    cfg.MODEL.PIXEL_MEAN = [255.0] * 3
    cfg.INPUT.RESCALE_RANGE = (0.5, 1.5)
    for seed in range(12):
        out = run(cfg, "PixelLabelMapper", sample, products, seed=seed)
        image, label = out["image"][0], out["inter_pixel_label"]
        assert label.dtype == torch.uint8
        assert label.shape == image.shape == (48, 48)
        differ = (image - label.float()).abs() > 60  # bicubic against nearest, at the edge only
        assert int(differ.any(dim=0).sum()) <= 2
        assert torch.equal(image == 255, label == 255)


def test_product_of_the_image(cfg, sample, products):
    out = run(cfg, "ProductImageMapper", sample, products, is_train=False)
    assert out["keys"].tolist() == [2]
    assert np.array_equal(out["cam"], products["cam"]["a1"]["cam"])
    with pytest.raises(DataError, match="run --stage cam first"):
        run(cfg, "ProductImageMapper", dict(sample, image_key="b"), products)


def test_label_of_another_size(cfg, sample, products):
    write_artifact(products["inter_pixel_label"].path("a1"), {"label": np.zeros((3, 3), np.uint8)})
    with pytest.raises(DataError, match="inter-pixel label of a1"):
        run(cfg, "PixelLabelMapper", sample, products)
