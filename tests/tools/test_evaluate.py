"""tools/evaluate.py: the example of docs/evaluation.md, pycocotools' figures, sentences."""

import contextlib
import io
import json
import os
import re
import shlex
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import wsis
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from wsis.data.label_files import CocoResults
from wsis.data.user import register_role
from wsis.layers.run_lengths import encode_mask

from tests.export.labels import BIRD, SIZE, call, label, write_labels
from tests.scripts import main_of
from tests.tiny import ROOT

main = main_of("tools/evaluate.py")

PAGE = (ROOT / "docs" / "evaluation.md").read_text()
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PHOTOS = Path(os.environ.get("WSIS_DATA", "../shared/data")) / "coco_real"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The page's files in the present folder."""
    monkeypatch.chdir(tmp_path)
    truth, results = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    Path("truth.json").write_text(truth)
    Path("results.json").write_text(results)
    yield tmp_path
    for name in [n for n in DatasetCatalog.list() if n.endswith("_val")]:
        if getattr(MetadataCatalog.get(name), "unnamed", False):
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)


def test_the_worked_example(capsys):
    (command,) = re.findall(r"    python tools/evaluate.py (.*truth.json)\n", PAGE)
    (printed,) = re.findall(r"```\n(protocol.*?)```", PAGE, re.DOTALL)
    assert main([*shlex.split(command), "--json", "all.json"]) == 0
    assert capsys.readouterr().out == printed
    figures = json.loads(Path("all.json").read_text())
    assert figures["voc"]["AP50/cat"] == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))
    assert figures["voc"]["ABO"] == pytest.approx(87.5)
    assert figures["coco"]["AP50"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert figures["coco"]["APl"] is None


def change(path, function):
    Path(path).write_text(json.dumps(function(json.loads(Path(path).read_text()))))


def without(name):
    return lambda entries: [{k: v for k, v in e.items() if k != name} for e in entries]


def boxes_only(content):
    return content | {"annotations": without("segmentation")(content["annotations"])}


def tags_only(content):
    image = content["images"][0] | {"image_labels": ["cat"]}
    return content | {"images": [image], "annotations": []}


def boxed(entries):
    boxes = ([0, 0, 4, 4], [5, 0, 2, 2], [6, 4, 2, 2])
    return [
        {k: v for k, v in e.items() if k != "segmentation"} | {"bbox": b}
        for e, b in zip(entries, boxes, strict=True)
    ]


def evaluate(*words):
    return main(["--predictions", "results.json", "--dataset", "truth.json", *words])


@pytest.mark.parametrize("changed", ["truth.json", "results.json"])
def test_boxes_alone_have_the_figures_of_boxes(changed, capsys, caplog):
    """Large cat exactly, nothing, small cat exactly: 83.50 at all thresholds."""
    change("results.json", boxed)
    if changed == "truth.json":
        change("truth.json", boxes_only)
    assert evaluate() == 0
    assert re.search(r"coco_bbox +83.50", capsys.readouterr().out)
    assert "has boxes and no masks: voc and coco cannot be computed; coco_bbox is" in caplog.text
    assert evaluate("--protocol", "voc") == 1
    said = capsys.readouterr().err
    assert "has boxes and no masks: voc cannot be computed; coco_bbox can" in said


MISTAKES = {
    "no such category": (lambda r: [r[0] | {"category_id": 3}], "has no category 3; its classes"),
    "no such image": (lambda r: [r[0] | {"image_id": 9}], "has no image with the id 9"),
    "some with masks": (lambda r: [r[0], boxed(r)[1]], "entry 1: segmentation is in some"),
    "boxes by corners": (
        lambda r: [
            without("segmentation")([r[0] | {"bbox": [5, 3, 7 - i, 6]}])[0] for i in (0, 1, 0, 1)
        ],
        "image 1, annotation 1: bbox [5, 3, 7, 6] is not in its place as [x, y, width, height]",
    ),
    "neither": (without("segmentation"), "entry 0: has neither segmentation nor bbox"),
    "no score": (without("score"), "entry 0: score is None"),
    "no score but ids": (
        lambda r: [{"id": 4, **e} for e in without("score")(r)],
        "entry 0: score is missing",
    ),
    "infinite score": (lambda r: [r[0] | {"score": float("inf")}], "score is inf"),
    "no image id": (without("image_id"), "neither in COCO's result format"),
    "an object": (lambda r: {"predictions": r}, "nor a COCO file with annotations"),
    "numbers": (lambda r: [1, 2], "neither in COCO's result format"),
    "size": (
        lambda r: [r[0] | {"segmentation": {"size": [8, 6], "counts": [48]}}],
        "image 1: segmentation has size",
    ),
    "line": (lambda r: [r[0] | {"segmentation": [[0, 0, 4, 4]]}], "image 1: segmentation has a"),
    "file of other images": (
        lambda r: {"images": [{"id": 1, "file_name": "dog.png"}], "annotations": r},
        "has no image with the id 1",
    ),
    "file of other classes": (
        lambda r: {"categories": [{"id": 17, "name": "dog"}], "annotations": r},
        "has no class 'dog'; its classes",
    ),
    "file with strange categories": (
        lambda r: {"categories": [17], "annotations": r},
        "categories is no list of id and name",
    ),
    "file with strange images": (
        lambda r: {"images": [{"id": 1}], "annotations": r},
        "images is no list with id and file_name",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence_and_leave_no_file(mistake, capsys):
    spoil, said = MISTAKES[mistake]
    change("results.json", spoil)
    assert evaluate("--json", "all.json") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: results.json")
    assert said in error
    assert not Path("all.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--protocol", "pascal"], 2, "there are voc, coco, coco_bbox"),
        (["--json", "."], 2, "--json . is a folder"),
        (["--json", "results.json"], 2, "--json results.json is what is read"),
        (["--json", "./truth.json"], 2, "--json ./truth.json is what is read"),
        (["--dataset", "nowhere"], 2, "no data set (nor a path) 'nowhere'"),
        (["--dataset", "{FORMAT: coco"], 2, "'{FORMAT: coco' is not readable YAML"),
        (["--dataset", "{FORMAT: nix}"], 2, "FORMAT"),
        (["--predictions", "gone.json"], 1, "gone.json does not exist"),
    ],
)
def test_requests_that_cannot_be_met(words, code, said, capsys):
    assert evaluate(*words) == code
    assert said in capsys.readouterr().err


