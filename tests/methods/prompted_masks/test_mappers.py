"""Images with their prompts, in pixels of the size at which the network sees them."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.mappers import build_mapper
from wsis.errors import DataError


def prompts_of(kind, record, *, max_pixels=0, products=None):
    cfg = get_wsis_cfg()
    cfg.INPUT.MAX_PIXELS, cfg.MODEL.PROMPTED_MASKS.PROMPTS = max_pixels, kind
    mapper = build_mapper(cfg, "PromptMapper", is_train=False, products=products or {})
    return mapper(record)


@pytest.fixture
def record(tmp_path):
    """A grey picture of 40 x 60 pixels with two objects and a crowd."""
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(40, 60)).save(path)
    xyxy = {"bbox_mode": BoxMode.XYXY_ABS}
    annotations = [
        {"bbox": [4.5, 2.0, 20.2, 12.0], "point": [8.0, 3.0], "category_id": 2, **xyxy},
        {"bbox": [0, 0, 60, 40], "point": [1.0, 1.0], "category_id": 0, "iscrowd": 1, **xyxy},
        {"bbox": [30, 10, 30, 20], "category_id": 1, "segmentation": [[1, 2, 3]], **xyxy},
        {"point": [60.0, 40.0], "category_id": 3},
    ]
    names = {"file_name": str(path), "image_key": "a", "image_id": 1, "height": 40, "width": 60}
    return names | {"annotations": annotations, "image_labels": [1, 2, 3]}


def test_boxes(record):
    sample = prompts_of("boxes", record)
    assert sample["image"].shape == (3, 40, 60)
    found = sample["prompts"]
    # a box without width is the pixel in which it lies
    assert found.boxes.tolist() == [[4.5, 2, 20.2, 12], [30, 10, 31, 20]]
    assert found.whole_boxes.tolist() == [[4, 2, 21, 12], [30, 10, 31, 20]]
    assert found.gt_classes.tolist() == [2, 1]
    assert "annotations" not in sample
    assert "image_labels" not in sample


def test_points(record):
    found = prompts_of("points", record)["prompts"]
    assert found.points.tolist() == [[8, 3], [60, 40]]
    assert found.gt_classes.tolist() == [2, 3]
    without = record | {"annotations": []}
    with pytest.raises(DataError, match="has tags but no points; add a point to each object"):
        prompts_of("points", without)
    del without["image_labels"]
    assert len(prompts_of("points", without)["prompts"]) == 0


def peaks(places):
    places = np.array(places, dtype=np.float32).reshape(-1, 2)
    rows = np.array([[k, 0, 0] for k in range(len(places))], dtype=np.int64).reshape(-1, 3)
    values = np.arange(len(places), dtype=np.float32)
    return {"class_peaks": {"a": {"peaks": rows, "peak_places": places, "peak_values": values}}}


def test_peaks(record):
    found = prompts_of("peaks", record, products=peaks([(0.25, 0.5), (1.0, 0.0)]))["prompts"]
    assert found.points.tolist() == [[30, 10], [0, 40]]
    assert found.gt_classes.tolist() == [0, 1]
    assert found.peak_values.tolist() == [0, 1]
    assert len(prompts_of("peaks", record, products=peaks([]))["prompts"]) == 0


def test_prompts_follow_an_image_that_is_made_smaller(record):
    options = {"max_pixels": 600}  # half of each side
    sample = prompts_of("boxes", record, **options)
    assert sample["image"].shape == (3, 20, 30)
    np.testing.assert_allclose(sample["prompts"].boxes[0], [2.25, 1, 10.1, 6])
    assert sample["prompts"].whole_boxes[0].tolist() == [2, 1, 11, 6]
    assert prompts_of("points", record, **options)["prompts"].points[1].tolist() == [30, 20]
    found = prompts_of("peaks", record, products=peaks([(0.25, 0.5)]), **options)["prompts"]
    assert found.points.tolist() == [[15, 5]]
