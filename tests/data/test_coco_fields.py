"""What is unusual in a COCO file and can only mean one thing is read; the rest is collected."""

import json

import pytest
from PIL import Image
from wsis.data.coco import check_content, load_coco_dataset, read_coco
from wsis.data.coco_fields import read_categories
from wsis.data.problems import Problems
from wsis.errors import DataError
from wsis.layers.run_lengths import polygons_to_rle

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
RLE = polygons_to_rle([SQUARE], (60, 80))


def content(annotation=None, image=None, **changes):
    """One cat, 20 x 20 pixels in a picture of 80 x 60; a value of None takes a key away."""
    found = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400}
    picture = {"id": 1, "file_name": "a.png", "width": 80, "height": 60}
    found |= {"segmentation": [SQUARE], "iscrowd": 0} | (annotation or {})
    return {
        "categories": [{"id": 1, "name": "cat"}],
        "images": [{k: v for k, v in (picture | (image or {})).items() if v is not None}],
        "annotations": [{k: v for k, v in found.items() if v is not None}],
    } | changes


@pytest.fixture
def load(tmp_path):
    """A function from the content of a file to dataset dicts, class names, ids and problems."""
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")

    def function(value, encoding="utf-8"):
        path = tmp_path / "a.json"
        path.write_bytes(json.dumps(value).encode(encoding))
        problems = Problems()
        return *load_coco_dataset(path, tmp_path, problems), problems

    return function


def the_cat(records):
    ((one,),) = (record["annotations"] for record in records)
    return one


QUIET = [
    {"ignore": 0},
    {"ignore": False, "iscrowd": False},
    {"ignore": "false", "iscrowd": "False"},
    {"ignore": {}},
    {"iscrowd": None, "area": None},
    {"id": None},
    {"id": "7", "image_id": "1", "category_id": "1"},
    {"image_id": 1.0, "category_id": 1.0, "id": 4.0},
    {"segmentation": SQUARE},
    {"segmentation": [[[10, 10], [30, 10], [30, 30], [10, 30]]]},
    {"segmentation": [[10, 10], [30, 10], [30, 30], [10, 30]]},
    {"segmentation": RLE},
    {"segmentation": [RLE]},
    {"bbox": None},
    {"bbox": []},
    *({"segmentation": empty} for empty in (None, [], {}, [[]])),
]


@pytest.mark.parametrize("change", QUIET)
def test_read_as_it_is_meant(load, change):
    records, names, ids, problems = load(content(change))
    one = the_cat(records)
    assert (one["bbox"], one["iscrowd"], one["category_id"]) == ([10, 10, 20, 20], 0, 0)
    assert (names, ids) == (("cat",), {1: 0})
    assert records[0]["image_labels"] == [0]
    assert not problems.found
    mask = one.get("segmentation")
    assert (mask is None) == (change.get("segmentation", RLE) in (None, [], {}, [[]]))
    assert mask in (None, RLE, [SQUARE])


@pytest.mark.parametrize("key", ["ignore", "ignore_mask"])
def test_pixels_that_train_nothing(load, key):
    """Files that were made before the key had its own name are still read."""
    assert the_cat(load(content({key: RLE}))[0])["ignore_mask"] == RLE
    assert the_cat(load(content({key: RLE}))[0])["iscrowd"] == 0


@pytest.mark.parametrize("value", [1, True, 1.0, "1"])
def test_ignored_objects_are_crowds(load, value):
    other = content()["annotations"][0] | {"id": 2}
    file = content({"ignore": value})
    records, *_, problems = load(file | {"annotations": [*file["annotations"], other]})
    assert [a["iscrowd"] for a in records[0]["annotations"]] == [1, 0]
    assert not problems.found


