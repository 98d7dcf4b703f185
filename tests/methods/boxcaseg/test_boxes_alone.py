"""boxes_photos.yaml end to end, tiny: boxes and nothing else, from GrabCut to Mask R-CNN."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from wsis.data.artifacts import read_artifact

from tests.scripts import main_of
from tests.tiny import ROOT, manifest_of, train_net_here

CONFIG = ROOT / "configs" / "boxes_photos.yaml"
LABELS = "3_pseudo_labels/pseudo_labels.json"
TINY = [
    ("MODEL.TIMM.WEIGHTS", ""),
    ("SOLVER.MAX_ITER", "2"),
    ("SOLVER.IMS_PER_BATCH", "2"),
    ("SOLVER.BASE_LR", "0.001"),
    ("INPUT.MIN_SIZE_TRAIN", "(64,)"),
    ("INPUT.MIN_SIZE_TEST", "64"),
    ("WSIS.EVALUATION.GRABCUT_ITERATIONS", "1"),
]


@pytest.fixture
def photos(shapes_root, tmp_path):
    """Boxes as an annotation tool leaves them: one JSON, its images beside it."""
    root = shapes_root / "shapes"
    shutil.copytree(root / "JPEGImages", tmp_path / "images")
    shutil.copy(root / "boxes_train.json", tmp_path)
    return tmp_path


def run(photos, *arguments, config=CONFIG, extra=(), output="out"):
    extra = [*TINY, ("DATA.TRAIN", str(photos / "boxes_train.json")), *extra]
    output = photos / output
    options = {"config": config, "extra": extra}
    return train_net_here(*arguments, datasets=photos, output=output, **options)


def labels_of(photos, output="out"):
    return json.loads((photos / output / LABELS).read_text())["annotations"]


def test_boxes_become_masks_and_a_network(photos):
    done = run(photos)
    assert done.returncode == 0, done.stderr[-3000:]
    given = json.loads((photos / "boxes_train.json").read_text())["annotations"]
    found = labels_of(photos)
    assert sorted(a["bbox"] for a in found) == sorted(a["bbox"] for a in given)
    assert {a["score"] for a in found} == {1.0}
    assert len({a["confidence"] for a in found}) > 1
    assert (photos / "out" / "4_mask_rcnn" / "model_final.pth").is_file()
    assert main_of("tools/report.py")([str(photos / "out")]) == 0
    report = (photos / "out" / "report.html").read_text()
    assert " above 0.7" in report  # of mask_rcnn
    assert " above 0.95" not in report


def test_filled_boxes_and_skipped_images_are_told(photos):
    data = (photos / "images" / "train_00002.jpg").read_bytes()
    (photos / "images" / "train_00002.jpg").write_bytes(data[: len(data) // 2])
    extra = [("WSIS.ON_ERROR", "skip"), ("MODEL.BOXCASEG.GRABCUT_MIN_CONFIDENCE", "0.9")]
    done = run(photos, "--until-stage", "proxy_masks", extra=extra)
    assert done.returncode == 0, done.stderr[-3000:]
    made = [read_artifact(path) for path in (photos / "out").glob("1_*/artifacts/*.npz")]
    confidence = np.concatenate([arrays["confidence"] for arrays in made])
    filled, boxes = int((confidence < 0.9).sum()), len(confidence)
    assert 0 < filled < boxes
    counts = {"images": 7, "boxes": boxes, "filled_boxes": filled, "skipped": 1}
    assert manifest_of(photos / "out", "grabcut_masks")["counts"] == counts
    told = f"boxes filled because GrabCut found no mask that fits: {filled} of {boxes}"
    first = manifest_of(photos / "out", "grabcut_masks")["examples"]["filled_boxes"]
    assert f"\n\ngrabcut_masks: {told} (first: {first})\n" in done.stdout  # of the last lines
    assert first.startswith("train_0000")
    assert main_of("tools/report.py")([str(photos / "out")]) == 0
    assert told in (photos / "out" / "report.html").read_text()
    (why,) = manifest_of(photos / "out", "proxy_masks")["skipped"].values()
    assert why.endswith("grabcut_masks has skipped it, as WSIS.ON_ERROR skip wants")


def test_filled_boxes_in_three_lines(photos):
    config = photos / "filled.yaml"
    stages = "{filled_masks: , proxy_masks: , pseudo_labels: , mask_rcnn: }"
    config.write_text(f"_BASE_: {CONFIG}\nSTAGES: {stages}\n")
    done = run(photos, "--until-stage", "pseudo_labels", config=config)
    assert done.returncode == 0, done.stderr[-3000:]
    areas = {tuple(a["bbox"]): a["area"] for a in labels_of(photos)}
    assert sum(areas.values()) > 0.9 * sum(w * h for _, _, w, h in areas)


def test_figures_where_there_are_masks(photos, shapes_root):
    extra = [("DATA.TRAIN", str(photos / "instances_train.json"))]
    shutil.copy(shapes_root / "shapes" / "instances_train.json", photos)
    done = run(photos, "--until-stage", "proxy_masks", extra=extra)
    assert done.returncode == 0, done.stderr[-3000:]
    entries = json.loads((photos / "out" / "metrics.json").read_text())["stages"]
    found = {(e["stage"], e["protocol"]): e["metrics"] for e in entries}
    mine, filled = (
        found["grabcut_masks", protocol]["mIoU"]
        for protocol in ("box masks", "baseline filled box")
    )
    assert mine > filled > 50
    assert ("proxy_masks", "voc") in found


def test_missing_weights_are_told_before_the_first_stage(photos):
    extra = [("MODEL.TIMM.WEIGHTS", "datasets/weights/mobilenet_v2-b0353104.pth")]
    refused = run(photos, extra=extra)
    assert refused.returncode == 1
    assert "stage mask_rcnn starts from datasets/weights/mobilenet_v2" in refused.stderr
    assert "prepare_weights.py --name mobilenet_v2 --download" in refused.stderr
    assert not (photos / "out" / "1_grabcut_masks").exists()
    done = run(photos, "--until-stage", "proxy_masks", extra=extra)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("name", "what", "stage"),
    [
        ("boxes_photos", "box", "grabcut_masks"),
        ("cim_photos_point", "point", "point_clusters"),
        ("points_photos", "point", "point_masks"),
        ("iam_photos_point", "point", "point_peak_classifier"),
        ("supervised_photos", "mask", "supervised_mask_rcnn"),
    ],
)
def test_tags_alone_are_refused_before_the_first_stage(photos, shapes_root, name, what, stage):
    shutil.copy(shapes_root / "shapes" / "tags_train.json", photos)
    extra = [("DATA.TRAIN", str(photos / "tags_train.json"))]
    refused = run(photos, config=CONFIG.with_name(f"{name}.yaml"), extra=extra)
    assert refused.returncode == 1
    assert f"stage {stage} needs {what} annotations, and no image of" in refused.stderr
    assert not list((photos / "out").glob("1_*"))


def test_masks_of_some_objects_are_no_masks_of_all(photos, shapes_root):
    """Told before the first stage, and not by the first picture of which that is true."""
    path = photos / "boxes_train.json"
    content = json.loads((shapes_root / "shapes" / path.name).read_text())
    total = len(content["annotations"])
    content["annotations"][0]["segmentation"] = [[10, 10, 20, 10, 20, 20]]
    path.write_text(json.dumps(content))
    config, extra = CONFIG.with_name("supervised_photos.yaml"), [("DATA.TRAIN", str(path))]
    refused = run(photos, config=config, extra=extra)
    assert refused.returncode == 1
    assert f"needs masks: {total - 1} of {total} objects of {path} have none" in refused.stderr
    assert not list((photos / "out").glob("1_*"))
    nowhere = ("MODEL.WEIGHTS", "nowhere.pkl")  # ends it before it trains
    skips = run(photos, config=config, extra=[*extra, ("WSIS.ON_ERROR", "skip"), nowhere])
    assert "have none, and their images are passed over" in skips.stdout
    assert "nowhere.pkl, which does not exist" in skips.stderr


def test_tags_that_all_images_share_are_told(photos):
    path = photos / "one.json"
    images = [
        {"id": number, "file_name": file.name, "image_labels": [1]}
        for number, file in enumerate(sorted((photos / "images").glob("train_*")), start=1)
    ]
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "robin"}]}))
    config, extra = CONFIG.with_name("cam_instances_photos.yaml"), [("DATA.TRAIN", str(path))]
    extra += [("MODEL.TIMM.WEIGHTS", "nowhere.pth")]  # ends it before it trains
    done = run(photos, config=config, extra=extra)
    assert f"classifier works on tags, and every image of {path} has the same" in done.stdout


def test_objects_without_a_box_are_told(photos, shapes_root):
    path = photos / "boxes_train.json"
    content = json.loads((shapes_root / "shapes" / path.name).read_text())
    total = len(content["annotations"])
    for annotation in content["annotations"][:3]:
        del annotation["bbox"]
    path.write_text(json.dumps(content))
    extra = [("DATA.TRAIN", str(path))]
    done = run(photos, "--until-stage", "proxy_masks", extra=extra)
    said = done.stdout + done.stderr
    assert f"grabcut_masks, proxy_masks work on boxes: 3 of {total} objects of" in said
    assert said.count("WARNING") == 1  # that, once, and nothing of true masks, which none has
    assert said.count("no true masks to measure against: grabcut_masks, proxy_masks on ") == 1