def test_tags_alone_cannot_be_measured(capsys):
    change("truth.json", tags_only)
    assert evaluate() == 1
    assert "has neither masks nor boxes to measure results.json against" in capsys.readouterr().err


def as_file(entries):
    """Other ids, the name of the class, another image, polygons, a crowd, one without a score."""
    square = [[0, 0, 4, 0, 4, 3, 0, 3]]
    annotations = [e | {"id": i, "image_id": 5, "category_id": 2} for i, e in enumerate(entries)]
    annotations[0] = {k: v for k, v in annotations[0].items() if k != "score"}
    annotations[0]["segmentation"] = square
    annotations += [annotations[1] | {"iscrowd": 1}, annotations[1] | {"image_id": 6}]
    return {
        "annotations": annotations,
        "images": [{"id": 5, "file_name": "a/cats.png"}, {"id": 6, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }


def test_a_coco_file_is_read_by_names(caplog):
    expected = wsis.evaluate("results.json", "truth.json")
    change("results.json", as_file)
    entry = "{FORMAT: coco, JSON: truth.json, IMAGES: .}"
    np.testing.assert_equal(wsis.evaluate("results.json", entry), expected)
    assert "1 of its images are not in truth.json and" in caplog.text


@pytest.mark.parametrize(
    ("dataset", "given"),
    [
        ("./truth.json", "./truth.json"),
        ("{FORMAT: coco, JSON: truth.json, IMAGES: .}", "truth.json"),
        ("{NAME: cats, FORMAT: coco, JSON: truth.json, IMAGES: .}", "cats"),
    ],
)
def test_messages_call_the_data_set_as_the_user_does(dataset, given, capsys):
    change("results.json", MISTAKES["no such category"][0])
    assert evaluate("--dataset", dataset) == 1
    assert f"error: results.json: entry 0: {given} has no category 3" in capsys.readouterr().err
    change("results.json", lambda r: [r[0] | {"category_id": 17, "image_id": 9}])
    assert evaluate("--dataset", dataset) == 1
    assert f"entry 0: {given} has no image with the id 9" in capsys.readouterr().err
    if given == "cats":
        DatasetCatalog.pop(given), MetadataCatalog.pop(given)


def test_images_without_predictions_are_told(capsys):
    more = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 6} for i in (2, 3)]
    change("truth.json", lambda t: t | {"images": t["images"] + more[:1]})
    assert evaluate() == 0
    said = "2 images with 2 objects, 3 predictions (results.json); 1 of the images have none"
    missed = ": all of their objects count as missed"
    assert capsys.readouterr().out.splitlines()[-1] == said + missed
    change("truth.json", lambda t: t | {"images": t["images"] + more[1:]})
    assert evaluate() == 0
    said = "3 images with 2 objects, 3 predictions (results.json); 2 of the images have none"
    assert capsys.readouterr().out.splitlines()[-1] == f"WARNING: {said}{missed}"


