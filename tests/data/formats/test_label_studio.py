"""Label Studio's JSON and JSON-MIN."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsis.data.formats.label_studio import _brush, read_label_studio
from wsis.errors import DataError
from wsis.layers.run_lengths import decode_rle

from tests.data.formats.common import H, W, area, messages, pictures, read

BOX = {"x": 5, "y": 20, "width": 20, "height": 40, "rotation": 0}  # percent
SHAPE = {"bbox": [10, 20, 40, 40]}


def result(kind, value, label=None, **more):
    value = value | ({kind: [label]} if label else {})
    about = {"id": "x1", "from_name": "label", "to_name": "image", "type": kind, "value": value}
    return about | {"original_width": W, "original_height": H, "image_rotation": 0} | more


def box(label="cat", **more):
    return result("rectanglelabels", BOX, label, **more)


def task(*results, image="/data/upload/1/0a1b2c3d-a.jpg", number=7, **more):
    annotation = {"id": 1, "result": list(results), "was_cancelled": False}
    found = {"id": number, "data": {"image": image}, "annotations": [annotation]}
    return found | {"predictions": []} | more


def studio(tmp_path, *tasks):
    (tmp_path / "s.json").write_text(json.dumps(list(tasks)))
    return read(read_label_studio, JSON=tmp_path / "s.json", IMAGES=tmp_path)


def pack(mask, sizes=(2, 3, 7, 15)):
    """A mask (H, W) as the tool stores it, with runs of both kinds."""
    values = np.repeat(np.where(mask, 255, 0).ravel(), 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size:04b}" for size in sizes)
    done = 0
    while done < len(values):
        length = 1
        while done + length < len(values) and values[done + length] == values[done]:
            length += 1
        length = min(length, 1 << (sizes[3] + 1))
        if length > 3:
            bits += f"111{length - 1:0{sizes[3] + 1}b}{values[done]:08b}"
        else:
            bits += f"000{length - 1:0{sizes[0] + 1}b}" + f"{values[done]:08b}" * length
        done += length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_each_type_of_region(tmp_path):
    pictures(tmp_path, "a.jpg")
    mask = np.zeros((H, W), bool)
    mask[10:20, 30:50] = True
    points = {"points": [[0.5, 2], [15, 2], [15, 40]], "closed": True}
    brush = {"format": "rle", "rle": pack(mask)}
    results = [
        box(id="1"),
        result("polygonlabels", points, "dog", id="2"),
        result("ellipselabels", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10}, "cat", id="3"),
        result("keypointlabels", {"x": 3.5, "y": 8, "width": 0.4}, "dog", id="4"),
        result("brushlabels", brush, "cat", id="5"),
        result("rectangle", BOX, id="6"),  # a shape, and its label in a result of its own
        result("labels", BOX, "dog", id="6"),
        result("rectangle", BOX, id="7"),
        {"id": "8", "type": "relation", "value": {}, "from_id": "1", "to_id": "2"},
    ]
    found = studio(tmp_path, task(*results))
    assert [name for _, name, _ in found.objects] == ["cat", "dog", "cat", "dog", "cat", "dog"]
    first, polygon, ellipse, point, mask_of, pair = [one for _, _, one in found.objects]
    assert first == pair == SHAPE
    assert polygon == {"segmentation": [[1, 2, 30, 2, 30, 40]]}
    assert area(ellipse["segmentation"][0]) == pytest.approx(np.pi * 20 * 10, rel=1e-3)
    assert point == {"point": [7, 8]}
    assert np.array_equal(decode_rle(mask_of["segmentation"]), mask)
    assert found.content["images"] == [{"id": 7, "file_name": "a.jpg", "height": H, "width": W}]
    assert [m.rpartition("None: ")[2] for m in messages(found.problems)] == [
        "region without a label: 1 left out",
        "result that is no shape: 1 left out",
    ]


def test_a_turned_rectangle_turns_about_its_upper_left_corner(tmp_path):
    pictures(tmp_path, "a.jpg")
    value = {"x": 50, "y": 10, "width": 20, "height": 10, "rotation": 90}  # 40 x 10 pixels
    found = studio(tmp_path, task(result("rectanglelabels", value, "cat")))
    ((_, _, shape),) = found.objects
    expected = [100, 10, 100, 50, 90, 50, 90, 10]
    assert shape["segmentation"][0] == pytest.approx(expected)
    assert "turned rectangles, which count as masks: 1" in messages(found.problems)[0]


@pytest.mark.parametrize(
    ("file", "link"),
    [
        ("a.jpg", "/data/upload/1/0a1b2c3d-a.jpg"),
        ("0a1b2c3d-a.jpg", "/data/upload/1/0a1b2c3d-a.jpg"),
        ("birds/a b.jpg", "/data/local-files/?d=home/me/birds/a%20b.jpg"),
        ("a b.jpg", "s3://bucket/some/a%20b.jpg"),
        ("a.jpg", "https://host.org/x/a.jpg?token=3&b=a.png"),
        ("a.jpg", "C:\\photos\\a.jpg"),
    ],
)
def test_names_of_pictures(tmp_path, file, link):
    pictures(tmp_path, file, "0.jpg")
    assert studio(tmp_path, task(box(), image=link)).objects == [(file, "cat", SHAPE)]
    other = task(box()) | {"data": {"id": "a1", "photo": link}}
    assert studio(tmp_path, other).objects == [(file, "cat", SHAPE)]


def test_the_first_annotation_that_is_done_counts(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    made = [
        {"result": [box("cow")], "was_cancelled": True},
        {"result": [box("cat")], "was_cancelled": False},
        {"result": [box("dog")], "was_cancelled": False},
    ]
    tasks = [
        task(annotations=made),
        task(number=8, image="b.jpg", annotations=[], predictions=[{"result": [box()]}]),
        task(number=9, image="c.jpg"),
    ]
    found = studio(tmp_path, *tasks)
    assert found.objects == [("a.jpg", "cat", SHAPE)]
    assert [image["id"] for image in found.content["images"]] == [7, 9]
    assert [m.rpartition("None: ")[2] for m in messages(found.problems)] == [
        "task without a finished annotation: 1 left out",
        "further annotations of a task, of which the first counts: 1",
    ]
    old = task(box())
    old["completions"] = old.pop("annotations")
    assert studio(tmp_path, old).objects == found.objects


def test_choices_are_tags(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    choice = {"from_name": "what", "type": "choices", "value": {"choices": ["cat", "dog"]}}
    found = studio(tmp_path, task(choice), task(number=8, image="b.jpg"))
    assert found.tags == {"a.jpg": ["cat", "dog"]}
    assert found.classes == {1: "cat", 2: "dog"}
    mixed = studio(tmp_path, task(choice), task(box("dog"), number=8, image="b.jpg"))
    assert mixed.classes == {1: "dog"}
    assert mixed.tags == {"a.jpg": ["dog"]}


def test_json_min(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    end = {"annotator": 1, "annotation_id": 2, "created_at": "2021", "lead_time": 4.2}
    sized = {"original_width": W, "original_height": H}
    shapes = [BOX | sized | {"rectanglelabels": ["cat"]}, BOX | {"rectanglelabels": ["dog"]}]
    first = {"image": "/data/upload/1/0a1b2c3d-a.jpg", "id": 7, "label": shapes} | end
    found = studio(tmp_path, first, first | {"annotator": 2})
    assert found.objects == [("a.jpg", "cat", SHAPE), ("a.jpg", "dog", SHAPE)]
    assert "further annotations of a task" in messages(found.problems)[0]
    found = studio(
        tmp_path,
        {"image": "a.jpg", "place": "Rome", "id": 1, "kind": "cat"} | end,
        {"image": "b.jpg", "place": "Rome", "id": 2, "kind": {"choices": ["cat", "dog"]}} | end,
        {"image": "c.jpg", "place": "Rome", "id": 3} | end,
    )
    assert found.tags == {"a.jpg": ["cat"], "b.jpg": ["cat", "dog"]}
    assert len(found.content["images"]) == 3


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (box() | {"value": 3}, "has the value 3, not a set of keys"),
        (box() | {"value": BOX | {"x": "1", "rectanglelabels": ["cat"]}}, "is '1', not a number"),
        (result("brushlabels", {"format": "rle", "rle": [0] * 7}, "cat"), "has an rle of 0 pixels"),
        (result("brushlabels", {"format": "rle", "rle": [1]}, "cat"), "an rle that ends too early"),
        (result("brushlabels", {"format": "rle", "rle": [300]}, "cat"), "not a list of bytes"),
        (result("polygonlabels", {"points": [[1]]}, "cat"), "not a list of 2 numbers"),
        (box(original_width=10**6, original_height=10**6), "is absurd"),
    ],
)
def test_a_broken_region_is_told(tmp_path, broken, said):
    pictures(tmp_path, "a.jpg")
    found = studio(tmp_path, task(broken))
    assert not found.objects
    (problem,) = found.problems.found
    assert said in problem.message
    assert (problem.image, problem.annotation) == ("a.jpg", 1)


@pytest.mark.parametrize("content", ["{}", "[1]", "nothing"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match="is no"):
        read(read_label_studio, JSON=tmp_path / "s.json", IMAGES=tmp_path)


@given(st.lists(st.booleans(), min_size=24, max_size=24))
def test_brush_masks_come_back(values):
    mask = np.reshape(values, (4, 6))
    assert np.array_equal(_brush(pack(mask), (4, 6)), mask)
