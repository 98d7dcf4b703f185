"""COCO files of users: complete checks, one sentence each."""

import json

import numpy as np
import pytest
from PIL import Image
from wsis.data.coco import ImageIndex, load_coco_dataset, read_coco
from wsis.errors import DataError


def content(**changes):
    """A sound file: 6 x 4 (width x height), ids that are neither consecutive nor ordered."""
    base = {
        "categories": [{"id": 7, "name": "wren"}, {"id": 3, "name": "robin"}],
        "images": [
            {"id": 9, "file_name": "b.jpg", "width": 6, "height": 4, "image_labels": ["wren"]},
            {"id": 2, "file_name": "sub/a.jpg", "width": 6, "height": 4},
        ],
        "annotations": [
            {"id": 5, "image_id": 9, "category_id": 7, "bbox": [1, 1, 2, 2]},
            {"id": 4, "image_id": 9, "category_id": 7, "point": [2.5, 1]},
            {
                "id": 1,
                "image_id": 2,
                "category_id": 3,
                "segmentation": {"size": [4, 6], "counts": [4, 3, 17]},
                "iscrowd": 1,
                "score": 0.5,
            },
        ],
    }
    return base | changes


def write(tmp_path, value):
    path = tmp_path / "file.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_sound_file(tmp_path):
    file = read_coco(write(tmp_path, content()))
    assert file.class_names == ("robin", "wren")
    assert file.class_ids == {3: 0, 7: 1}
    assert [i["image_id"] for i in file.images] == [2, 9]
    first, second = file.images
    assert "image_labels" not in first
    assert second["image_labels"] == [1]
    crowd = first["annotations"][0]
    assert (crowd["category_id"], crowd["iscrowd"], crowd["score"]) == (0, 1, 0.5)
    assert crowd["bbox"] == [1, 0, 1, 3]  # from the mask: second column, three rows
    box, point = second["annotations"]
    assert box["bbox"] == [1, 1, 2, 2]
    assert point["point"] == [2.5, 1]
    assert "bbox" not in point


def test_labels_from_annotations(tmp_path):
    records, names, _ = load_coco_dataset(write(tmp_path, content()), tmp_path / "images")
    assert [r["image_labels"] for r in records] == [[0], [1]]
    assert records[0]["file_name"] == str(tmp_path / "images" / "sub" / "a.jpg")
    assert names == ("robin", "wren")


def test_tags_only_and_no_labels_at_all(tmp_path):
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 1, "height": 1, "image_labels": [7, "robin"]},
        {"id": 2, "file_name": "b.jpg", "width": 1, "height": 1},
    ]
    value = content(images=images)
    del value["annotations"]
    records, _, _ = load_coco_dataset(write(tmp_path, value), tmp_path)
    assert [r["image_labels"] for r in records] == [[0, 1], []]
    assert [r["annotations"] for r in records] == [[], []]


def test_size_from_the_image(tmp_path):
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(tmp_path / "a.png")
    value = content(images=[{"id": 1, "file_name": "a.png"}], annotations=[])
    records, _, _ = load_coco_dataset(write(tmp_path, value), tmp_path)
    assert (records[0]["height"], records[0]["width"]) == (5, 8)


def test_box_is_clipped_to_the_image(tmp_path):
    annotation = {"id": 1, "image_id": 2, "category_id": 3, "bbox": [-0.5, 1, 9, 2]}
    file = read_coco(write(tmp_path, content(annotations=[annotation])))
    assert file.images[0]["annotations"][0]["bbox"] == [0, 1, 6, 2]


def test_image_ids_are_compared_as_numbers(tmp_path):
    """Some tools write the ids of annotations with a fraction."""
    file = read_coco(write(tmp_path, content(**annotation(image_id=2.0))))
    assert [len(i["annotations"]) for i in file.images if i["image_id"] == 2] == [1]


def image(**changes):
    return {"images": [{"id": 2, "file_name": "a.jpg", "width": 6, "height": 4} | changes]}


def annotation(**changes):
    return {"annotations": [{"id": 1, "image_id": 2, "category_id": 3} | changes]}


def twins(*changes):
    """Two categories of one name, both used."""
    pair = [{"id": i, "name": "wren"} | c for i, c in zip((3, 7), changes, strict=True)]
    return {"categories": pair}


