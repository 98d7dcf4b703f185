"""VOC roots: XML, lists, masks, and sentences for what is wrong."""

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image
from wsis.data.ground_truth import load_ground_truth
from wsis.data.images import read_label_map
from wsis.data.problems import Problems
from wsis.data.voc import VOC_CLASSES, load_flat_voc, load_voc, read_classes, read_list
from wsis.data.voc_xml import read_voc_xml
from wsis.errors import DataError

from tests.data.trees import voc_tree, xml

ONE = [[0, 1, 1, 0, 0, 0]] * 4
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
        ([], "is empty"),
        (["../b"], "leaves"),
        (["/b"], "leaves"),
        (["."], "not a file name"),
        (["b"], r"has no b\.\*"),
    ],
)
def test_bad_list(tmp_path, names, message):
    root = voc_tree(tmp_path, {"a": {"xml": xml()}}, {"train": names})
    with pytest.raises(DataError, match=message):
        load_voc(root, "train")


def test_a_list_costs_only_its_bad_lines(tmp_path):
    root = voc_tree(tmp_path, {"a": {"xml": xml()}, "b": {"xml": xml()}}, {})
    lines = ["/elsewhere/JPEGImages/a.jpg", "..\\b.jpg", "a", "../c", "d"]
    (root / "ImageSets" / "train.txt").write_text("\r\n".join(lines))
    problems = Problems()
    found = load_voc(root, "train", ["cat"], problems)
    assert [record["image_id"] for record in found] == ["a", "b"]
    assert (problems.errors, problems.warnings, problems.left_out) == (2, 1, 3)
    assert "names a twice" in problems.summary("warning")
    with pytest.raises(DataError, match="names a twice"):
        read_list(root / "ImageSets" / "train.txt", {"a": 0, "b": 0})


def test_names_may_be_times(tmp_path):
    (tmp_path / "list.txt").write_text("12:30_frame\nsub/a:b\n")
    assert read_list(tmp_path / "list.txt") == ["12:30_frame", "sub/a:b"]


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"train\.txt does not exist \(nor any other\)"):
        load_voc(tmp_path, "train")
    with pytest.raises(DataError, match=r"prepare_sbd\.py"):
        load_voc(tmp_path, "trainaug")
    root = voc_tree(tmp_path / "v", {"a": {}}, {"train": ["a"]})
    with pytest.raises(
        DataError, match=r"val\.txt does not exist \(there are train\).*leave it out"
    ):
        load_voc(root, "val")
    with pytest.raises(DataError, match=r"a\.xml does not exist"):
        load_voc(root, "train")


def collected(root, split="val", classes=None):
    problems = Problems()
    return load_voc(root, split, classes, problems), problems


def test_what_is_broken_is_left_out(tmp_path):
    objects = xml(("cow", 1, 1, 2, 2), ("cow", 5, 5, 1, 1), ("unicorn", 1, 1, 2, 2))
    images = {"a": {"xml": objects}, "b": {"xml": "<annotation>"}, "c": {}, "d": {"xml": xml()}}
    root = voc_tree(tmp_path, images, {"val": [*images, "e"]})
    records, problems = collected(root, classes=VOC_CLASSES)
    assert [(r["image_id"], len(r["annotations"])) for r in records] == [("a", 1), ("d", 0)]
    found = [(p.image, p.annotation, p.field) for p in problems.found]
    assert found[:2] == [("a", 2, "bndbox"), ("a", 3, "name")]
    assert [image for image, *_ in found[2:]] == ["b", "c", "e"]
    assert (problems.errors, problems.left_out) == (5, 5)


