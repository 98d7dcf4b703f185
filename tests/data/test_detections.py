import json

import pytest
from detectron2.data import MetadataCatalog
from wsis.data.builtin import get_dataset_dicts
from wsis.data.detections import put_detections
from wsis.data.problems import Problems
from wsis.data.user import register_dataset
from wsis.errors import DataError, UsageError

RECORDS = [
    {"image_id": 3, "file_name": "a.jpg", "height": 20, "width": 30, "annotations": [{"id": 1}]},
    {"image_id": 8, "file_name": "b.jpg", "height": 20, "width": 30, "annotations": []},
]
GOOD = {"image_id": 3, "category_id": 7, "bbox": [2, 3, 40, 5.5], "score": 0.9}


@pytest.fixture
def put(tmp_path):
    def function(entries, **options):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(entries))
        return put_detections(RECORDS, path, class_ids={7: 0, 9: 1}, **options)

    return function


def test_boxes_in_place_of_annotations(put):
    low, elsewhere = GOOD | {"score": 0.4}, GOOD | {"image_id": 99}
    other = {"image_id": 3, "category_id": 9, "bbox": [0, 0, 5, 5], "score": 0.5}
    masked = other | {"segmentation": {"size": [20, 30], "counts": "x"}}
    first, second = put([GOOD, low, elsewhere, masked])
    assert [a["bbox"] for a in first["annotations"]] == [[2, 3, 28, 5.5], [0, 0, 5, 5]]
    assert [a["category_id"] for a in first["annotations"]] == [0, 1]
    assert not any("segmentation" in a for a in first["annotations"])
    assert first["image_labels"] == [0, 1]
    assert second["annotations"] == second["image_labels"] == []
    assert RECORDS[0]["annotations"] == [{"id": 1}]
    assert len(put([GOOD, low], min_score=0.3)[0]["annotations"]) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [1, 2, 3]}, "list of 4 numbers"),
        ({"category_id": 1}, "category_id 1 is not among"),
        ({"score": "high"}, "score"),
        ({"image_id": None}, "image_id"),
    ],
)
def test_bad_detections(put, change, words):
    with pytest.raises(DataError, match=words):
        put([GOOD | change])


@pytest.mark.parametrize("box", [[2, 3, 0, 5], [50, 3, 5, 5]])
def test_boxes_without_area_are_left_out(put, box, caplog):
    first, _ = put([GOOD, GOOD | {"bbox": box}])
    assert len(first["annotations"]) == len(put([GOOD])[0]["annotations"]) == 1
    assert "boxes without an area in their image, left out: 1" in caplog.text


def test_not_a_list(put):
    with pytest.raises(DataError, match="not a list of detections"):
        put({"annotations": []})


def test_registered_in_the_config(shapes_root, tmp_path):
    root = shapes_root / "shapes"
    given = json.loads((root / "instances_train.json").read_text())
    found = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.8}
        for a in given["annotations"]
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    entry = {"NAME": "test_detections", "FORMAT": "detections", "IMAGES": str(root / "JPEGImages")}
    entry |= {"JSON": str(root / "instances_train.json")}
    entry |= {"DETECTIONS": str(tmp_path / "found.json"), "MIN_SCORE": 0.7}
    register_dataset(entry)
    records = get_dataset_dicts("test_detections")
    assert sum(len(r["annotations"]) for r in records) == len(found)
    assert MetadataCatalog.get("test_detections").supervision == "box"
    with pytest.raises(UsageError, match="MIN_SCORE is a number from 0 to 1, not 3"):
        register_dataset(entry | {"MIN_SCORE": 3})


def test_bad_detections_are_left_out(put):
    problems = Problems()
    first, _ = put([GOOD | {"bbox": 1}, GOOD, GOOD | {"score": None}], problems=problems)
    assert [a["id"] for a in first["annotations"]] == [2]
    assert [(p.annotation, p.field) for p in problems.found] == [(0, "bbox"), (2, "score")]


@pytest.mark.parametrize("scale", [1, 1 / 30])
def test_boxes_by_their_corners_or_in_shares(put, scale):
    corners = [[x, y, x + 6, y + 4] for x in (12, 20) for y in (9, 14)]
    boxes = [[value * scale for value in box] for box in corners]
    with pytest.raises(
        DataError, match=r"image 3, annotation 0: bbox .*, width, height\] in pixels"
    ):
        put([GOOD | {"bbox": box} for box in boxes])
