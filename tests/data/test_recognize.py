"""What a path is, by what is in it."""

import pytest
from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.recognize import recognize
from wsis.data.user import register_role
from wsis.errors import UsageError

from tests.data.formats.common import H, W, pictures
from tests.data.formats.test_cvat import META, image
from tests.data.formats.test_label_studio import box, task
from tests.data.formats.test_labelme import shape, write
from tests.data.formats.test_via import POLYGON, file, put, region
from tests.data.trees import voc_tree, xml

YAML = "train: train/images\nval: valid/images\nnames: [dog, cat]\n"
BOX = "0 0.5 0.5 0.1 0.1\n"
CVAT = META.format(kind="task", body=image('<polygon label="cat" points="1,2;30,2;30,40"/>'))


def coco(root):
    put(
        root / "annotations" / "a.json",
        {
            "images": [{"id": 1, "file_name": "a.jpg", "width": W, "height": H}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        },
    )


def yolo(root):
    pictures(root, "train/images/b.jpg", "valid/images/c.jpg")
    put(root / "train/labels/b.txt", "1 0.5 0.5 0.1 0.1\n")
    put(root / "valid/labels/c.txt", "1 0.5 0.5 0.1 0.1\n")
    put(root / "data.yaml", YAML)


# For each: what lies beside images/a.jpg, the path to name below the folder, FORMAT and keys.
PATHS = {
    "coco": (coco, "annotations/a.json", "coco", {"IMAGES": "images"}),
    "coco in a folder": (
        lambda root: put(
            root / "_annotations.coco.json",
            {"images": [], "categories": [{"id": 1, "name": "cat"}], "annotations": []},
        ),
        ".",
        "coco",
        {"JSON": "_annotations.coco.json", "IMAGES": "images"},
    ),
    "via": (
        lambda root: put(root / "v.json", file("a.jpg", region(POLYGON, kind="cat"))),
        "v.json",
        "via",
        {"IMAGES": "images"},
    ),
    "via project in a folder": (
        lambda root: put(
            root / "p.json",
            {"_via_settings": {}, "_via_img_metadata": file("a.jpg", region(POLYGON, kind="cat"))},
        ),
        ".",
        "via",
        {"JSON": "p.json", "IMAGES": "images"},
    ),
    "label studio": (
        lambda root: put(root / "s.json", [task(box("cat"))]),
        "s.json",
        "label_studio",
        {"IMAGES": "images"},
    ),
    "labelme": (
        lambda root: write(root / "images/a.json", shape("cat", "point", (1, 1))),
        "images",
        "labelme",
        {"IMAGES": "images"},
    ),
    "labelme beside the folder of images": (
        lambda root: write(root / "labels/a.json", shape("cat", "point", (1, 1))),
        ".",
        "labelme",
        {"IMAGES": "."},
    ),
    "cvat": (lambda root: put(root / "annotations.xml", CVAT), ".", "cvat", {"IMAGES": "images"}),
    "voc's xml beside the images": (
        lambda root: put(root / "images/a.xml", xml(("cat", 1, 1, 3, 3), width=W, height=H)),
        "images",
        "voc",
        {"IMAGES": "images", "ANNOTATIONS": "images"},
    ),
    "voc's xml in a folder": (
        lambda root: put(root / "Annotations/a.xml", xml(("cat", 1, 1, 3, 3), width=W, height=H)),
        ".",
        "voc",
        {"IMAGES": "images", "ANNOTATIONS": "Annotations"},
    ),
    "csv": (lambda root: put(root / "t.csv", "file,tags\na.jpg,cat\n"), "t.csv", "csv", {}),
    "csv in a folder": (
        lambda root: put(root / "t.csv", "file,tags\na.jpg,cat\n"),
        ".",
        "csv",
        {"CSV": "t.csv", "IMAGES": "images"},
    ),
    "yolo": (yolo, ".", "yolo", {"ROOT": ".", "SPLIT": "train"}),
    "yolo's yaml": (yolo, "data.yaml", "yolo", {"ROOT": "data.yaml", "SPLIT": "train"}),
    "yolo without splits": (
        lambda root: [
            put(root / "labels/a.txt", "0 0.5 0.5 0.1 0.1"),
            put(root / "classes.txt", "cat"),
        ],
        ".",
        "yolo",
        {"ROOT": "."},
    ),
    "coco's tree": (
        lambda root: [
            put(root / "annotations/instances_default.json", {"images": []}),
            put(root / "annotations/captions_default.json", {"images": []}),
        ],
        ".",
        "coco",
        {"JSON": "annotations/instances_default.json", "IMAGES": "images"},
    ),
    "coco beside its splits": (
        lambda root: [
            pictures(root, "p/train/a.jpg", "p/val/b.jpg"),
            put(root / "p/annotations/train.json", {"images": []}),
            put(root / "p/annotations/val.json", {"images": []}),
        ],
        "p",
        "coco",
        {"JSON": "p/annotations/train.json", "IMAGES": "p"},
    ),
    "a VOC tree without lists": (
        lambda root: [
            pictures(root, "p/JPEGImages/a.jpg"),
            put(root / "p/Annotations/a.xml", xml(("cat", 1, 1, 3, 3), width=W, height=H)),
        ],
        "p",
        "voc",
        {"ROOT": "p"},
    ),
    "a list beside the folders of lists": (
        lambda root: [
            pictures(root, "p/JPEGImages/a.jpg"),
            put(root / "p/Annotations/a.xml", xml(("cat", 1, 1, 3, 3), width=W, height=H)),
            put(root / "p/ImageSets/train.txt", "a"),
        ],
        "p",
        "voc",
        {"ROOT": "p"},
    ),
    "classes beside a table of something else": (
        lambda root: [pictures(root, "p/cat/b.jpg"), put(root / "p/notes.csv", "day,rain\n1,2\n")],
        "p",
        "folders",
        {"IMAGES": "p"},
    ),
    "classes and the table of their pictures": (
        lambda root: [
            pictures(root, "p/2023/b.jpg"),
            put(root / "p/t.csv", "file,tags\nb.jpg,cat"),
        ],
        "p",
        "csv",
        {"CSV": "p/t.csv"},
    ),
    "splits of classes": (
        lambda root: pictures(root, "p/train/cat/a.jpg", "p/val/cat/b.jpg"),
        "p",
        "folders",
        {"IMAGES": "p/train"},
    ),
    "a split with a coco file in it": (
        lambda root: [
            pictures(root, "p/train/a.jpg"),
            put(root / "p/train/a.json", {"images": []}),
        ],
        "p",
        "coco",
        {"JSON": "p/train/a.json", "IMAGES": "p/train"},
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths(tmp_path, name):
    make, path, kind, keys = PATHS[name]
    make(pictures(tmp_path, "images/a.jpg"))
    entry = recognize(tmp_path / path, "TRAIN")
    assert entry["FORMAT"] == kind
    assert {key: entry[key] for key in keys} == {
        key: value if key == "SPLIT" else str(tmp_path / value) for key, value in keys.items()
    }
    if "coco" in name:
        return
    (found,) = register_role("TRAIN", str(tmp_path / path), stem="mine", source="x")
    assert any(record["image_labels"] for record in get_dataset_dicts(found))
    assert "cat" in class_names(found)


def test_the_role_chooses_the_split(tmp_path):
    yolo(tmp_path)
    for role, split, image_name in (("TRAIN", "train", "b.jpg"), ("VAL", "valid", "c.jpg")):
        entry = recognize(tmp_path, role)
        assert entry["SPLIT"] == split
        (found,) = register_role(role, entry, stem="mine", source="x")
        (record,) = get_dataset_dicts(found)
        assert record["file_name"].endswith(image_name)
    voc_tree(tmp_path / "voc", {"a": {"xml": xml()}}, {"val": ["a"]})
    assert recognize(tmp_path / "voc", "VAL")["SPLIT"] == "val"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.json", [{"image_id": 1, "category_id": 1, "score": 0.5}], "is a list of results"),
        ("a.json", {"version": "5", "flags": {}, "shapes": []}, "is of one image; name its folder"),
        ("a.zip", "PK", "is an archive; unpack it"),
        ("a.txt", "a", "is no COCO JSON, no VOC tree"),
        ("a.xml", "<annotation/>", "is no COCO JSON, no VOC tree"),
    ],
)
def test_files_that_stand_for_no_data_set(tmp_path, name, content, said):
    put(tmp_path / name, content)
    with pytest.raises(UsageError, match=said):
        recognize(tmp_path / name, "TRAIN")


def test_several_files_and_pictures_alone_are_told(tmp_path):
    pictures(tmp_path, "images/a.jpg")
    with pytest.raises(UsageError, match=rf"name the folder around it \({tmp_path}\) if"):
        recognize(tmp_path / "images", "TRAIN")
    put(tmp_path / "b.csv", "a.jpg,x")
    put(tmp_path / "a.csv", "a.jpg,x")
    with pytest.raises(UsageError, match="several files .*; name one of them: a.csv, b.csv$"):
        recognize(tmp_path, "TRAIN")


@pytest.mark.parametrize("names", [["images/a.jpg"], ["images/a.jpg", "masks/a.png"]])
def test_folders_that_are_no_classes(tmp_path, names):
    pictures(tmp_path, *names)
    with pytest.raises(UsageError, match="no class folders"):
        recognize(tmp_path, "TRAIN")


def test_masks_without_pictures_are_no_classes(tmp_path):
    pictures(tmp_path, "SegmentationClass/a.png", "SegmentationObject/a.png")
    assert recognize(tmp_path, "TRAIN")["FORMAT"] == "voc"


def test_wide_text(tmp_path):
    pictures(tmp_path, "a.jpg")
    head = '<?xml version="1.0" encoding="UTF-16"?>'
    text = head + xml(("Bär", 1, 1, 3, 3), width=W, height=H)
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    assert recognize(tmp_path, "TRAIN")["FORMAT"] == "voc"