RLE = {"size": [4, 6], "counts": [24]}
CASES = [
    ({"images": None}, "images is None"),
    ({"images": [3]}, "entry 1 of images is 3, not an object"),
    ({"annotations": {}}, "annotations is"),
    ({"categories": []}, "categories is empty"),
    ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "category 1: .*twice"),
    (twins({"supercategory": "x"}, {}), "category 7: name wren occurs twice, with different"),
    ({"categories": [{"id": 2.5, "name": "a"}]}, "category 2.5: id is 2.5"),
    ({"categories": [{"id": 1}]}, "category 1: name"),
    (image(id=2.5), "image 2.5: id is 2.5"),
    ({"annotations": annotation()["annotations"] * 2}, "annotation 1: occurs twice"),
    (
        {"annotations": [{"id": 1, "image_id": 2, "category_id": i} for i in (3, 7)]},
        "annotation 1: id occurs twice; this one counts as 2",
    ),
    ({"images": image()["images"] * 2}, "image 2: occurs twice"),
    (image(id=True), "id is True, not an integer"),
    (image(height=-4), "image 2: height is -4"),
    (image(width=0), "image 2: width is 0"),
    (image(width=6.5), "image 2: width is 6.5"),
    (image(width=None), "image 2: width is None"),
    (image(width=10**9, height=10**9), "image 2: .*absurd"),
    (image(file_name="../../etc/passwd"), "image 2: file_name .*leaves"),
    (image(file_name="/etc/passwd"), "image 2: file_name .*leaves"),
    (image(file_name="a\\..\\..\\b"), "image 2: file_name .*leaves"),
    (image(file_name=""), "image 2: file_name is"),
    (image(file_name="a\0b"), "image 2: file_name is"),
    (image(width=134_000_000, height=1), "image 2: 1 x 134000000 .* is absurd"),
    (image(id=1 << 63), "id is 9223372036854775808, not an integer"),
    (image(file_name="."), r"image 2: file_name is '\.', not a file name"),
    (image(file_name="./"), r"image 2: file_name is '\./', not a file name"),
    (image(file_name=7), "image 2: file_name is 7, not a file name"),
    (image(file_name="C:/a.jpg"), "image 2: file_name .*leaves its folder"),
    (image(image_labels="wren"), "image 2: image_labels is"),
    (image(image_labels=[5]), "image 2: image_labels holds 5"),
    (image(image_labels=[["wren"]]), "image 2: image_labels holds"),
    (
        {"images": [image()["images"][0], image(file_name="b.jpg")["images"][0]]},
        r"image 2: id occurs twice, the other time as 'a\.jpg'",
    ),
    (annotation(id=True), "annotation True: id is True, not an integer"),
    (annotation(image_id=77), "annotation 1: image_id 77 is no image"),
    (annotation(image_id=[2]), "annotation 1: image_id"),
    (annotation(image_id=2.5), "annotation 1: image_id 2.5 is no image"),
    (annotation(image_id=2.0, category_id=4), "image 2, annotation 1: category_id 4"),
    (annotation(category_id=4), "image 2, annotation 1: category_id 4"),
    (annotation(category_id=None), "image 2, annotation 1: category_id is None"),
    (annotation(image_id=9), "image 9, annotation 1: category_id 3 contradicts image_labels"),
    (annotation(iscrowd=2), "annotation 1: iscrowd is 2"),
    (annotation(bbox=[1, 2, 3]), "annotation 1: bbox is .*4 numbers"),
    (annotation(bbox=[1, 2, "3", 4]), "annotation 1: bbox is '3'"),
    (annotation(bbox=[1, 1, 0, 2]), "annotation 1: bbox has no area"),
    (annotation(bbox=[1, 1, -3, 2]), "annotation 1: bbox has no area"),
    (annotation(bbox=[6, 1, 3, 2]), "annotation 1: bbox .*outside"),
    (annotation(bbox=[1, 1, 10**400, 2]), "annotation 1: bbox is absurdly"),
    (annotation(bbox=[1e308] * 4), "annotation 1: bbox .*absurdly far away"),
    (annotation(bbox=[-1, 0, 1e308, 2]), "annotation 1: bbox .*absurdly far away"),
    (annotation(point=[7, 1]), "annotation 1: point .*outside"),
    (annotation(point=3), "annotation 1: point is 3"),
    (annotation(segmentation=[[1, 1, 2, 2]]), "annotation 1: segmentation has a polygon of 4"),
    (annotation(segmentation=[[1] * 7]), "annotation 1: segmentation has a polygon of 7"),
    (annotation(segmentation=[[1, 1, 2, 2, 1e9, 3]]), "annotation 1: segmentation .*far outside"),
    (annotation(segmentation="all"), "annotation 1: segmentation is not an RLE"),
    (annotation(segmentation=RLE | {"size": [6, 4]}), "annotation 1: segmentation has size"),
    (annotation(segmentation=RLE | {"counts": [23]}), "segmentation counts cover 23"),
    (annotation(segmentation=RLE), "segmentation has no area"),
    (annotation(ignore=RLE | {"counts": [1]}), "annotation 1: ignore counts cover 1"),
    (annotation(score="high"), "annotation 1: score is 'high'"),
    (annotation(confidence=1.5), "annotation 1: confidence is 1.5"),
]


