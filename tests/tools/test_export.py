"""tools/export.py: labels out and back, and into the file that they came from."""

import json
import shlex
import shutil

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO
from wsis.layers.run_lengths import decode_rle, encode_mask, polygons_to_rle, rle_box, rle_iou

from tests.export.labels import (
    BIRD,
    CAT,
    IMAGES,
    call,
    label,
    rectangle,
    ring,
    two_parts,
    write_labels,
)
from tests.tools.runs import SIZES, Run, masks_of


@pytest.fixture
def labels(tmp_path):
    return write_labels(
        tmp_path / "labels.json",
        label(7, BIRD, ring()),
        label(9, CAT, two_parts(), 0.4),
        label(9, BIRD, rectangle(9, 3, 3, 1, 1), 0.2),
        label(9, CAT, rectangle(9, 0, 0, 0, 0), bbox=[1.5, 2.0, 6.0, 7.0]),
    )


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
    assert empty["area"] == 42
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


def test_an_outline_beyond_all_measure_stays_a_box(labels, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wsis.layers.run_lengths.MAX_OUTLINE", 85)
    output = tmp_path / "out.json"
    assert call(labels, "--format", "coco-polygons", "--output", output) == 0
    found = ["segmentation" in a for a in COCO(output).dataset["annotations"]]
    assert found == [False, True, True, False]
    assert "1 outlines are absurdly long: these are boxes" in capsys.readouterr().out


def test_min_score(labels, tmp_path, capsys):
    output = tmp_path / "out.json"
    assert call(labels, "--format", "coco-rle", "--output", output, "--min-score", "0.4") == 0
    assert [a["score"] for a in COCO(output).dataset["annotations"]] == [0.9, 0.4, 0.9]
    assert "1 score too low" in capsys.readouterr().out


def crumbs():
    """30 pixels, of which one is a hole, and a crumb of one pixel at 0, 0."""
    mask = rectangle(7, 10, 4, 6, 5) | rectangle(7, 0, 0, 1, 1)
    mask[6, 12] = False
    return mask


@pytest.mark.parametrize("kind", ["coco-rle", "coco-polygons"])
def test_small_parts_and_holes_go(tmp_path, capsys, kind):
    """Area and box are those of the mask that is written, but for a box that was given."""
    path = write_labels(
        tmp_path / "labels.json",
        label(7, BIRD, crumbs()),
        label(7, BIRD, crumbs(), bbox=[9.5, 3.5, 7, 6]),
        label(9, CAT, two_parts()),
        label(9, CAT, rectangle(9, 0, 0, 0, 0), bbox=[1.0, 2.0, 6.0, 7.0]),
    )
    output = tmp_path / "out.json"
    assert call(path, "--format", kind, "--output", output, "--clean", "0.05") == 0
    coco = COCO(output)
    whole = rectangle(7, 10, 4, 6, 5)
    for number, box in ((1, [10, 4, 6, 5]), (2, [9.5, 3.5, 7, 6])):
        assert (coco.annToMask(coco.anns[number]) == whole).all()
        assert (coco.anns[number]["area"], coco.anns[number]["bbox"]) == (30, box)
    assert (coco.annToMask(coco.anns[3]) == two_parts()).all()
    assert "segmentation" not in coco.anns[4]
    told = capsys.readouterr().out
    assert "2 masks without their small parts and holes\n" in told
    assert "holes are cut open" not in told


def test_a_point_keeps_the_mask_that_it_gave(tmp_path, capsys):
    """Though it lies on a part that goes."""
    path = write_labels(tmp_path / "labels.json", label(7, BIRD, crumbs()))
    place = {"id": 1, "image_id": 7, "category_id": 3, "point": [0, 0]}
    source = write_labels(tmp_path / "points.json")
    content = json.loads(source.read_text()) | {"annotations": [place]}
    source.write_text(json.dumps(content))
    output = tmp_path / "out.json"
    words = ("--format", "coco-rle", "--merge", source, "--output", output, "--clean", "0.05")
    assert call(path, *words) == 0
    (found,) = COCO(output).dataset["annotations"]
    assert (found["area"], found["bbox"], found["point"]) == (30, [10, 4, 6, 5], [0, 0])
    assert "1 annotations got a mask" in capsys.readouterr().out


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
    entry = f"{{FORMAT: coco, JSON: {run.json}, IMAGES: {run.root / 'images'}}}"
    cases.append((outside, "--dataset", entry))
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


def test_broken_annotations_do_not_matter_to_those_who_want_the_images(run, tmp_path, capsys):
    content = json.loads(run.json.read_text())
    content["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": [1]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"score": 1.0} | a for a in content["annotations"][1:]]))
    run.json.write_text(json.dumps(content))
    entry = f"{{FORMAT: coco, JSON: {run.json}, IMAGES: {run.root}/images}}"
    output = tmp_path / "with space"
    words = ("--dataset", entry, "--format", "labelme", "--output", output)
    assert call(path, *words) == 0
    found = [json.loads(file.read_text()) for file in sorted(output.glob("*.json"))]
    assert [len(one["shapes"]) for one in found] == [1, 2, 2, 0]
    assert Image.open(output / found[1]["imagePath"]).size == (17, 31)
    command = capsys.readouterr().out.rpartition("next: ")[2]
    assert shlex.split(command) == ["labelme", str(output / "im0.json")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{root}/none.json", "--output", "{root}/new.json"), 1, "none.json does not exist"),
        (("{root}/images", "--output", "{root}/new.json"), 1, "holds no run folder"),
        (("{root}/cam", "--output", "{root}/new.json"), 1, "holds no pseudo labels; run"),
        (("{labels}", "--output", "{root}/data.json"), 2, "data.json exists; choose another"),
        (("{labels}", "--output", "{labels}", "--overwrite"), 2, "is what is read"),
        (
            ("{labels}", "--merge", "{root}/data.json", "--output", "{root}/data.json")
            + ("--overwrite",),
            2,
            "is what is read",
        ),
        (
            ("{labels}", "--dataset", "{root}/data.json", "--output", "{root}/data.json")
            + ("--overwrite",),
            2,
            "is what is read",
        ),
        (("{root}/output", "--output", "{own}", "--overwrite"), 2, "is what is read"),
        (("{labels}", "--output", "{root}"), 2, "is a folder; name a JSON file in it"),
        (("{root}/list.json", "--output", "{root}/new.json"), 2, "name their data set"),
        (("{labels}", "--merge", "{root}/list.json", "--output", "{root}/new.json"), 1, "no COCO"),
        (("{labels}", "--merge", "{root}/nan.json", "--output", "{root}/new.json"), 1, "holds NaN"),
    ],
)
def test_errors_are_sentences(run, labels, capsys, words, code, said):
    run.cam()
    shutil.copytree(run.output, run.root / "cam")
    own = run.pseudo_labels()
    (run.root / "list.json").write_text("[]")
    nan = {"images": [], "categories": [{"id": 1, "name": "cat"}], "videos": float("nan")}
    (run.root / "nan.json").write_text(json.dumps(nan))
    before = sorted(run.root.iterdir())
    filled = [word.format(root=run.root, labels=labels, own=own) for word in words]
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
        (("--format", "coco-rle", "--clean", "5"), "'5' is above 1"),
        (("--format", "voc"), "invalid choice"),
    ],
)
def test_usage(tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as end:
        call("labels.json", "--output", tmp_path / "out", *words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("labelme", "sub/b.json"),
        ("yolo", "labels/sub/b.txt"),
        ("yolo", "data.yaml"),
        ("yolo", "classes.txt"),
    ],
)
def test_files_of_a_person_are_not_replaced(labels, tmp_path, capsys, kind, place):
    """Neither those that were there, nor those that were corrected since an export."""
    folder = tmp_path / "images"
    mine = folder / place
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    words = (labels, "--format", kind, "--output", folder)
    for more in ((), ("--overwrite",)):
        assert call(*words, *more) == 2
        error = capsys.readouterr().err.rpartition("error: ")[2]
        assert f"{mine} exists and is not as an export left it" in error
        assert error.endswith("give --output a folder of its own\n")
        assert [p for p in folder.rglob("*") if p.is_file()] == [mine]
        assert mine.read_text() == "{}"
    mine.unlink()
    assert call(*words) == 0
    assert call(*words) == 2
    assert "say --overwrite" in capsys.readouterr().err
    written = mine.read_text()
    assert call(*words, "--overwrite", "--min-score", 2) == 0
    assert call(*words, "--overwrite") == 0
    assert mine.read_text() == written
    mine.write_text(written + "\n")
    assert call(*words, "--overwrite", "--min-score", 2) == 2
    assert mine.read_text() == written + "\n"


