"""Masks go into the COCO file that they came from, and nothing else in it changes."""

import copy
import json

import pytest
from wsis.layers.run_lengths import encode_mask, polygons_to_rle

from tests.export.labels import BIRD, CAT, call, label, rectangle, two_parts, write_labels


def boxes_of_a_tool():
    """What an annotation tool wrote, with all that is its own."""
    own = {"attributes": {"occluded": False, "rotation": 0.0}, "segmentation": [], "area": 120.0}
    around = [[15, 2, 23, 2, 23, 18, 15, 18]]
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "Zoë", "year": ""},
        "categories": [
            {"id": 11, "name": "cat", "supercategory": ""},
            {"id": 2, "name": "bird", "supercategory": ""},
            {"id": 1, "name": "dog", "supercategory": ""},
        ],
        "images": [
            {"id": 9, "file_name": "sub\\b.png", "height": 20, "width": 24, "flickr_url": ""},
            {"id": 7, "file_name": "a.png", "height": 30, "width": 40, "date_captured": 0},
        ],
        "annotations": [
            {"id": 100, "image_id": 7, "category_id": 2, "bbox": [2, 3, 10, 12], "iscrowd": 0}
            | own,
            {"id": 101, "image_id": 7, "category_id": 2, "bbox": [20.25, 3, 10, 12], "track": "x"},
            {"id": 102, "image_id": 7, "category_id": 11, "bbox": [2, 3, 10, 12]} | own,
            {
                "id": 90,
                "image_id": 9,
                "category_id": 11,
                "bbox": [0, 0, 6, 6],
                "segmentation": [[0, 0, 6, 0, 3, 6]],
            },
            {"id": 91, "image_id": 9, "category_id": 2, "bbox": [0, 0, 20, 20], "iscrowd": 1},
            {
                "id": 92,
                "image_id": 9,
                "category_id": 2,
                "bbox": [15, 2, 8, 16],
                "segmentation": around,
            },
        ],
        "videos": None,
    }


def apart(content):
    """The annotations by id without mask and area, and all else."""
    content = copy.deepcopy(content)
    annotations = {a.pop("id"): a for a in content.pop("annotations", [])}
    masks = {i: (a.pop("segmentation", []), a.pop("area", None)) for i, a in annotations.items()}
    return content, annotations, masks


def merge(tmp_path, content, labels, *words, kind="coco-polygons"):
    source, output = tmp_path / "input.json", tmp_path / "output.json"
    source.write_text(json.dumps(content))
    assert call(labels, "--merge", source, "--format", kind, "--output", output, *words) == 0
    return json.loads(output.read_text())


@pytest.mark.parametrize("kind", ["coco-polygons", "coco-rle"])
def test_boxes_get_their_masks_and_nothing_else_changes(tmp_path, capsys, kind):
    content = boxes_of_a_tool()
    path = write_labels(
        tmp_path / "labels.json",
        label(9, BIRD, rectangle(9, 16, 4, 6, 12), bbox=[15, 2, 8, 16]),
        label(7, BIRD, rectangle(7, 22, 5, 6, 6), bbox=[20.25, 3.0, 10.0, 12.0]),
        label(7, BIRD, rectangle(7, 3, 5, 7, 6), 0.1, bbox=[2, 3, 10, 12]),
        label(7, BIRD, rectangle(7, 0, 20, 5, 5)),
        label(9, CAT, rectangle(9, 0, 0, 6, 6)),
        label(12, CAT, rectangle(12, 0, 0, 6, 6)),
    )
    merged = merge(tmp_path, content, path, kind=kind)
    assert list(merged) == list(content)
    (rest, annotations, masks), (old_rest, old, old_masks) = apart(merged), apart(content)
    assert (rest, annotations) == (old_rest, old)
    assert [a["id"] for a in merged["annotations"]] == [a["id"] for a in content["annotations"]]
    expected = {
        100: rectangle(7, 3, 5, 7, 6),
        101: rectangle(7, 22, 5, 6, 6),
        92: rectangle(9, 16, 4, 6, 12),
    }
    for identity, (segmentation, area) in masks.items():
        if identity not in expected:
            assert (segmentation, area) == old_masks[identity]
            continue
        mask = expected[identity]
        rle = polygons_to_rle(segmentation, mask.shape) if kind == "coco-polygons" else segmentation
        assert (rle, area) == (encode_mask(mask), mask.sum())
    told = capsys.readouterr().out
    assert "3 annotations got a mask" in told
    assert "1 annotations keep the mask that they had" in told
    assert "1 annotations have no mask (first: " in told
    assert "1 labels are left out: no annotation of their class" in told
    assert "1 labels are left out: the file lacks their image or their class" in told


def test_points_get_the_mask_that_holds_them(tmp_path):
    """Two masks hold the first point, one of them the second, too."""
    content = boxes_of_a_tool()
    content["annotations"] = [
        {"id": 1, "image_id": 7, "category_id": 2, "point": [5.5, 5.5]},
        {"id": 2, "image_id": 7, "category_id": 2, "point": [30, 30]},
        {"id": 3, "image_id": 7, "category_id": 11, "point": [5, 5]},
    ]
    wide, narrow = rectangle(7, 2, 2, 38, 28), rectangle(7, 3, 3, 6, 6)
    path = write_labels(tmp_path / "labels.json", label(7, BIRD, wide), label(7, BIRD, narrow, 0.5))
    merged = merge(tmp_path, content, path)
    first, second, third = merged["annotations"]
    assert third == content["annotations"][2]
    assert (first["area"], second["area"]) == (narrow.sum(), wide.sum())
    assert first["bbox"] == [3, 3, 6, 6]
    assert first["point"] == [5.5, 5.5]