def test_the_exports_for_tools_are_called_by_their_names(tmp_path, capsys):
    """Each as tools/export.py writes it, and one of the files of those that write several."""
    mask = np.zeros(SIZE[7], dtype=bool)
    mask[2:9, 3:9] = True
    labels = write_labels(tmp_path / "labels.json", label(7, BIRD, mask))
    for form in ("labelme", "yolo"):
        assert call(labels, "--format", form, "--output", form) == 0
    form = {"labelme": "labelme", "yolo": "YOLO"}
    for place in ("labelme", "labelme/a.json", "yolo", "yolo/labels/a.txt"):
        assert evaluate("--predictions", place) == 1
        said = capsys.readouterr().err
        assert f"error: {place} is in the form of {form[place.partition('/')[0]]}; " in said
        assert "with tools/export.py LABELS --format coco-rle --output FILE.json" in said
    assert evaluate("--predictions", "yolo/labels/absent.txt") == 1
    assert "yolo/labels/absent.txt does not exist" in capsys.readouterr().err
    assert call(labels, "--format", "coco-rle", "--output", "results.json", "--overwrite") == 0
    assert evaluate("--dataset", "labels.json", "--protocol", "voc") == 0


def test_a_run_gives_its_pseudo_labels(tiny_run, shapes_root, monkeypatch, capsys, tmp_path):
    """They are found as tools/export.py finds them; --json cannot replace them."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    (labels,) = tiny_run.glob("*/pseudo_labels.json")
    printed = []
    for place in (tiny_run, labels.parent, labels):
        words = ["--predictions", str(place), "--dataset", "shapes_train", "--protocol", "voc"]
        assert main(words) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1
    assert f" predictions ({labels}); " in printed[0]
    before = labels.read_bytes()
    assert main(["--predictions", str(tiny_run), *words[2:], "--json", str(labels)]) == 2
    assert labels.read_bytes() == before
    (stage,) = tiny_run.glob("*_mask_rcnn")
    assert main(["--predictions", str(stage), *words[2:]]) == 1
    said = capsys.readouterr().err
    assert "holds no pseudo labels" in said
    assert "or give a file of predictions, such as" in said
    assert main(["--predictions", str(tmp_path), *words[2:]]) == 1
    assert "holds no run folder" in capsys.readouterr().err


def test_truth_and_predictions_in_each_other_s_place(caplog):
    Path("1_pseudo_labels").mkdir()
    Path("1_pseudo_labels/pseudo_labels.json").write_text(Path("truth.json").read_text())
    words = ["--predictions", "truth.json", "--dataset"]
    assert main([*words, "1_pseudo_labels/pseudo_labels.json"]) == 0
    assert "swapped" not in caplog.text
    Path("1_pseudo_labels/manifest.json").write_text("{}")
    assert main([*words, "1_pseudo_labels/pseudo_labels.json"]) == 0
    assert "truth.json has no scores, and 1_pseudo_labels/pseudo_labels.json was" in caplog.text
    assert caplog.text.count("are they swapped?") == 1


def test_nothing_found_is_missed():
    Path("results.json").write_text("[]")
    assert wsis.evaluate("results.json", "truth.json")["coco"]["AP"] == 0


def reference(truth, results, iou_type):
    """pycocotools on two files; of masks as Detectron2 calls it, without the boxes."""
    entries = json.loads(Path(results).read_text())
    if iou_type == "segm":
        entries = without("bbox")(entries)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(entries), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats[:6] < 0, np.nan, evaluation.stats[:6])


def same_as_pycocotools(truth, images):
    entry = {"FORMAT": "coco", "JSON": str(truth), "IMAGES": str(images)}
    found = wsis.evaluate("results.json", entry, ("coco", "coco_bbox"))
    for protocol, iou_type in (("coco", "segm"), ("coco_bbox", "bbox")):
        ours = np.array([found[protocol][name] for name in NAMES]) / 100
        expected = reference(truth, "results.json", iou_type)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
        assert 0.05 < ours[0] < 0.95


def disturbed(annotations, mask_of, generator):
    """Masks a little aside, boxes of decimals, few different scores, some of another class."""
    ids, results = sorted({a["category_id"] for a in annotations}), []
    for annotation in annotations:
        mask = mask_of(annotation)
        for _ in range(int(generator.integers(0, 3))):
            moved = np.roll(mask, generator.integers(-3, 4, 2), axis=(0, 1))
            box = np.round(coco_mask.toBbox(encode_mask(moved)) + generator.normal(0, 1, 4), 1)
            other = generator.random() < 0.2
            category = int(generator.choice(ids)) if other else annotation["category_id"]
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "score": int(generator.integers(1, 6)) / 5,
                    "segmentation": encode_mask(moved),
                    "bbox": np.maximum(box, 0.1).tolist(),
                }
            )
    Path("results.json").write_text(json.dumps(results))


def test_category_ids_with_gaps_and_images_in_another_order():
    """Ties between scores fall as pycocotools has them: in the order of image ids, not of names."""
    generator, annotations, images = np.random.default_rng(3), [], []
    for image in range(12):
        images.append({"id": 40 - 3 * image, "file_name": f"{image:02d}.png"})
        images[-1] |= {"width": 120, "height": 90}
        for _ in range(5):
            mask = np.zeros((90, 120), bool)
            y, x = generator.integers(0, 60, 2)
            mask[y : y + generator.integers(4, 60), x : x + generator.integers(4, 60)] = True
            annotation = {"id": len(annotations) + 1, "image_id": images[-1]["id"], "iscrowd": 0}
            annotation |= {"category_id": int(generator.choice([4, 9, 90])), "area": 0}
            box = np.asarray(coco_mask.toBbox(encode_mask(mask))).tolist()
            annotation |= {"bbox": box, "area": int(mask.sum()), "segmentation": encode_mask(mask)}
            annotations.append(annotation)
    annotations[3]["iscrowd"] = annotations[17]["iscrowd"] = 1
    categories = [{"id": i, "name": n} for i, n in ((90, "c"), (4, "a"), (7, "none"), (9, "b"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    Path("truth.json").write_text(json.dumps(content))
    disturbed(annotations, lambda a: coco_mask.decode(a["segmentation"]), generator)
    same_as_pycocotools("truth.json", ".")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photographs in {PHOTOS}; set WSIS_DATA")
def test_photographs():
    truth = (ROOT / PHOTOS if not PHOTOS.is_absolute() else PHOTOS) / "instances_val.json"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
    annotations = [a for a in coco.dataset["annotations"] if not a["iscrowd"]]
    disturbed(annotations, coco.annToMask, np.random.default_rng(5))
    same_as_pycocotools(truth, truth.parent / "JPEGImages")


def test_results_take_few_bytes(tmp_path):
    """As a dict of numbers and dicts it takes 1 kB."""
    first = json.loads(Path("results.json").read_text())[0]
    first["segmentation"] = encode_mask(np.eye(6, 8, dtype=bool))
    Path("results.json").write_text(json.dumps([first] * 20000))
    (name,) = register_role("VAL", "truth.json", stem="few", source="test")
    tracemalloc.start()
    found = CocoResults(Path("results.json"), name)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.has_masks
    assert kept / 20000 < 300