@pytest.mark.parametrize(("width", "height"), [(0, 0), ("", 4), (6, 0)])
def test_labelimg_may_write_no_size(tmp_path, width, height):
    text = xml(("cow", 1, 1, 2, 2), width=width, height=height)
    root = voc_tree(tmp_path, {"a": {"xml": text}}, {"val": ["a"]})
    records, problems = collected(root)
    assert (records[0]["height"], records[0]["width"]) == (4, 6)
    assert not problems.found


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["im 2"], ["im 2"]),
        (["im 1", "im 0"], ["im 1", "im 0"]),  # pictures, not flags
        (["im  1", "im 2 -1"], ["im", "im 2"]),
        (["im 1 1", "im  0"], ["im 1", "im"]),
        (["im.jpg", "im 2.JPG"], ["im", "im 2"]),
        (["JPEGImages/im.jpg"], ["im"]),
        (["v1.5", "im"], ["v1.5", "im"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_in_lists(tmp_path, lines, names, encoding):
    there = dict.fromkeys(["im", "im 0", "im 1", "im 2", "v1.5"], {"xml": xml()})
    root = voc_tree(tmp_path, there, {"val": []})
    text = "".join(f"{line}\r\n" for line in lines)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_bytes(text.encode(encoding))
    assert [record["image_id"] for record in load_voc(root, "val")] == names


def test_a_name_with_a_space_is_never_another_one(tmp_path):
    root = voc_tree(tmp_path, {"im": {"xml": xml()}}, {"val": ["im 2", "im"]})
    with pytest.raises(DataError, match=r"names im 2, but .*JPEGImages has no im 2\.\*"):
        load_voc(root, "val")


@pytest.mark.parametrize("suffix", [".webp", ".Jpg", ".BMP", ".TIF", ".gif", ".JPEG"])
def test_suffixes(tmp_path, suffix):
    root = voc_tree(tmp_path, {"im": {"xml": xml()}}, {"val": ["im"]}, suffix=suffix)
    assert load_voc(root, "val")[0]["file_name"].endswith(f"im{suffix}")


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    root = voc_tree(tmp_path, {"im": {"xml": xml()}}, {"val": ["im"]})
    (root / "JPEGImages" / "im.jpg").rename(root / "JPEGImages" / "im.heic")
    with pytest.raises(DataError, match=r"has im\.heic, which is none of \.jpg, "):
        load_voc(root, "val")


def test_classes_of_the_xml_files_are_told(tmp_path):
    """Those of all splits, so that train and val agree."""
    images = {"a": {"xml": xml(("wren", 1, 1, 2, 2))}, "b": {"xml": xml(("cat", 1, 1, 2, 2))}}
    root = voc_tree(tmp_path, images, {"train": ["a"], "val": ["b"]})
    for split, rank in (("train", 1), ("val", 0)):
        records, problems = collected(root, split)
        assert records[0]["image_labels"] == [rank]
        assert "since no classes.txt names them: cat, wren" in problems.summary("warning")
    (root / "labelmap.txt").write_text("background:0,0,0::\nwren:1,2,3::\ncat:1,2,4::\n")
    records, problems = collected(root, "val")
    assert (records[0]["image_labels"], problems.found) == ([1], [])
    (root / "classes.txt").write_text("cat\nwren\n")
    with pytest.raises(DataError, match=r"labelmap\.txt has the classes \('wren', 'cat'\), the"):
        load_voc(root, "val")
    (root / "labelmap.txt").unlink()
    (root / "classes.txt").write_text("__ignore__\n_background_\nwren\ncat\n")
    assert load_voc(root, "val")[0]["image_labels"] == [1]


def test_masks_need_a_list_of_classes(tmp_path):
    parts = {"xml": xml(("wren", 1, 1, 2, 2)), "classes": [[1] * 6] * 4}
    root = voc_tree(tmp_path, {"a": parts}, {"val": ["a"]})
    with pytest.raises(DataError, match="unknown class 'wren'"):
        load_voc(root, "val")


def test_truth_of_colour_masks(tmp_path):
    """As CVAT writes them."""
    root = voc_tree(tmp_path, {"a": {"xml": xml(("dog", 1, 1, 2, 4))}}, {"val": ["a"]})
    (root / "labelmap.txt").write_text("background:0,0,0::\ncat:9,9,200::\ndog:250,50,83::\n")
    for folder, colour in (
        ("SegmentationClass", (250, 50, 83)),
        ("SegmentationObject", (128, 0, 0)),
    ):
        pixels = np.zeros((4, 6, 3), dtype=np.uint8)
        pixels[:, :2] = colour
        (root / folder).mkdir()
        Image.fromarray(pixels).save(root / folder / "a.png")
    truth = load_ground_truth(load_voc(root, "val")[0])
    assert truth.classes.tolist() == [1]
    assert np.flatnonzero(truth.masks[0][0]).tolist() == [0, 1]
    assert truth.semantic(2)[0].tolist() == [2, 2, 0, 0, 0, 0]


def test_flat_folder(tmp_path):
    images = {"a": {"xml": xml(("wren", 1, 1, 2, 2))}, "b": {}, "c": {"xml": xml()}}
    root = voc_tree(tmp_path / "tree", images, {})
    for path in [*root.glob("JPEGImages/*"), *root.glob("Annotations/*")]:
        path.rename(tmp_path / path.name)
    (tmp_path / "d.xml").write_text(xml())
    problems = Problems()
    records = load_flat_voc(tmp_path, tmp_path, None, problems)
    assert [(r["image_id"], r["image_labels"]) for r in records] == [("a", [0]), ("c", [])]
    assert records[0]["annotations"][0]["bbox"] == [0, 0, 2, 2]
    assert f"d.xml names d, but {tmp_path} has no d.*" in problems.summary("error")
    assert "pictures without XML file: 1 of 3, for example b.jpg" in problems.summary("warning")
    with pytest.raises(DataError, match="tree holds no XML file"):
        load_flat_voc(tmp_path, tmp_path / "tree")


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".PNG"])
def test_masks_of_any_suffix(tmp_path, suffix):
    masks = {"instances": ONE, "classes": ONE}
    root = voc_tree(tmp_path, {"a": {"xml": xml(("cat", 1, 1, 2, 2)), **masks}}, {"train": ["a"]})
    for folder in ("SegmentationObject", "SegmentationClass"):
        path = root / folder / "a.png"
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink(missing_ok=suffix != ".PNG")
    (record,) = load_voc(root, "train", ["cat"])
    assert record["semantic_file_name"].endswith(suffix)
    np.testing.assert_array_equal(read_label_map(record["instance_file_name"]), ONE)


