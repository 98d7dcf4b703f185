"""labelme's JSON files."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from wsis.data.formats.labelme import read_labelme
from wsis.errors import DataError
from wsis.layers.run_lengths import decode_rle

from tests.data.formats.common import H, W, area, messages, pictures, read


def shape(label, kind, *points, **more):
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind} | more


def write(path, *shapes, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imageData": None}
    about |= {"imagePath": f"{path.stem}.jpg", "imageHeight": H, "imageWidth": W}
    path.write_text(json.dumps(about | more))


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_each_type_of_shape(tmp_path):
    pictures(tmp_path, "a.jpg")
    mask = np.array([[True, False], [True, True]])
    write(
        tmp_path / "a.json",
        shape("cat", "polygon", (1, 2), (30, 2), (30, 40)),
        shape("dog", "rectangle", (50, 60), (10, 20)),
        shape("dog", "rectangle", (10, 20), (50, 20), (50, 60), (10, 60)),
        shape("cat", "circle", (100, 50), (100, 60)),
        shape("cat", "point", (7, 8)),
        shape("dog", "mask", (4, 5), (5, 6), mask=png(mask)),
        {"label": "cat", "points": [[0, 0], [9, 0], [9, 9]]},
        shape("cat", "linestrip", (1, 1), (5, 5)),
        shape("_background_", "polygon", (1, 2), (30, 2), (30, 40)),
        shape("__void__", "polygon", (1, 2), (30, 2), (30, 40)),
    )
    found = read(read_labelme, IMAGES=tmp_path)
    assert found.classes == {1: "cat", 2: "dog"}
    shapes = [one for _, _, one in found.objects]
    assert [name for _, name, _ in found.objects] == [
        "cat",
        "dog",
        "dog",
        "cat",
        "cat",
        "dog",
        "cat",
    ]
    assert shapes[0] == {"segmentation": [[1, 2, 30, 2, 30, 40]]}
    assert shapes[1] == shapes[2] == {"bbox": [10, 20, 40, 40]}
    circle = shapes[3]["segmentation"][0]
    assert area(circle) == pytest.approx(100 * np.pi, rel=1e-3)
    assert np.hypot(*(np.reshape(circle, (-1, 2)) - (100, 50)).T) == pytest.approx(10)
    assert shapes[4] == {"point": [7, 8]}
    expected = np.zeros((H, W), bool)
    expected[5:7, 4:6] = mask
    assert np.array_equal(decode_rle(shapes[5]["segmentation"]), expected)
    assert shapes[6] == {"segmentation": [[0, 0, 9, 0, 9, 9]]}
    assert found.content["images"] == [
        {"id": "a.jpg", "file_name": "a.jpg", "height": H, "width": W}
    ]
    assert messages(found.problems) == [
        f"warning: {tmp_path.name}: None: shape of type linestrip, which has no area: 1 left out",
        f"warning: {tmp_path.name}: None: object labelled _background_: 1 left out",
        f"warning: {tmp_path.name}: None: object labelled __void__: 1 left out",
    ]


def test_shapes_of_a_group_are_one_object(tmp_path):
    pictures(tmp_path, "a.jpg")
    triangle, other = [(1, 2), (30, 2), (30, 40)], [(50, 2), (60, 2), (60, 40)]
    mask = shape("cat", "mask", (4, 5), (5, 6), mask=png(np.ones((2, 2), bool)), group_id=3)
    write(
        tmp_path / "a.json",
        shape("cat", "polygon", *triangle, group_id=1),
        shape("cat", "polygon", *other, group_id=1),
        shape("dog", "polygon", *other, group_id=1),
        shape("cat", "point", (20, 4), group_id=1),
        shape("cat", "polygon", *other, group_id=None),
        mask,
        shape("cat", "rectangle", (70, 0), (80, 9), group_id=3),
        shape("cat", "rectangle", (90, 0), (99, 9), group_id=3),
        shape("cat", "polygon", (70, 0), (80, 0), (80, 9), (70, 9), group_id=3),
    )
    found = read(read_labelme, IMAGES=tmp_path)
    first, second = [1, 2, 30, 2, 30, 40], [50, 2, 60, 2, 60, 40]
    joined, dog, alone, masks, box = [one for _, _, one in found.objects]
    assert joined == {"segmentation": [first, second], "point": [20, 4]}
    assert dog == alone == {"segmentation": [second]}
    assert masks["bbox"] == [70, 0, 10, 9]
    assert box == {"bbox": [90, 0, 9, 9]}
    assert decode_rle(masks["segmentation"]).sum() == 4 + 90


def test_tags_are_classes_only_where_nothing_else_is(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "a.json", flags={"cat": True, "dog": False, "blurred": True})
    write(tmp_path / "b.json", flags={"dog": True})
    tags = {"a.jpg": ["blurred", "cat"], "b.jpg": ["dog"]}
    assert read(read_labelme, IMAGES=tmp_path).tags == tags
    write(tmp_path / "b.json", shape("cat", "point", (1, 1)), flags={"blurred": True})
    found = read(read_labelme, IMAGES=tmp_path)
    assert found.tags == {"a.jpg": ["cat"], "b.jpg": ["cat"]}
    assert "tag 'blurred', which is no class: 2 left out" in messages(found.problems)[0]


@pytest.mark.parametrize(
    ("image", "label", "stated"),
    [
        ("a.jpg", "labels/a.json", "..\\a.jpg"),
        ("photos/a.jpg", "json/a.json", "../photos/a.jpg"),
        ("a.jpg", "a.json", "C:\\Users\\me\\a.jpg"),
        ("x/a.jpg", "labels/x/a.json", "a.jpg"),
        ("a.png", "a.json", "a.jpg"),
        ("a.jpg", "a.json", "../../../a.jpg"),
    ],
)
def test_the_picture_is_found_from_where_the_json_lies(tmp_path, image, label, stated):
    pictures(tmp_path, image, "y/z/a.jpg" if image.startswith("x/") else "other.jpg")
    write(tmp_path / label, shape("cat", "point", (1, 1)), imagePath=stated)
    found = read(
        read_labelme, IMAGES=tmp_path, LABELS=(tmp_path / label).parents[label.count("/x/")]
    )
    assert found.objects == [(image, "cat", {"point": [1, 1]})]


def test_sizes_that_are_not_stated_and_images_without_a_file(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "a.json", shape("cat", "point", (1, 1)), imageHeight=None, imageWidth=0)
    found = read(read_labelme, IMAGES=tmp_path)
    assert found.content["images"] == [{"id": "a.jpg", "file_name": "a.jpg"}]
    (warning,) = messages(found.problems)
    assert "image without a JSON file (b.jpg, c.jpg): 2 left out" in warning
    assert found.problems.left_out == 2


def test_labels_txt_gives_the_order_of_the_classes(tmp_path):
    pictures(tmp_path, "a.jpg")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    write(tmp_path / "a.json", shape("cat", "point", (1, 1)), shape("cow", "point", (1, 1)))
    found = read(read_labelme, IMAGES=tmp_path)
    assert found.classes == {1: "dog", 2: "cat"}
    assert messages(found.problems) == [
        "error: a.json: a.jpg: 'cow' is none of the classes (dog, cat)"
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (shape("cat", "circle", (1, 1)), "is a 'circle' of 1 points, which is not read"),
        (shape("cat", "polygon", (1, "x")), "is 'x', not a number"),
        (shape("cat", "polygon"), "has the points [], not a list of [x, y]"),
        (shape("", "point", (1, 1)), "label is '', which is no class name"),
        (shape(None, "point", (1, 1)), "label is None"),
        (shape("cat", "mask", (0, 0), (1, 1)), "has the mask None, which is no PNG in base64"),
        (shape("cat", "mask", (0, 0), mask="****"), "has a mask that is no base64"),
        (shape("cat", "mask", (0, 0), mask="AAAA"), "its mask cannot be read (it is none of"),
        (
            shape("cat", "mask", (W - 1, 0), mask=png(np.ones((2, 2), bool))),
            f"has a mask of 2 x 2 at ({W - 1}, 0), beyond its image of {W} x {H}",
        ),
        (
            shape("cat", "mask", (0, 0), mask=png(np.ones((H + 1, 2), bool))),
            "pixels are more than its image has",
        ),
        (7, "is 7, not a shape"),
    ],
)
def test_a_broken_shape_is_told_and_the_others_are_read(tmp_path, broken, said):
    pictures(tmp_path, "a.jpg")
    write(tmp_path / "a.json", broken, shape("cat", "point", (1, 1)))
    found = read(read_labelme, IMAGES=tmp_path)
    assert found.objects == [("a.jpg", "cat", {"point": [1, 1]})]
    (problem,) = found.problems.found
    assert said in problem.message
    assert (problem.level, problem.annotation) == ("error", 1)


def test_broken_and_foreign_files_cost_only_themselves(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "a.json", shape("cat", "point", (1, 1)))
    write(tmp_path / "gone.json", shape("cat", "point", (1, 1)))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.json", imagePath="a.jpg")
    found = read(read_labelme, IMAGES=tmp_path)
    assert len(found.objects) == 1
    said = "\n".join(messages(found.problems))
    assert "b.json is not a readable JSON file" in said
    assert "warning: config.json: None: is no file of labelme and was passed over" in said
    assert "error: gone.json: gone.jpg: file_name 'gone.jpg' is not in" in said


def test_no_file_at_all(tmp_path):
    with pytest.raises(DataError, match="has no JSON file of labelme"):
        read(read_labelme, IMAGES=pictures(tmp_path, "a.jpg"))


def test_labels_without_their_pictures(tmp_path):
    """As tools/export.py writes them to a folder of their own."""
    pictures(tmp_path / "photos", "a.jpg")
    square = shape("cat", "polygon", (1, 2), (30, 2), (30, 40))
    write(tmp_path / "labels" / "a.json", square, imagePath="../photos/a.jpg")
    with pytest.raises(DataError, match=r"labels has none of the pictures.* LABELS: .*labels}"):
        read(read_labelme, IMAGES=tmp_path / "labels")
    found = read(read_labelme, IMAGES=tmp_path / "photos", LABELS=tmp_path / "labels")
    assert [name for _, name, _ in found.objects] == ["cat"]


def test_renamed_together_with_its_picture(tmp_path):
    pictures(tmp_path, "b.jpg")
    write(tmp_path / "b.json", shape("cat", "point", (1, 1)), imagePath="..\\x\\old.jpg")
    found = read(read_labelme, IMAGES=tmp_path)
    assert found.objects == [("b.jpg", "cat", {"point": [1, 1]})]
    (problem,) = found.problems.found
    assert "called as their JSON" in problem.message
