"""What is exported is read again as what it was."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.user import register_role
from wsis.layers.run_lengths import encode_mask, polygons_to_rle, rle_iou

from tests.export.labels import (
    BIRD,
    CAT,
    IMAGES,
    call,
    label,
    rectangle,
    ring,
    two_parts,
    write_labels,
)


@pytest.fixture
def register(tmp_path):
    yield lambda value: register_role("TRAIN", value, stem=tmp_path.name, source="test")[0]
    for catalog in (DatasetCatalog, MetadataCatalog):
        if f"{tmp_path.name}_train" in catalog.list():
            catalog.pop(f"{tmp_path.name}_train")


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("kind", ["coco-polygons", "coco-rle", "labelme", "yolo"])
def test_round_trip(tmp_path, register, kind, tolerance):
    for image in IMAGES:
        path = tmp_path / "images" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image["width"], image["height"])).save(path)
    noise = np.random.default_rng(0).random((8, 8)) < 0.5
    truth = {
        "a.png": [("bird", ring()), ("cat", rectangle(7, 0, 29, 40, 1))],
        "b.png": [("cat", two_parts()), ("bird", rectangle(9, 23, 19, 1, 1))],
        "c.png": [("cat", noise)],
    }
    numbers, categories = dict(zip(truth, (7, 9, 12), strict=True)), {"bird": BIRD, "cat": CAT}
    path = write_labels(
        tmp_path / "labels.json",
        *(label(numbers[n], categories[c], m) for n, found in truth.items() for c, m in found),
    )
    output = {"labelme": tmp_path / "images", "yolo": tmp_path}.get(kind, tmp_path / "out.json")
    words = [] if kind == "coco-rle" else ["--tolerance", tolerance]
    assert call(path, "--format", kind, "--output", output, *words) == 0
    name = register(str(tmp_path if kind == "yolo" else output))
    classes = class_names(name)
    records = {r["file_name"].rpartition("/")[2]: r for r in get_dataset_dicts(name)}
    assert records.keys() == truth.keys()
    for image, expected in truth.items():
        found = records[image]["annotations"]
        assert [classes[a["category_id"]] for a in found] == [c for c, _ in expected]
        for annotation, (_, mask) in zip(found, expected, strict=True):
            rle = annotation["segmentation"]
            if isinstance(rle, list):
                rle = polygons_to_rle(rle, mask.shape)
            overlap = rle_iou([rle], [encode_mask(mask)])[0, 0]
            assert overlap > 0.98
            assert overlap == 1 or (tolerance and kind != "coco-rle")