def test_ids_may_be_words(load):
    change = {"image_id": "a", "category_id": "wren", "id": "x"}
    file = content(change, {"id": "a"}, categories=[{"id": "wren", "name": "bird"}])
    records, names, ids, problems = load(file)
    assert (records[0]["image_id"], names, ids) == ("a", ("bird",), {"wren": 0})
    assert the_cat(records)["id"] == "x"
    assert not problems.found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark(load, encoding):
    assert len(load(content(), encoding)[0]) == 1


@pytest.mark.parametrize(
    "size",
    [
        {"width": None},
        {"height": None},
        {"width": None, "height": None},
        {"width": 0, "height": 0},
        {"width": 80.0, "height": "60"},
    ],
)
def test_sizes(load, size):
    records, *_, problems = load(content(image=size))
    assert (records[0]["height"], records[0]["width"]) == (60, 80)
    assert not problems.found


WARNED = [
    ({"segmentation": [SQUARE, [33, 33]]}, "beside good ones, left out: 1", 1),
    (
        {"segmentation": [[5, 5, 6, 6], SQUARE, []]},
        "polygons of less than 6 numbers beside good ones, left out: 2",
        2,
    ),
    ({"bbox": [0, 0, 0, 0]}, "bbox is 0, 0, 0, 0: that of the mask is taken", 0),
]


@pytest.mark.parametrize(("change", "message", "left_out"), WARNED)
def test_odd_parts_are_left_out(load, change, message, left_out):
    records, *_, problems = load(content(change))
    assert the_cat(records)["segmentation"] == [SQUARE]
    assert the_cat(records)["bbox"] == [10, 10, 20, 20]
    assert (problems.warnings, problems.errors, problems.left_out) == (1, 0, left_out)
    (found,) = problems.found
    assert message in str(found)
    assert (found.image, found.annotation) == (1, 1)
    assert found.file.endswith("a.json")


def test_roboflow_writes_a_root_category(load):
    root = {"id": 0, "name": "cat", "supercategory": "none"}
    cat = {"id": 1, "name": "cat", "supercategory": "cat"}
    _, names, ids, problems = load(content(categories=[root, cat]))
    assert (names, ids) == (("cat",), {1: 0})
    assert "category 0 (cat) is the supercategory of others and has no annotation" in str(
        problems.found[0]
    )
    named = [root | {"name": "pets"}, cat | {"supercategory": "pets"}]
    assert load(content(categories=named))[1] == ("cat",)
    used = content({"category_id": 0}, categories=named)
    assert load(used)[1] == ("pets", "cat")
    alone = [*named, {"id": 5, "name": "dog", "supercategory": "pets"}]  # no root: a class
    assert load(content(categories=alone))[1] == ("cat", "dog")
    tagged = content(image={"image_labels": ["pets", "cat"]}, categories=named)
    assert load(tagged)[1] == ("pets", "cat")
    labelme = [{"id": 0, "name": "_background_", "supercategory": None}, {"id": 1, "name": "cat"}]
    assert load(content(categories=labelme))[1] == ("cat",)


def test_two_categories_of_one_name(load):
    pair = [{"id": 3, "name": "cat"}, {"id": 1, "name": "cat"}]
    other = content({"id": 2, "category_id": 3})["annotations"]
    file = content(categories=pair)
    _, names, ids, problems = load(file)
    assert (names, ids) == (("cat",), {1: 0})
    assert "category 3 (cat) is the name of another category" in str(problems.found[0])
    both = file | {"annotations": file["annotations"] + other}
    records, names, ids, problems = load(both)
    assert (names, ids) == (("cat",), {1: 0, 3: 0})
    assert [a["category_id"] for a in records[0]["annotations"]] == [0, 0]
    assert "categories 1 and 3 are both cat: read as one class" in problems.summary("warning")
    pair[0]["supercategory"] = "car"
    with pytest.raises(DataError, match="name cat occurs twice, with different supercategories"):
        load(both)