@pytest.mark.parametrize(("changes", "message"), CASES)
def test_one_sentence(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        read_coco(write(tmp_path, content(**changes)))
    assert "file.json" in str(caught.value)


def test_outlines_have_a_limit(tmp_path):
    """pycocotools crashed: it lists five points for each pixel that an outline is long."""
    sides = {"width": 4000, "height": 4000}
    zigzag = [float(value) for i in range(1500) for value in (4000 * (i % 2), i)]
    changes = image(**sides) | annotation(segmentation=[zigzag])
    with pytest.raises(
        DataError, match=r"image 2, annotation 1: .* outline of 6.* pixels; 4194304"
    ):
        read_coco(write(tmp_path, content(**changes)))
    changes = image(**sides) | annotation(segmentation=[zigzag[:2000]])
    assert len(read_coco(write(tmp_path, content(**changes))).images) == 1


def test_an_unusually_large_image_is_looked_at(tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    changes = image(file_name="a.png", width=8000, height=8000) | {"annotations": []}
    assert read_coco(write(tmp_path, content(**changes))).images[0]["height"] == 8000
    with pytest.raises(DataError, match=r"a\.png is 6 x 4 .* says 8000 x 8000"):
        read_coco(write(tmp_path, content(**changes)), image_root=tmp_path)
    (tmp_path / "a.png").unlink()  # one that cannot be read is told, or skipped, when it is
    assert len(read_coco(write(tmp_path, content(**changes)), image_root=tmp_path).images) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"images": NaN}', "\xff"])
def test_not_coco(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"file\.json"):
        read_coco(path)


def test_missing(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_coco(tmp_path / "none.json")


def test_nan_box(tmp_path):
    text = json.dumps(content(**annotation(bbox=[1, 1, float("nan"), 2])))
    with pytest.raises(DataError, match="bbox is nan"):
        read_coco(write(tmp_path, text))


def test_index_joins_by_the_end_of_the_path(tmp_path):
    names = ["x/a.jpg", "y/a.jpg", "y/b.jpg"]
    images = [
        {"id": i, "file_name": n, "width": 1, "height": 1} for i, n in enumerate(names, start=1)
    ]
    path = write(tmp_path, content(images=images, annotations=[]))
    index = ImageIndex(path, read_coco(path).images)
    found = {
        n: (index.find({"file_name": f"/d/{n}", "image_id": n}) or {}).get("image_id")
        for n in [*names, "z/b.jpg", "y/c.jpg"]
    }
    assert list(found.values()) == [1, 2, 3, 3, None]
    with pytest.raises(DataError, match="several images"):
        index.find({"file_name": "/d/z/a.jpg", "image_id": "a"})
    assert index.find({"file_name": "/d/z/a.jpg", "image_id": 2})["image_id"] == 2


def test_images_are_found_by_key_then_by_id_and_name(tmp_path):
    size = {"width": 1, "height": 1}
    images = [
        {"id": 1, "file_name": "x/a.jpg", "image_key": "x_a", **size},
        {"id": 2, "file_name": "y/a.jpg", "image_key": "y_a", **size},
    ]
    path = write(tmp_path, content(images=images, annotations=[]))
    index = ImageIndex(path, read_coco(path).images)

    def found(key, name, identity):
        record = {"image_key": key, "file_name": name, "image_id": identity}
        return (index.find(record) or {}).get("image_id")

    assert found("y_a", "/moved/b.jpg", "?") == 2
    assert found("a", "/d/x/a.jpg", 1) == 1
    assert found("a", "/d/x/a.jpg", "a") is None
    assert found("a", "/d/b.jpg", 1) is None
    assert "image_key" not in load_coco_dataset(path, tmp_path)[0][0]
    images[1]["image_key"] = "x_a"
    file = read_coco(write(tmp_path, content(images=images, annotations=[])))
    with pytest.raises(DataError, match="image 2: image_key x_a again"):
        ImageIndex(file.path, file.images)
    images[1]["image_key"] = 5
    with pytest.raises(DataError, match="image 2: image_key is 5, not text"):
        read_coco(write(tmp_path, content(images=images, annotations=[])))
