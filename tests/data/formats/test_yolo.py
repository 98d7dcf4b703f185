"""YOLO's trees and lines."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsis.data.checks import load_json
from wsis.data.coco import load_coco_dataset
from wsis.data.formats.yolo import _object, read_yolo
from wsis.data.images import read_image_size
from wsis.data.problems import Problems
from wsis.errors import DataError

from tests.data.formats.common import H, W, messages, pictures, read

BOX = "1 0.5 0.5 0.25 0.5\n"  # x 75 to 125, y 25 to 75
SHAPE = {"bbox": [75, 25, 50, 50]}


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_line_of_each_kind(tmp_path):
    pictures(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    lines = "0 0.5 0.5 0.25 0.5\n\n1 0.5 0.5 0.25 0.5 0.9\n2 0 0 0.5 0 0.5 1\n"
    lines += "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n1.0 0 0 0.5 0 0.5 1 0.8\n"
    tree(tmp_path, {"labels/a.txt": lines, "labels/b.txt": "", "classes.txt": "x\ny\nz\n"})
    found = read(read_yolo, ROOT=tmp_path)
    assert found.classes == {0: "x", 1: "y", 2: "z"}
    assert found.objects == [
        ("images/a.jpg", "x", SHAPE),
        ("images/a.jpg", "y", SHAPE),
        ("images/a.jpg", "z", {"segmentation": [[0, 0, 100, 0, 100, 100]]}),
        ("images/a.jpg", "x", {"segmentation": [pytest.approx([20, 10, 40, 10, 40, 20, 20, 20])]}),
        ("images/a.jpg", "y", {"segmentation": [[0, 0, 100, 0, 100, 100]]}),
    ]
    assert [i["file_name"] for i in found.content["images"]] == [f"images/{n}.jpg" for n in "abc"]
    (warning,) = messages(found.problems)
    assert "without a label file, which count as without objects: 1" in warning


YAMLS = {
    "ultralytics": "path: ../x\ntrain: images/train\nval: images/val\nnames:\n  0: x\n  1: y",
    "absolute": "train: /content/x/images/train/\nval: /content/x/images/val\nnames: [x, y]\nnc: 2",
    "list": "train: [images/train]\nval: [images/val]\nnames: ['x', 'y']",
    "file": "train: train.txt\nval: images/val\nnames: [x, y]",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_data_yaml_with_images_above_the_splits(tmp_path, kind):
    pictures(tmp_path, "images/train/a.jpg", "images/val/b.jpg")
    labels = {"labels/train/a.txt": BOX, "labels/val/b.txt": "0 0.5 0.5 1 1"}
    lines = "./images/train/a.jpg\n"
    tree(tmp_path, labels | {"data.yaml": YAMLS[kind], "train.txt": lines})
    assert read(read_yolo, ROOT=tmp_path, SPLIT="train").objects == [
        ("images/train/a.jpg", "y", SHAPE)
    ]
    assert len(read(read_yolo, ROOT=tmp_path, SPLIT="val").objects) == 1
    assert len(read(read_yolo, ROOT=tmp_path).objects) == 2
    with pytest.raises(DataError, match="no image of the split test"):
        read(read_yolo, ROOT=tmp_path, SPLIT="test")


def test_roboflow_names_folders_beside_its_own(tmp_path):
    pictures(tmp_path, "train/images/a.jpg", "valid/images/b.jpg")
    files = {"train/labels/a.txt": BOX, "valid/labels/b.txt": BOX}
    yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [x, y]\n"
    tree(tmp_path, files | {"data.yaml": yaml})
    for split, image in (("train", "train/images/a.jpg"), ("val", "valid/images/b.jpg")):
        assert read(read_yolo, ROOT=tmp_path, SPLIT=split).objects == [(image, "y", SHAPE)]


def test_cvat_and_darknet_name_files_in_a_list(tmp_path):
    pictures(tmp_path, "obj_train_data/a.jpg", "obj_train_data/b.jpg")
    files = {"obj_train_data/a.txt": BOX, "obj_train_data/b.txt": BOX, "obj.names": "x\ny\n"}
    tree(
        tmp_path, files | {"train.txt": "data/obj_train_data/a.jpg\n", "obj.data": "classes = 2\n"}
    )
    found = read(read_yolo, ROOT=tmp_path, SPLIT="train")
    assert found.objects == [("obj_train_data/a.jpg", "y", SHAPE)]


def test_a_list_of_images_that_is_no_text_is_refused(tmp_path):
    tree(pictures(tmp_path, "a.jpg"), {"a.txt": BOX, "classes.txt": "x\ny\n"})
    (tmp_path / "train.txt").write_bytes("vögel.jpg\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"image list .*train\.txt cannot be read .* as UTF-8"):
        read(read_yolo, ROOT=tmp_path, SPLIT="train")


def test_label_files_beside_images_or_in_a_folder_of_their_own(tmp_path):
    pictures(tmp_path, "p/a.jpg", "p/b.png")
    tree(tmp_path, {"p/a.txt": BOX, "p/classes.txt": "x\ny\n", "l/b.txt": BOX})
    assert read(read_yolo, ROOT=tmp_path / "p").objects == [("a.jpg", "y", SHAPE)]
    found = read(read_yolo, IMAGES=tmp_path / "p", LABELS=tmp_path / "l", CLASSES=["u", "v"])
    assert found.objects == [("b.png", "v", SHAPE)]
    found = read(read_yolo, ROOT=tmp_path / "p", CLASSES=["u", "v"])
    assert found.objects == [("a.jpg", "v", SHAPE)]


@pytest.mark.parametrize("folder", ["robo/train", "robo/train/images", "ultra/images/train"])
def test_a_part_of_a_tree_finds_its_labels_and_names(tmp_path, folder):
    pictures(tmp_path, "robo/train/images/a.jpg", "ultra/images/train/a.jpg")
    files = {"robo/train/labels/a.txt": BOX, "ultra/labels/train/a.txt": BOX}
    names = "names: {'0': x, '1': y}"
    tree(tmp_path, files | {"robo/data.yaml": names, "ultra/data.yaml": names})
    ((_, name, shape),) = read(read_yolo, ROOT=tmp_path / folder).objects
    assert (name, shape) == ("y", SHAPE)


def test_the_yaml_file_itself_names_the_folder(tmp_path):
    pictures(tmp_path, "data/birds/images/a.jpg")
    yaml = "path: data/birds\ntrain: images\nnames: {3: wren}\n"
    tree(tmp_path, {"birds.yaml": yaml, "data/birds/labels/a.txt": "3 0.5 0.5 0.25 0.5"})
    found = read(read_yolo, ROOT=tmp_path / "birds.yaml", SPLIT="train")
    assert found.objects == [("images/a.jpg", "wren", SHAPE)]
    assert found.classes == {3: "wren"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.2", "has 4 columns; a box has 5, a polygon 7, 9"),
        ("0 75 25 50 50", "holds 75; shares of width and height are wanted"),
        ("x 0.5 0.5 0.2 0.2", "is 'x 0.5 0.5 0.2 0.2', not numbers"),
        ("0 nan 0.5 0.2 0.2", "not numbers"),
        ("0.5 0.5 0.5 0.2 0.2", "begins with 0.5, not the number of a class"),
        ("-1 0.5 0.5 0.2 0.2", "begins with -1, not the number of a class"),
        ("7 0.5 0.5 0.2 0.2", "'class 7' is none of the classes (x, y)"),
    ],
)
def test_a_broken_line_is_told_and_the_others_are_read(tmp_path, line, said):
    pictures(tmp_path, "a.jpg")
    tree(tmp_path, {"a.txt": f"{line}\n{BOX}", "classes.txt": "x\ny\n"})
    found = read(read_yolo, ROOT=tmp_path)
    assert found.objects == [("a.jpg", "y", SHAPE)]
    (problem,) = found.problems.found
    assert problem.level == "error"
    assert said in problem.message
    assert (problem.file, problem.image) == (str(tmp_path / "a.txt"), "a.jpg")


def test_a_damaged_picture_costs_only_itself(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    tree(tmp_path, {"a.jpg": "no picture", "a.txt": BOX, "b.txt": BOX, "classes.txt": "x\ny\n"})
    problems = Problems()
    records, *_ = read_yolo({"ROOT": str(tmp_path)}, problems).load(problems)
    assert [(Path(r["file_name"]).name, len(r["annotations"])) for r in records] == [("b.jpg", 1)]
    (problem,) = problems.found
    assert problem.file == str(tmp_path / "a.txt")
    assert "a.jpg cannot be read" in problem.message


def test_keypoints_are_left_out_of_a_pose(tmp_path):
    pictures(tmp_path, "a.jpg")
    line = "0 0.5 0.5 0.25 0.5 0.5 0.5 2 0.4 0.4 1"
    tree(tmp_path, {"a.txt": line, "data.yaml": "names: [x]\nkpt_shape: [2, 3]\n"})
    assert read(read_yolo, ROOT=tmp_path).objects == [("a.jpg", "x", SHAPE)]


def test_four_corners_everywhere_may_be_turned_boxes(tmp_path):
    pictures(tmp_path, "a.jpg")
    line = "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n"
    tree(tmp_path, {"a.txt": line * 2, "classes.txt": "x\n"})
    (warning,) = messages(read(read_yolo, ROOT=tmp_path).problems)
    assert "objects, all with 4 corners; turned rectangles count as masks: 2" in warning


def test_without_names_the_numbers_are_the_classes(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    box = "0.5 0.5 0.2 0.2"
    tree(tmp_path, {"a.txt": f"7 {box}\n2 {box}\n", "b.txt": f"7 {box}\n"})
    found = read(read_yolo, ROOT=tmp_path)
    assert found.classes == {2: "2", 7: "7"}
    assert [(name, label) for name, label, _ in found.objects] == [
        ("a.jpg", "7"),
        ("a.jpg", "2"),
        ("b.jpg", "7"),
    ]
    (warning,) = messages(found.problems)
    assert "no class names, so that numbers stand for them; add data.yaml" in warning


def test_labels_of_a_picture_that_is_gone_are_told(tmp_path):
    pictures(tmp_path, "images/a.jpg")
    tree(tmp_path, {"labels/a.txt": BOX, "labels/b.txt": BOX, "classes.txt": "x\ny\n"})
    problems = read(read_yolo, ROOT=tmp_path).problems
    (warning,) = messages(problems)
    assert "label files without a picture: 1, for example b.txt" in warning
    assert problems.left_out == 1


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"classes.txt": "x"}, "none of 1 images has a label file"),
        ({"a.txt": BOX, "data.yaml": "names: {a: 1}"}, "not numbers from 0"),
        ({"a.txt": BOX, "data.yaml": "names: ["}, "is not a readable YAML file"),
    ],
)
def test_what_makes_a_tree_unreadable(tmp_path, files, said):
    tree(pictures(tmp_path, "a.jpg"), files)
    with pytest.raises(DataError, match=said):
        read(read_yolo, ROOT=tmp_path)


shares = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(shares, shares), min_size=3, max_size=9))
def test_polygons_come_back(points):
    fields = [repr(float(value)) for point in points for value in point]
    category, shape = _object(["4", *fields], (H, W), None)
    back = [value / (W, H)[i % 2] for i, value in enumerate(shape["segmentation"][0])]
    assert category == 4
    assert back == pytest.approx([value for point in points for value in point])


def test_real_polygons_equal_those_of_its_coco_file():
    root = Path(os.environ.get("WSIS_DATA", "../shared/data"), "coco128_seg")
    if not root.is_dir():
        pytest.skip("no coco128_seg in WSIS_DATA")
    truth = load_json(root / "instances_train.json")
    names = [category["name"] for category in truth["categories"]]
    problems = Problems()
    entry = {"ROOT": str(root), "CLASSES": names}
    records, classes, _ = read_yolo(entry, problems).load(problems)
    expected, *_ = load_coco_dataset(root / "instances_train.json", root / "images")
    assert list(classes) == names
    assert not problems.errors
    mine = {Path(record["file_name"]).name: record for record in records}
    for record in expected:
        found = mine[Path(record["file_name"]).name]
        assert (found["height"], found["width"]) == read_image_size(record["file_name"])
        pairs = zip(found["annotations"], record["annotations"], strict=True)
        for one, other in pairs:
            assert one["category_id"] == other["category_id"]
            assert one["segmentation"][0] == pytest.approx(other["segmentation"][0], abs=0.02)


@pytest.mark.parametrize("split", ["4294967296", "0.5", "[3, null]", "{a: 1}"])
def test_a_split_that_is_no_path(tmp_path, split):
    tree(
        tmp_path, {"data.yaml": f"names: [cat]\ntrain: {split}\n", "labels/a.txt": "0 .5 .5 .1 .1"}
    )
    pictures(tmp_path, "images/a.jpg")
    with pytest.raises(DataError, match="no image of the split train"):
        read(read_yolo, ROOT=tmp_path, SPLIT="train")


def test_label_files_of_capital_suffix(tmp_path):
    tree(tmp_path, {"classes.txt": "cat", "labels/a.TXT": "0 .5 .5 .1 .1"})
    pictures(tmp_path, "images/a.jpg")
    assert len(read(read_yolo, ROOT=tmp_path).objects) == 1


def test_problems_name_picture_and_line(tmp_path):
    lines = "0 .5 .5 0 .1\n\n0 .5 .5 .1 .1\n9 .5 .5 .1 .1\n"
    tree(tmp_path, {"classes.txt": "cat", "labels/a.txt": f"x\n{lines}"})
    pictures(tmp_path, "images/a.jpg")
    problems = Problems()
    (record,), *_ = read_yolo({"ROOT": str(tmp_path)}, problems).load(problems)
    assert len(record["annotations"]) == 1
    assert {(p.image, p.annotation) for p in problems.found} == {
        ("images/a.jpg", 1),
        ("images/a.jpg", 2),
        ("images/a.jpg", 5),
    }
    assert {p.file for p in problems.found} == {str(tmp_path / "labels/a.txt")}
