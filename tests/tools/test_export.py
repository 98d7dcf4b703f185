"""tools/export.py: labels out and back, and into the file that they came from."""

import copy
import json

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO
from wsis.data.files import write_json
from wsis.layers.run_lengths import decode_rle, encode_mask, polygons_to_rle, rle_box, rle_iou

from tests.scripts import main_of
from tests.tools.runs import SIZES, Run, masks_of

export = main_of("tools/export.py")
BIRD, CAT = {"id": 3, "name": "bird"}, {"id": 5, "name": "cat"}
IMAGES = [
    {"id": 7, "file_name": "a.png", "height": 30, "width": 40},
    {"id": 9, "file_name": "sub/b.png", "height": 20, "width": 24},
    {"id": 12, "file_name": "c.png", "height": 8, "width": 8},
]
SIZE = {image["id"]: (image["height"], image["width"]) for image in IMAGES}


def rectangle(image, x, y, width, height):
    mask = np.zeros(SIZE[image], dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def label(image, category, mask, score=0.9, **more):
    rle = encode_mask(mask)
    entry = {"image_id": image, "category_id": category["id"], "iscrowd": 0, "bbox": rle_box(rle)}
    return entry | {"area": int(mask.sum()), "segmentation": rle, "score": score} | more


def write_labels(path, *labels, images=IMAGES, categories=(BIRD, CAT)):
    entries = [{"id": number} | entry for number, entry in enumerate(labels, start=1)]
    content = {"info": {}, "images": images, "categories": list(categories)}
    write_json(path, content | {"annotations": entries})
    return path


def ring():
    mask = rectangle(7, 4, 4, 20, 16)
    mask[8:14, 9:20] = False
    return mask


def two_parts():
    return rectangle(9, 0, 0, 5, 4) | rectangle(9, 10, 6, 14, 14)


@pytest.fixture
def labels(tmp_path):
    return write_labels(
        tmp_path / "labels.json",
        label(7, BIRD, ring()),
        label(9, CAT, two_parts(), 0.4),
        label(9, BIRD, rectangle(9, 3, 3, 1, 1), 0.2),
        label(9, CAT, rectangle(9, 0, 0, 0, 0), bbox=[1.5, 2.0, 6.0, 7.0]),
    )


def call(*words):
    return export([str(word) for word in words])


def iou(a, b):
    return rle_iou([encode_mask(a)], [encode_mask(b)])[0, 0]


@pytest.mark.parametrize("kind", ["coco-polygons", "coco-rle"])
def test_coco(labels, tmp_path, kind, capsys):
    output = tmp_path / "new" / "out.json"
    assert call(labels, "--format", kind, "--output", output) == 0
    coco = COCO(output)
    assert [coco.cats[i]["name"] for i in coco.getCatIds()] == ["bird", "cat"]
    assert coco.imgs[9] == IMAGES[1]
    for annotation, mask in zip(coco.dataset["annotations"], (ring(), two_parts()), strict=False):
        assert iou(coco.annToMask(annotation).astype(bool), mask) == 1
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == rle_box(encode_mask(mask))
    empty = coco.anns[4]
    assert (empty["bbox"], "segmentation" in empty) == ([1.5, 2.0, 6.0, 7.0], False)
    assert [a["category_id"] for a in coco.dataset["annotations"]] == [3, 5, 3, 5]
    told = capsys.readouterr().out
    assert "4 objects of 2 classes in 3 images" in told
    if kind == "coco-polygons":
        assert "3 masks as 4 polygons" in told
        assert "1 masks have several parts" in told
        assert "1 holes are cut open" in told
        assert "1 labels are a box without a mask: they are boxes" in told
        sides = [len(p) for a in coco.dataset["annotations"][:3] for p in a["segmentation"]]
        assert sides == [20, 8, 8, 8]  # the ring: 4 + 4 corners, and 2 once more


def test_min_score(labels, tmp_path, capsys):
    output = tmp_path / "out.json"
    assert call(labels, "--format", "coco-rle", "--output", output, "--min-score", "0.4") == 0
    assert [a["score"] for a in COCO(output).dataset["annotations"]] == [0.9, 0.4, 0.9]
    assert "1 score too low" in capsys.readouterr().out


def test_labelme(labels, tmp_path, capsys):
    folder = tmp_path / "out"
    assert call(labels, "--format", "labelme", "--output", folder) == 0
    content = json.loads((folder / "sub" / "b.json").read_text())
    assert (content["imageHeight"], content["imageWidth"]) == (20, 24)
    assert (content["imagePath"], content["imageData"]) == ("b.png", None)
    shapes = content["shapes"]
    assert [s["label"] for s in shapes] == ["cat", "cat", "bird", "cat"]
    assert [s["group_id"] for s in shapes] == [1, 1, None, None]
    assert [s["shape_type"] for s in shapes] == ["polygon"] * 3 + ["rectangle"]
    assert shapes[3]["points"] == [[1.5, 2.0], [7.5, 9.0]]
    parts = [np.ravel(s["points"]).tolist() for s in shapes[:2]]
    assert (decode_rle(polygons_to_rle(parts, (20, 24))) == two_parts()).all()
    assert json.loads((folder / "c.json").read_text())["shapes"] == []
    assert "put the images into" in capsys.readouterr().out


def read_yolo(path, size):
    """(class, mask) of each line."""
    height, width = size
    found = []
    for line in path.read_text().splitlines():
        number, *shares = line.split()
        points = np.array(shares, dtype=float).reshape(-1, 2) * (width, height)
        found.append((int(number), decode_rle(polygons_to_rle([points.ravel().tolist()], size))))
    return found


def test_yolo(labels, tmp_path, capsys):
    folder = tmp_path / "out"
    assert call(labels, "--format", "yolo", "--output", folder, "--tolerance", "0") == 0
    found = read_yolo(folder / "labels" / "sub" / "b.txt", (20, 24))
    assert [number for number, _ in found] == [1, 0]
    assert (found[0][1] == two_parts()).all()
    assert (read_yolo(folder / "labels" / "a.txt", (30, 40))[0][1] == ring()).all()
    assert (folder / "labels" / "c.txt").read_text() == ""
    about = yaml.safe_load((folder / "data.yaml").read_text())
    assert about == {"train": "images", "val": "images", "names": {0: "bird", 1: "cat"}}
    assert (folder / "classes.txt").read_text() == "bird\ncat\n"
    told = capsys.readouterr().out
    assert "joined by lines without width" in told
    assert "1 labels are a box without a mask: they are left out" in told


def test_two_images_of_one_stem(tmp_path, capsys):
    images = [IMAGES[0], IMAGES[0] | {"id": 8, "file_name": "a.jpg"}]
    path = write_labels(tmp_path / "labels.json", images=images)
    for kind in ("yolo", "labelme"):
        assert call(path, "--format", kind, "--output", tmp_path / "out") == 1
        assert "the images a.png and a.jpg would both have the labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Merging


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
    assert "1 annotations have no mask" in told
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


# Runs and predictions


@pytest.fixture
def run(tmp_path):
    name = f"export_{tmp_path.name}"
    yield Run(tmp_path, name, truth=True)
    for known in (name, "export_val"):
        if known in DatasetCatalog.list():
            DatasetCatalog.remove(known)
            MetadataCatalog.remove(known)


def test_the_output_of_a_run(run, capsys):
    run.cam()
    path = run.pseudo_labels()
    for place in (run.output, path.parent, path):
        output = run.root / "out" / path.parent.name
        assert call(place, "--format", "labelme", "--output", output, "--overwrite") == 0
        content = json.loads((output / "im1.json").read_text())
        assert Image.open(output / content["imagePath"]).size == (17, 31)
    assert "put the images" not in capsys.readouterr().out
    assert call(path, "--format", "labelme", "--output", run.root / "images") == 0
    assert json.loads((run.root / "images" / "im1.json").read_text())["imagePath"] == "im1.png"


def test_predictions(run, tmp_path):
    """In a run the data set is known; elsewhere --dataset or --merge names it."""
    folder = run.mask_rcnn()
    inside = folder / "predictions" / run.name / "coco_instances_results.json"
    outside = tmp_path / "results.json"
    outside.write_text(inside.read_text())
    content = json.loads(run.json.read_text())
    boxes = [a | {"bbox": rle_box(a["segmentation"])} for a in content["annotations"]]
    content["annotations"] = [
        {k: v for k, v in a.items() if k not in ("segmentation", "area")} for a in boxes
    ]
    (run.root / "images" / "boxes.json").write_text(json.dumps(content))
    merge_into = run.root / "images" / "boxes.json"
    cases = [(inside,), (outside, "--dataset", run.json), (outside, "--merge", merge_into)]
    for number, (path, *words) in enumerate(cases):
        output = tmp_path / f"{number}.json"
        assert call(path, "--format", "coco-polygons", "--output", output, *words) == 0
        coco = COCO(output)
        for index, (height, width) in enumerate(SIZES):
            found = coco.loadAnns(coco.getAnnIds(imgIds=[index + 1]))
            masks = [coco.annToMask(a).astype(bool) for a in found]
            assert np.array(masks).reshape(-1, height, width).tolist() == masks_of(index).tolist()
    output = tmp_path / "few.json"
    assert call(inside, "--format", "coco-rle", "--output", output, "--min-score", "0.8") == 0
    assert COCO(output).dataset["annotations"] == []


# Errors


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{root}/none.json", "--output", "{root}/new.json"), 1, "none.json does not exist"),
        (("{root}/images", "--output", "{root}/new.json"), 1, "holds no run folder"),
        (("{root}/output", "--output", "{root}/new.json"), 1, "holds no pseudo labels; run"),
        (("{labels}", "--output", "{root}/data.json"), 2, "data.json exists; choose another"),
        (("{labels}", "--output", "{labels}", "--overwrite"), 2, "is what is read"),
        (
            ("{labels}", "--merge", "{root}/data.json", "--output", "{root}/data.json")
            + ("--overwrite",),
            2,
            "is what is read",
        ),
        (("{labels}", "--output", "{root}"), 2, "is a folder; name a JSON file in it"),
        (("{root}/list.json", "--output", "{root}/new.json"), 2, "name their data set"),
        (("{labels}", "--merge", "{root}/list.json", "--output", "{root}/new.json"), 1, "no COCO"),
        (("{labels}", "--merge", "{root}/nan.json", "--output", "{root}/new.json"), 1, "nan.json"),
        (("{root}/nan.json", "--output", "{root}/new.json"), 1, "nan.json"),
    ],
)
def test_errors_are_sentences(run, labels, capsys, words, code, said):
    run.cam()
    (run.root / "list.json").write_text("[]")
    text = json.dumps(boxes_of_a_tool() | {"videos": float("nan"), "images": []})
    (run.root / "nan.json").write_text(text)
    before = sorted(run.root.iterdir())
    filled = [word.format(root=run.root, labels=labels) for word in words]
    assert call(*filled, "--format", "coco-polygons") == code
    error = capsys.readouterr().err.rpartition("error: ")[2]
    assert said in error
    assert error.count("\n") == 1
    assert sorted(run.root.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "yolo", "--merge", "a.json"), "--merge needs --format coco-polygons"),
        (("--format", "coco-rle", "--tolerance", "1"), "coco-rle is exact"),
        (("--format", "coco-polygons", "--tolerance", "-1"), "'-1' is below 0"),
        (("--format", "coco-polygons", "--tolerance", "nan"), "'nan' is no finite number"),
        (("--format", "coco-polygons", "--min-score", "inf"), "'inf' is no finite number"),
        (("--format", "voc"), "invalid choice"),
    ],
)
def test_usage(tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as end:
        call("labels.json", "--output", tmp_path / "out", *words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_files_of_a_person_are_not_replaced(labels, tmp_path, capsys):
    mine = tmp_path / "images" / "sub" / "b.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    words = (labels, "--format", "labelme", "--output", tmp_path / "images")
    assert call(*words) == 2
    assert "b.json exists" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert not (tmp_path / "images" / "a.json").exists()
    assert call(*words, "--overwrite") == 0
    assert json.loads(mine.read_text())["shapes"]