@pytest.mark.parametrize("missing", ["none", "all", "geometry"])
def test_tags_get_new_annotations(tmp_path, capsys, missing):
    content = boxes_of_a_tool()
    content["images"][0]["image_labels"] = ["bird"]
    content["annotations"] = [{"id": 40, "image_id": 7, "category_id": 2, "bbox": [0, 0, 3, 3]}]
    if missing == "geometry":
        content["annotations"].append({"id": "50", "image_id": 9, "category_id": 11})
    if missing == "all":
        content["images"], kept = content["images"][:1], content.pop("annotations")
        assert kept
    path = write_labels(
        tmp_path / "labels.json",
        label(9, CAT, two_parts()),
        label(9, BIRD, rectangle(9, 3, 3, 4, 4)),
    )
    merged = merge(tmp_path, content, path)
    new = [a for a in merged["annotations"] if a["image_id"] == 9][-2:]
    first = {"none": 41, "all": 1, "geometry": 51}[missing]
    assert [(a["id"], a["category_id"]) for a in new] == [(first, 11), (first + 1, 2)]
    assert new[1] == {
        "id": first + 1,
        "image_id": 9,
        "category_id": 2,
        "iscrowd": 0,
        "segmentation": new[1]["segmentation"],
        "area": 16,
        "bbox": [3, 3, 4, 4],
    }
    assert merged["annotations"][:-2] == content.get("annotations", [])
    assert "2 labels are new annotations" in capsys.readouterr().out


def test_strange_annotations_of_the_input_stay(tmp_path):
    content = boxes_of_a_tool()
    content["annotations"] = [
        {"id": None, "image_id": 7, "category_id": 2, "bbox": "none", "segmentation": {}},
        {"id": "a", "image_id": 7.0, "category_id": "2", "bbox": [2, 3, 10, 12]},
        {"id": 1 << 70, "image_id": [7], "bbox": [2, 3, -1, 12], "point": [1]},
        {},
    ]
    path = write_labels(tmp_path / "labels.json", label(7, BIRD, rectangle(7, 2, 3, 10, 12)))
    merged = merge(tmp_path, content, path)
    found = merged.pop("annotations")
    assert (found[0], *found[2:]) == (content["annotations"][0], *content["annotations"][2:])
    assert found[1].items() >= content.pop("annotations")[1].items()
    assert found[1]["area"] == 120
    assert merged == content


def one_image(*annotations, **more):
    content = boxes_of_a_tool() | more
    entries = [{"image_id": 7, "category_id": 2, "bbox": [2, 3, 10, 12]} | a for a in annotations]
    return content | {"annotations": [{"id": i} | a for i, a in enumerate(entries, start=1)]}


def test_a_poor_match_takes_nothing_from_a_good_one(tmp_path):
    """0.54 + 0.45 is more than 0.90 + 0.07; but below 0.5 there is no match."""
    content = one_image({"bbox": [0, 0, 20, 10]}, {"bbox": [7, 0, 20, 10]})
    first, second = rectangle(7, 1, 0, 20, 10), rectangle(7, 0, 0, 9, 10)
    path = write_labels(tmp_path / "labels.json", label(7, BIRD, first), label(7, BIRD, second))
    merged = merge(tmp_path, content, path, kind="coco-rle")["annotations"]
    assert [a.get("segmentation") for a in merged] == [encode_mask(first), None]


BOX = [2, 3, 12, 3, 12, 15, 2, 15]
PAIRS = [BOX[i : i + 2] for i in range(0, 8, 2)]
TRIANGLE = [2, 3, 12, 3, 12, 15]


@pytest.mark.parametrize(
    ("segmentation", "is_mask"),
    [
        *((nothing, False) for nothing in ([], None, {}, "", [[]], [[1, 2]], [[1, 2, 3, 4]])),
        *((box, False) for box in (BOX, [BOX], [[*BOX, 2, 3]], PAIRS, [PAIRS], [BOX, []])),
        *((own, True) for own in ([TRIANGLE], TRIANGLE, [BOX, TRIANGLE], [TRIANGLE, [1, 2]])),
        *((own, True) for own in (PAIRS[:3], [PAIRS[:3]], [{"size": [30, 40], "counts": [1200]}])),
        *((strange, True) for strange in ("mask", [["x"]], [[None] * 6])),
    ],
)
def test_only_a_mask_of_its_own_is_kept(tmp_path, capsys, segmentation, is_mask):
    content = one_image({"segmentation": segmentation})
    mask = rectangle(7, 3, 4, 5, 5)
    labels = write_labels(tmp_path / "labels.json", label(7, BIRD, mask, bbox=[2, 3, 10, 12]))
    (merged,) = merge(tmp_path, content, labels, kind="coco-rle")["annotations"]
    assert merged["segmentation"] == (segmentation if is_mask else encode_mask(mask))
    assert ("leave --merge out" in capsys.readouterr().out) == is_mask


@pytest.mark.parametrize("name", ["A.PNG", "C:\\images\\a.Png", "old/a.png"])
def test_images_are_found_in_other_letter_case_and_folders(tmp_path, name):
    """As a data set finds the picture."""
    content = one_image({}, images=[{"id": 7, "file_name": name, "height": 30, "width": 40}])
    mask = rectangle(7, 2, 3, 10, 12)
    merged = merge(tmp_path, content, write_labels(tmp_path / "labels.json", label(7, BIRD, mask)))
    assert merged["annotations"][0]["area"] == 120
    assert merged["images"] == content["images"]


def test_null_instead_of_annotations_is_none(tmp_path):
    labels = write_labels(tmp_path / "labels.json", label(7, BIRD, rectangle(7, 2, 3, 10, 12)))
    merged = merge(tmp_path, boxes_of_a_tool() | {"annotations": None}, labels)
    assert [a["id"] for a in merged["annotations"]] == [1]