def test_masks_in_jpeg_are_told(tmp_path):
    root = voc_tree(tmp_path, {"a": {}}, {"train": ["a"]})
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.array(ONE, np.uint8)).save(root / "SegmentationClass" / "a.jpg")
    with pytest.raises(DataError, match="JPEG changes the numbers; save it as PNG"):
        load_voc(root, "train", ["cat"])


def test_classes_as_labelme_names_them(tmp_path):
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ncat\n")
    assert read_classes(tmp_path) == ("cat",)
    (tmp_path / "classes.txt").write_text("dog\n")
    assert read_classes(tmp_path) == ("dog",)


def test_xml_of_any_suffix(tmp_path):
    root = voc_tree(tmp_path, {"a": {"xml": xml(("cat", 1, 1, 2, 2))}}, {"train": ["a"]})
    (root / "Annotations" / "a.xml").rename(root / "Annotations" / "a.XML")
    assert len(load_voc(root, "train", ["cat"])[0]["annotations"]) == 1
    (flat,) = load_flat_voc(root / "JPEGImages", root / "Annotations", ["cat"])
    assert flat["image_labels"] == [0]


def test_all_pictures_of_a_tree_without_lists(tmp_path):
    images = {"a": {"xml": xml(("cat", 1, 1, 2, 2))}, "b": {"classes": ONE}, "c": {}}
    root = voc_tree(tmp_path, images, {})
    (root / "class_names.txt").write_text("_background_\ncat\n")
    problems = Problems()
    found = load_voc(root, None, problems=problems)
    assert [(r["image_id"], r["image_labels"]) for r in found] == [("a", [0]), ("b", [0])]
    assert (problems.errors, problems.left_out) == (0, 1)
    assert "pictures without XML file: 1 of 3, for example c.jpg" in problems.summary("warning")