def test_a_broken_list_of_written_files_protects_all(labels, tmp_path):
    words = (labels, "--format", "labelme", "--output", tmp_path / "out")
    assert call(*words) == 0
    for text in ("[1", "[]"):
        (tmp_path / "out" / ".wsis_export").write_text(text)
        assert call(*words, "--overwrite") == 2


def test_what_an_export_wrote_before_it_failed_may_be_replaced(labels, tmp_path):
    words = (labels, "--format", "labelme", "--output", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").write_text("no folder")  # of the second image
    assert call(*words) == 1
    assert (tmp_path / "out" / "a.json").is_file()
    (tmp_path / "out" / "sub").unlink()
    assert call(*words, "--overwrite") == 0


def test_the_data_set_of_a_run_is_not_replaced(run, capsys):
    path, before = run.mask_rcnn(), run.json.read_text()
    path = path / "predictions" / run.name / "coco_instances_results.json"
    words = (path, "--format", "coco-polygons", "--output", run.json, "--overwrite")
    assert call(*words) == 2
    assert "is what is read" in capsys.readouterr().err
    assert run.json.read_text() == before


def test_what_is_to_be_done_with_the_images(labels, tmp_path, capsys):
    folder = tmp_path / "my labels"
    assert call(labels, "--format", "yolo", "--output", folder) == 0
    assert f"  copy the images to {folder / 'images'}\n" in capsys.readouterr().out
    assert call(labels, "--format", "labelme", "--output", folder) == 0
    assert f"next: labelme '{folder / 'a.json'}'\n" in capsys.readouterr().out
