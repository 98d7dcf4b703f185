"""VGG Image Annotator's exports and project files."""

import csv
import json

import numpy as np
import pytest
from wsis.data.formats.via import read_via
from wsis.errors import DataError, UsageError

from tests.data.formats.common import area, messages, pictures, read

POLYGON = {"name": "polygon", "all_points_x": [1, 30, 30], "all_points_y": [2, 2, 40]}
FLAT = {"segmentation": [[1, 2, 30, 2, 30, 40]]}


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def file(name, *regions, **attributes):
    about = {"filename": name, "size": 123, "regions": list(regions), "file_attributes": attributes}
    return {f"{name}123": about}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def via(tmp_path, content, **entry):
    put(tmp_path / "via.json", content)
    return read(read_via, JSON=tmp_path / "via.json", IMAGES=tmp_path, **entry)


def test_each_type_of_region(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    shapes = [
        POLYGON,
        {"name": "rect", "x": 10, "y": 20, "width": 40, "height": 40},
        {"name": "circle", "cx": 100, "cy": 50, "r": 10},
        {"name": "ellipse", "cx": 100, "cy": 50, "rx": 20, "ry": 10, "theta": np.pi / 2},
        {"name": "point", "cx": 7, "cy": 8},
        {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]},
    ]
    names = ["cat", "dog", "cat", "dog", "cat", "cat"]
    regions = [region(shape, kind=name) for shape, name in zip(shapes, names, strict=True)]
    found = via(tmp_path, file("a.jpg", *regions) | file("b.jpg"))
    assert [name for _, name, _ in found.objects] == names[:5]
    polygon, box, circle, ellipse, point = [one for _, _, one in found.objects]
    assert (polygon, box, point) == (FLAT, {"bbox": [10, 20, 40, 40]}, {"point": [7, 8]})
    assert area(circle["segmentation"][0]) == pytest.approx(100 * np.pi, rel=1e-3)
    outline = np.reshape(ellipse["segmentation"][0], (-1, 2))  # upright after a quarter turn
    assert np.ptp(outline, axis=0) == pytest.approx([20, 40], rel=1e-3)
    assert [image["file_name"] for image in found.content["images"]] == ["a.jpg", "b.jpg"]
    (warning,) = messages(found.problems)
    assert "region of type polyline, which has no area: 1 left out" in warning


def test_forms_of_the_file(tmp_path):
    pictures(tmp_path, "a.jpg")
    plain = file("a.jpg", region(POLYGON, kind="cat"))
    expected = [("a.jpg", "cat", FLAT)]
    assert via(tmp_path, plain).objects == expected
    project = {"_via_settings": {}, "_via_img_metadata": plain, "_via_attributes": {}}
    assert via(tmp_path, project).objects == expected
    numbered = json.loads(json.dumps(plain))
    numbered["a.jpg123"]["regions"] = {"0": region(POLYGON, kind="cat")}
    assert via(tmp_path, numbered).objects == expected
    with open(tmp_path / "via.csv", "w", newline="") as stream:
        rows = csv.writer(stream)
        parts = ("region_count", "region_id", "region_shape_attributes", "region_attributes")
        rows.writerow(["filename", "file_size", "file_attributes", *parts])
        texts = json.dumps(POLYGON), json.dumps({"kind": "cat"})
        rows.writerow(["a.jpg", 123, "{}", 2, 0, *texts])
        rows.writerow(["a.jpg", 123, "{}", 2, 1, *texts])
    table = read(read_via, JSON=tmp_path / "via.csv", IMAGES=tmp_path)
    assert table.objects == expected * 2


def test_the_attribute_that_names_the_class(tmp_path):
    pictures(tmp_path, "a.jpg")
    sure = {"name": "point", "cx": 7, "cy": 8}

    def classes(*attributes, **entry):
        content = file("a.jpg", *(region(sure, **part) for part in attributes))
        return list(via(tmp_path, content, **entry).classes.values())

    assert classes({}, {}) == ["object"]
    assert classes({"x": "cat", "y": ""}, {"x": "dog"}) == ["cat", "dog"]
    assert classes({"type": "cat", "how": "good"}) == ["cat"]
    assert classes({"type": "cat", "how": "good"}, CLASS_KEY="how") == ["good"]
    assert classes({"x": {"cat": True, "dog": False}}) == ["cat"]
    for entry in ({}, {"CLASS_KEY": "z"}):
        with pytest.raises(UsageError, match=r"Name it with CLASS_KEY, one of 'x', 'y'"):
            classes({"x": "cat", "y": "good"}, **entry)


def test_attributes_of_files_are_tags(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    content = file("a.jpg", kind={"cat": True, "dog": True, "cow": False})
    found = via(tmp_path, content | file("b.jpg", kind="dog", caption=""))
    assert found.tags == {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"]}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"region_attributes": {"kind": "cat"}}, "which has no shape_attributes"),
        (region({"name": "rect", "x": 1}, kind="cat"), "is None, not a number"),
        (region({"name": "star"}, kind="cat"), "is a 'star', which is not read"),
        (region(POLYGON | {"all_points_y": [1]}, kind="cat"), "no all_points_x and all_points_y"),
        (region(POLYGON), "has 0 classes in the attribute 'kind', not one"),
        (region(POLYGON, kind={"cat": True, "dog": True}), "has 2 classes in the attribute"),
        (None, "is None, which has no shape_attributes"),
    ],
)
def test_a_broken_region_is_told_and_the_others_are_read(tmp_path, broken, said):
    pictures(tmp_path, "a.jpg")
    found = via(tmp_path, file("a.jpg", broken, region(POLYGON, kind="cat")))
    assert found.objects == [("a.jpg", "cat", FLAT)]
    (problem,) = found.problems.found
    assert said in problem.message
    assert (problem.image, problem.annotation) == ("a.jpg", 1)


@pytest.mark.parametrize("content", [{}, [], {"project": {}, "file": {}}, {"a": 1}])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(DataError, match="is no file of VIA 2; in VIA choose"):
        via(pictures(tmp_path, "a.jpg"), content)


def test_a_class_may_be_a_number(tmp_path):
    pictures(tmp_path, "a.jpg")
    put(tmp_path / "v.json", file("a.jpg", region(POLYGON, kind=3)))
    found = read(read_via, JSON=tmp_path / "v.json", IMAGES=tmp_path)
    assert [name for _, name, _ in found.objects] == ["3"]
