"""VOC roots: XML, lists, masks, and sentences for what is wrong."""

import pytest
from detectron2.structures import BoxMode
from wsis.data.voc import VOC_CLASSES, load_voc, read_classes, read_list, read_voc_xml
from wsis.errors import DataError

from tests.data.trees import voc_tree, xml

CAT, DOG = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")


def test_twenty_classes():
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_records(tmp_path):
    labels = [[0, 1, 1, 2, 255, 0]] * 4
    images = {
        "b": {
            "xml": xml(("dog", 2, 1, 3, 4), ("cat", 4, 1, 4, 4, 1)),
            "instances": labels,
            "classes": [[0, 12, 12, 8, 255, 0]] * 4,
        },
        "a": {"xml": xml()},
    }
    root = voc_tree(tmp_path, images, {"train": ["b", "a"]})
    first, second = load_voc(root, "train")
    assert (first["image_id"], first["image_key"]) == ("b", "b")
    assert (first["height"], first["width"]) == (4, 6)
    assert first["image_labels"] == sorted([CAT, DOG])
    dog, cat = first["annotations"]
    assert dog["bbox"] == [1, 0, 3, 4]
    assert dog["bbox_mode"] == BoxMode.XYXY_ABS
    assert (dog["category_id"], dog["difficult"]) == (DOG, 0)
    assert (cat["category_id"], cat["difficult"]) == (CAT, 1)
    assert first["instance_file_name"].endswith("SegmentationObject/b.png")
    assert first["semantic_file_name"].endswith("SegmentationClass/b.png")
    assert second["image_labels"] == []
    assert second["annotations"] == []
    assert "instance_file_name" not in second


def test_aug_masks_serve_images_without_voc_masks(tmp_path):
    root = voc_tree(
        tmp_path,
        {"a": {"xml": xml(), "instances": [[0] * 6] * 4}, "b": {"xml": xml()}},
        {"trainaug": ["a", "b"]},
    )
    (root / "SegmentationObjectAug").mkdir()
    for name in "ab":
        (root / "SegmentationObjectAug" / f"{name}.png").touch()
    first, second = load_voc(root, "trainaug")
    assert "SegmentationObject/" in first["instance_file_name"]
    assert "SegmentationObjectAug/" in second["instance_file_name"]


def test_labels_from_the_mask_without_xml(tmp_path):
    images = {"a": {"classes": [[0, 9, 255, 1, 0, 0]] * 4}}
    root = voc_tree(tmp_path, images, {"sem": ["a"]}, suffix=".png")
    (record,) = load_voc(root, "sem")
    assert record["image_labels"] == [0, 8]
    assert (record["height"], record["width"]) == (4, 6)


def test_own_classes_and_main_list(tmp_path):
    root = voc_tree(tmp_path, {"a": {"xml": xml(("wren", 1, 1, 6, 4))}}, {})
    (root / "ImageSets" / "Main").mkdir()
    (root / "ImageSets" / "Main" / "val.txt").write_text("a  1\n\n")
    assert load_voc(root, "val")[0]["image_labels"] == [0]  # that of the XML
    with pytest.raises(DataError, match=r"a\.xml: .*unknown class 'wren'.*classes\.txt"):
        load_voc(root, "val", VOC_CLASSES)
    (root / "classes.txt").write_text("robin\nwren\n")
    assert read_classes(root) == ("robin", "wren")
    assert load_voc(root, "val")[0]["image_labels"] == [1]
    assert load_voc(root, "val", ["wren"])[0]["image_labels"] == [0]


def test_edge_cases_of_real_files(tmp_path):
    """Fractions, empty tags, coordinates from 0, and a size that only the image knows."""
    path = tmp_path / "a.xml"
    path.write_text(
        "<annotation><object><name> cat </name><difficult/><bndbox><xmin>0</xmin><ymin>1.5</ymin>"
        "<xmax>7.25</xmax><ymax>4</ymax></bndbox></object></annotation>"
    )
    root = voc_tree(tmp_path / "voc", {"a": {}}, {})
    size, annotations = read_voc_xml(path, VOC_CLASSES, image=root / "JPEGImages" / "a.jpg")
    assert size == (4, 6)
    assert annotations[0]["bbox"] == [0, 0.5, 6, 4]
    assert annotations[0]["difficult"] == 0
    with pytest.raises(DataError, match="image nowhere does not exist"):
        read_voc_xml(path, VOC_CLASSES, image="nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "readable XML"),
        ("<annotation>", "readable XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>", "document type"),
        (xml(width=-5), "absurd"),
        (xml(width=10**9), "absurd"),
        (xml(width="six"), "width is 'six'"),
        (xml(("cow", 1, 1, "x", 2)), r"annotation 1: bndbox of cow: xmax is 'x', not a number"),
        (xml(("cow", 1, 1, "nan", 2)), "xmax is 'nan'"),
        (xml(("cow", 3, 1, 1, 2)), "bndbox of cow: has no area"),
        (
            xml(("cow", 1, 1, 2, 2), ("cow", 90, 90, 95, 95)),
            r"annotation 2: bndbox of cow.*outside",
        ),
        (xml(("unicorn", 1, 1, 2, 2)), "unknown class 'unicorn'"),
        (xml().replace("</annotation>", "<object/></annotation>"), "unknown class ''"),
    ],
)
def test_bad_xml(tmp_path, text, message):
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_voc_xml(path, VOC_CLASSES, image="nowhere")
    assert "bad.xml" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_entities_are_refused_in_every_encoding(tmp_path, encoding):
    path = tmp_path / "bad.xml"
    head = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "cow">]>'
    path.write_bytes((head + xml(("&b;", 1, 1, 2, 2))).encode(encoding))
    with pytest.raises(DataError, match=r"bad\.xml .*declares a document type"):
        read_voc_xml(path, VOC_CLASSES, image="nowhere")
    path.write_bytes((head[: head.index("<!")] + xml(("cow", 1, 1, 2, 2))).encode(encoding))
    assert len(read_voc_xml(path, VOC_CLASSES, image="nowhere")[1]) == 1


def test_class_names_are_utf_8(tmp_path):
    (tmp_path / "classes.txt").write_bytes("\ufeffvögel\nautos\n".encode())
    assert read_classes(tmp_path) == ("vögel", "autos")
    (tmp_path / "classes.txt").write_bytes("vögel\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt cannot be read .*0xf6.* save it as UTF-8"):
        read_classes(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "names a twice"),
        ([], "is empty"),
        (["../a"], "leaves"),
        (["/a"], "leaves"),
        (["."], "not a file name"),
        (["b"], r"has no b\.\*"),
    ],
)
def test_bad_list(tmp_path, names, message):
    root = voc_tree(tmp_path, {"a": {"xml": xml()}}, {"train": names})
    with pytest.raises(DataError, match=message):
        load_voc(root, "train")


def test_names_may_be_times(tmp_path):
    (tmp_path / "list.txt").write_text("12:30_frame\nsub/a:b\n")
    assert read_list(tmp_path / "list.txt") == ["12:30_frame", "sub/a:b"]


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"train\.txt does not exist"):
        load_voc(tmp_path, "train")
    with pytest.raises(DataError, match=r"prepare_sbd\.py"):
        load_voc(tmp_path, "trainaug")
    root = voc_tree(tmp_path / "v", {"a": {}}, {"train": ["a"]})
    with pytest.raises(DataError, match=r"a\.xml does not exist"):
        load_voc(root, "train")
