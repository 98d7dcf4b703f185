"""IRNet's mappers: labels and maps go where their image goes."""

import numpy as np
import pytest
import torch
from PIL import Image
from wsis.data.artifacts import write_artifact
from wsis.errors import DataError

from tests.data.mapping import SIZE, mapper_config, products_in, run, sample_in


@pytest.fixture
def cfg():
    return mapper_config()


@pytest.fixture
def sample(tmp_path):
    return sample_in(tmp_path)


@pytest.fixture
def products(tmp_path):
    return products_in(tmp_path)


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