def test_ids_that_occur_twice_get_another(load):
    file = content()
    second = file["annotations"][0] | {"bbox": [10, 10, 20, 10], "segmentation": None}
    records, *_, problems = load(file | {"annotations": [file["annotations"][0], second, second]})
    assert [a["id"] for a in records[0]["annotations"]] == [1, 2, 3]
    assert problems.warnings == 2
    twice = file | {"annotations": file["annotations"] * 2, "images": file["images"] * 2}
    records, *_, problems = load(twice)
    assert len(the_cat(records)) > 0
    assert (problems.warnings, problems.left_out) == (2, 2)


def test_annotations_without_ids_are_named_by_their_place(load):
    bad = content({"id": None, "bbox": [1, 2]})["annotations"]
    records, *_, problems = load(content({"id": None}) | {"annotations": [*bad, *bad]})
    assert [(p.annotation, p.image, p.field) for p in problems.found] == [
        (1, 1, "bbox"),
        (2, 1, "bbox"),
    ]
    assert records[0]["annotations"] == []


def test_all_faults_are_told_and_the_rest_serves(load):
    faults = [
        {"image_id": 9},
        {"category_id": 8},
        {"bbox": [10, 10, -5, 5]},
        {"segmentation": [[1, 1, 2, 2]]},
        {"segmentation": [[float("nan")] * 6]},
        {"score": "high"},
        {"iscrowd": 5},
        {"id": {}},
        {"image_id": 2},  # of an image that is left out: not told once more
    ]
    found = [content({"id": i} | f)["annotations"][0] for i, f in enumerate(faults, start=2)]
    file = content()
    bad = file["images"][0] | {"id": 2, "width": -3}
    good = file["annotations"][0]
    file |= {"annotations": [*found, good], "images": [*file["images"], bad, {"id": 3}]}
    records, *_, problems = load(file)
    assert the_cat(records)["id"] == 1
    assert (problems.errors, problems.warnings, problems.left_out) == (10, 0, 11)
    assert [p.field for p in problems.found] == [
        *("width", "file_name", "image_id", "category_id", "bbox"),
        *("segmentation", "segmentation", "score", "iscrowd", "id"),
    ]
    assert [p.image for p in problems.found][:3] == [2, 3, None]
    with pytest.raises(DataError, match=r"10 problems; correct them.*\n.*image 2: width is -3"):
        problems.raise_errors("correct them")


def test_entries_that_are_no_objects(load):
    file = content()
    file["annotations"] = [None, *file["annotations"], [3]]
    records, *_, problems = load(file)
    assert the_cat(records)["id"] == 1
    assert "entry 1 of annotations is None, not an object" in str(problems.found[0])
    assert problems.left_out == 2


def test_an_id_of_two_images_tells_nothing(load):
    file = content()
    file["images"].append(file["images"][0] | {"file_name": "b.png"})
    records, *_, problems = load(file)
    assert list(records) == []
    assert "image 1: id occurs twice, the other time as 'a.png'" in problems.summary("error")
    assert problems.left_out == 2


def test_one_thousand_faults(load):
    bad = [content({"id": i, "bbox": [i, 1, 0, 1]})["annotations"][0] for i in range(1000)]
    records, *_, problems = load(content(annotations=bad))
    assert (problems.errors, problems.left_out, len(records)) == (1000, 1000, 1)
    assert problems.summary("error").endswith("... and 980 more")


def test_each_image_may_have_a_file_of_its_own():
    problems = Problems()
    file = content({"bbox": [1], "id": None})
    check_content(file, "labels", problems, sources={1: "labels/a.txt"})
    assert str(problems.found[0]).startswith("labels/a.txt: image 1, annotation 1: bbox is [1]")


def test_files_of_ones_own_are_read_strictly(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content(WARNED[0][0])))
    with pytest.raises(DataError, match="beside good ones, left out: 1; correct the file"):
        read_coco(tmp_path / "a.json")


def test_a_class_may_be_called_by_a_number():
    names = read_categories([{"id": 1, "name": 7}], set, Problems(), "f")
    assert names == {1: "7"}
