"""Masks and pictures are looked into before training."""

import numpy as np
import pytest
from PIL import Image
from wsis.data.inspect_data import (
    inspect_masks,
    inspect_pictures,
    inspect_some_masks,
    require_pictures,
)
from wsis.data.problems import Problems
from wsis.data.voc import load_voc
from wsis.errors import DataError

from tests.data.trees import voc_tree, xml

CLASSES = ("cat", "dog")
CAT, BOTH = xml(("cat", 1, 1, 3, 4)), xml(("cat", 1, 1, 3, 4), ("dog", 4, 1, 6, 4))


def rows(*values):
    """A label map of 4 x 6 whose rows are equal."""
    return np.array([values] * 4, dtype=np.uint8)


def inspect(tmp_path, **parts):
    """Inspect a tree of one image; records and problems."""
    root = voc_tree(tmp_path, {"im": parts}, {"val": ["im"]})
    problems = Problems()
    records = load_voc(root, "val", CLASSES)
    return inspect_masks(records, CLASSES, problems), problems


ONE, NONE, VOID = rows(1, 1, 1, 0, 0, 0), rows(*[0] * 6), rows(255, 255, 255, 0, 0, 0)


@pytest.mark.parametrize(
    ("parts", "level", "message"),
    [
        (
            {"xml": CAT, "classes": ONE * 8},
            "error",
            "im.png has the label 8, but there are 2 class",
        ),
        (
            {"xml": CAT, "classes": VOID},
            "error",
            "im.png is 0 and 255 only, but the XML has objects (1)",
        ),
        (
            {"xml": CAT, "instances": VOID},
            "error",
            "is 0 and 255 only, but the XML has objects (1)",
        ),
        (
            {"xml": BOTH, "classes": ONE},
            "warning",
            "classes are cat in im.png, cat, dog in the XML",
        ),
        ({"xml": BOTH, "classes": NONE}, "warning", "none in im.png, cat, dog in the XML"),
        ({"xml": BOTH, "instances": ONE}, "warning", "objects in im.png: 1, in the XML: 2"),
        ({"xml": CAT, "classes": ONE[:2]}, "error", "is 6 x 2 (width x height) but its image is"),
    ],
)
def test_masks(tmp_path, parts, level, message):
    (record,), problems = inspect(tmp_path, **parts)
    (found,) = problems.found
    assert (found.level, found.image) == (level, "im")
    assert message in str(found)
    masked = {"instance_file_name", "semantic_file_name"} & record.keys()
    assert bool(masked) == (level == "warning")


def test_masks_of_void_only(tmp_path):
    parts = {"xml": xml(), "classes": VOID}
    _, problems = inspect(tmp_path / "all", **parts)
    assert "im.png has no object: it is 255 (void)" in problems.summary("warning")
    assert "every mask (1) is 0 and 255 only; 255 means" in problems.summary("error")
    sound = {"xml": CAT, "classes": ONE}
    root = voc_tree(tmp_path / "one", {"a": parts, "b": sound}, {"val": ["a", "b"]})
    some = Problems()
    inspect_masks(load_voc(root, "val", CLASSES), CLASSES, some)
    assert (some.errors, some.warnings) == (0, 1)


def test_sound_masks(tmp_path):
    (record,), problems = inspect(tmp_path, xml=CAT, classes=ONE, instances=ONE)
    assert not problems.found
    assert "semantic_file_name" in record


def test_a_fault_of_the_whole_set_is_found_from_some(tmp_path):
    parts = {"xml": CAT, "classes": ONE * 8}
    names = [f"im{i}" for i in range(70)]
    root = voc_tree(tmp_path, dict.fromkeys(names, parts), {"val": names})
    problems = Problems()
    records = inspect_some_masks(load_voc(root, "val", CLASSES), CLASSES, problems)
    assert problems.errors == 70
    assert not any("semantic_file_name" in record for record in records)


def test_pictures(tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png"]
    for name, size in zip(names, [(6, 4), (4, 6), (6, 4)], strict=False):
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    records = [
        {"file_name": str(tmp_path / n), "image_id": n, "height": 4, "width": 6} for n in names
    ]
    problems = Problems()
    assert inspect_pictures(records, problems) == records[:1]
    said = [str(problem) for problem in problems.found]
    assert "b.png is 4 x 6 (width x height) but its data set says 6 x 4" in said[0]
    assert "c.png cannot be read" in said[1]
    assert "d.png does not exist" in said[2]


def test_missing_pictures_are_counted(tmp_path, caplog):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    records = [{"file_name": str(tmp_path / f"{n}.png")} for n in "abc"]
    require_pictures(records[:1], "raise")
    message = r"missing images: 2 of 3, for example .*b\.png; .*or set WSIS\.ON_ERROR skip"
    with pytest.raises(DataError, match=message):
        require_pictures(records, "raise")
    require_pictures(records, "skip")
    assert "missing images: 2 of 3" in caplog.text
