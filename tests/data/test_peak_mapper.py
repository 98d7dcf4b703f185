import numpy as np
import pytest
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.mappers import build_mapper
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.errors import DataError
from wsis.layers.regions import Regions


@pytest.fixture
def record(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    return {
        "file_name": str(path),
        "image_key": "a",
        "image_id": 1,
        "height": 30,
        "width": 44,
        "image_labels": [2],
        "annotations": [{"category_id": 2, "bbox": [0, 0, 5, 5]}],
    }


def mapper(products, **keys):
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT = "RGB"
    for name, value in keys.items():
        setattr(cfg.INPUT, name, value)
    return build_mapper(cfg, "PeakImageMapper", is_train=False, products=products)


def test_images_with_proposals_at_the_size_of_the_file(record):
    masks = np.zeros((2, 30, 44), dtype=bool)
    masks[0, 3:9, 4:20] = masks[1, 8:20] = True
    products = {"proposals": {"a": proposals_artifact(by_rank(Regions.from_masks(masks)))}}
    sample = mapper(products, STRETCH=(64, 96))(record)
    assert sample["image"].shape == (3, 64, 96)
    assert (sample["height"], sample["width"]) == (30, 44)
    assert np.array_equal(sample["proposals"].decode(), masks)
    assert sample["image_labels"] == [2]
    assert "annotations" not in sample


def test_without_proposals_and_tags(record):
    del record["image_labels"]
    sample = mapper({}, LONGER_SIDE=88)(record)
    assert sample["image"].shape == (3, 60, 88)
    assert "proposals" not in sample
    assert "image_labels" not in sample


def test_proposals_of_another_image(record):
    regions = Regions.from_masks(np.ones((1, 30, 43), dtype=bool))
    products = {"proposals": {"a": proposals_artifact(by_rank(regions))}}
    with pytest.raises(DataError, match="image a: .*run --from-stage proposals --force"):
        mapper(products)(record)
