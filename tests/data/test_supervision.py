"""Nothing beyond the level of supervision passes, whatever the dict holds."""

import copy

import pytest
from wsis.data.problems import Problems
from wsis.data.supervision import SUPERVISIONS, require_supervision, restrict_supervision
from wsis.errors import UsageError

RECORD = {
    "file_name": "a.jpg",
    "image_id": 1,
    "image_key": "a",
    "height": 4,
    "width": 6,
    "image_labels": [0, 1],
    "instance_file_name": "i.png",
    "semantic_file_name": "s.png",
    "pan_seg_file_name": "p.png",
    "annotations": [
        {
            "category_id": 0,
            "iscrowd": 0,
            "point": [1, 2],
            "bbox": [0, 0, 2, 2],
            "bbox_mode": 0,
            "segmentation": [[0, 0, 2, 0, 2, 2]],
            "keypoints": [1, 2, 2],
            "difficult": 0,
        },
        {"category_id": 1, "bbox": [1, 1, 2, 2], "bbox_mode": 0},
        {"category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2]]},
    ],
}


def leaves(value):
    """All keys at any depth."""
    if isinstance(value, dict):
        return set(value) | {k for v in value.values() for k in leaves(v)}
    if isinstance(value, list):
        return {k for v in value for k in leaves(v)}
    return set()


FORBIDDEN = {
    "image": {"annotations", "point", "bbox", "segmentation", "keypoints", "instance_file_name"},
    "point": {"bbox", "segmentation", "keypoints", "instance_file_name", "semantic_file_name"},
    "box": {"segmentation", "keypoints", "instance_file_name", "semantic_file_name"},
    "mask": set(),
}


@pytest.mark.parametrize("level", SUPERVISIONS)
def test_removed_and_kept(level):
    before = copy.deepcopy(RECORD)
    result = restrict_supervision(RECORD, level)
    assert before == RECORD
    assert not leaves(result) & FORBIDDEN[level]
    assert result["image_labels"] == [0, 1]
    count = {"image": None, "point": 1, "box": 2, "mask": 3}[level]
    assert len(result.get("annotations", ())) == (count or 0)
    if level != "mask":
        assert "pan_seg_file_name" not in result


@pytest.mark.parametrize("level", SUPERVISIONS)
def test_nothing_is_shared(level):
    record = copy.deepcopy(RECORD)
    result = restrict_supervision(record, level)
    result["image_labels"].append(9)
    for annotation in result.get("annotations", ()):
        for value in annotation.values():
            if isinstance(value, list):
                value.clear()
    assert record == RECORD


def test_unknown_level():
    with pytest.raises(UsageError, match="image, point, box, mask, not 'scribble'"):
        restrict_supervision(RECORD, "scribble")


def test_promise_is_checked():
    full = {"id": 9, "bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 0, 1, 1]]}
    records = [{"image_id": 5, "annotations": [{"id": 8, "bbox": [0, 0, 1, 1]}, full]}]
    problems = Problems()
    for level in ("box", "image"):
        require_supervision(records, level, "f.json", problems)
    assert not problems.found
    require_supervision(records, "mask", "f.json", problems)
    assert problems.summary("error").startswith(
        "f.json: image 5, annotation 8: no segmentation, but SUPERVISION is mask"
    )
    assert records[0]["annotations"] == [full]
    require_supervision(records, "point", "f.json", problems)
    assert problems.found[-1].field == "point"
    assert (records[0]["annotations"], problems.errors, problems.left_out) == ([], 2, 2)


@pytest.mark.parametrize("level", ["point", "box", "mask"])
def test_promised_annotations_of_which_there_is_none(level):
    problems = Problems()
    require_supervision([{"image_id": 1, "annotations": []}], "image", "f.json", problems)
    assert not problems.errors
    require_supervision([{"image_id": 1, "annotations": []}], level, "f.json", problems)
    assert f"no image has an annotation, but SUPERVISION is {level}" in problems.summary("error")
