"""boxinst_shapes.yaml end to end, tiny: products, figures, kills, and that no mask is seen."""

from __future__ import annotations

import json
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
import wsis
from wsis.data.artifacts import ProductReader
from wsis.errors import UsageError

from tests.scripts import main_of
from tests.test_end_to_end import kill_training, kill_writing
from tests.tiny import ROOT, train_net_forked, train_net_here

CONFIG = ROOT / "configs" / "boxinst_shapes.yaml"
LABELS = "4_pseudo_labels/pseudo_labels.json"
TINY = [
    ("SOLVER.MAX_ITER", "4"),
    ("MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),  # Detectron2 allows no other with depth 18
    ("MODEL.BOXINST.PAIRWISE_WARMUP_ITERS", "2"),
    ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"),
    ("WSIS.EVALUATION.GRABCUT_ITERATIONS", "1"),
]


def run(datasets, output, *arguments, extra=(), forked=None):
    options = {"datasets": datasets, "output": output, "config": CONFIG}
    options["extra"] = [*TINY, *extra]
    if forked is None:
        return train_net_here(*arguments, **options)
    return train_net_forked(*arguments, prelude=forked, **options)


@pytest.fixture(scope="module")
def finished(shapes_root, tmp_path_factory):
    """The folder of an unbroken run, and what it said."""
    output = tmp_path_factory.mktemp("boxinst")
    done = run(shapes_root, output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


def content_of(output):
    return json.loads((output / LABELS).read_text())


def weights_of(output):
    return torch.load(output / "1_boxinst" / "model_final.pth", weights_only=True)["model"]


def test_figures_and_baselines(finished):
    entries = json.loads((finished[0] / "metrics.json").read_text())["stages"]
    measured = {(e["stage"], e["protocol"]): e["metrics"] for e in entries}
    assert {e["dataset"] for e in entries if e["stage"] == "boxinst"} == {"shapes_val"}
    assert {("boxinst", "voc"), ("boxinst", "coco"), ("boxinst", "coco_bbox")} < measured.keys()
    for protocol in ("box masks", "baseline filled box", "baseline GrabCut"):
        assert 0 <= measured["boxinst_masks", protocol]["mIoU"] <= 100
    assert {("proxy_masks", "voc"), ("proxy_masks", "proxy masks")} < measured.keys()


def test_every_box_comes_back_with_its_mask(finished, shapes_root, tmp_path):
    given = json.loads((shapes_root / "shapes" / "boxes_train.json").read_text())
    found = content_of(finished[0])
    boxes = sorted(tuple(float(v) for v in a["bbox"]) for a in given["annotations"])
    assert sorted(tuple(a["bbox"]) for a in found["annotations"]) == boxes
    reader = ProductReader(finished[0] / "2_boxinst_masks", "boxinst_masks")
    for arrays in map(reader.__getitem__, reader.keys()):
        assert len(arrays["masks"]) == len(arrays["boxes"]) == len(arrays["scores"])
        for mask, (x0, y0, x1, y1) in zip(arrays["masks"], arrays["boxes"].tolist(), strict=True):
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
    path = tmp_path / "masks.json"
    words = ["--format", "coco-polygons", "--output", str(path)]
    words += ["--merge", str(shapes_root / "shapes" / "boxes_train.json")]
    assert main_of("tools/export.py")([str(finished[0]), *words]) == 0
    merged = json.loads(path.read_text())["annotations"]
    assert [a["id"] for a in merged] == [a["id"] for a in given["annotations"]]


def test_the_network_finds_objects_in_new_pictures(finished, shapes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    output, said = finished
    assert f"tools/demo.py --config-file {CONFIG}" in said  # among the next commands
    picture = cv2.imread(str(next((shapes_root / "shapes" / "JPEGImages").glob("val_*"))))
    predictor = wsis.Predictor(output, min_score=0.0)
    instances = predictor(picture)["instances"]
    assert len(instances)
    assert instances.pred_masks.shape[1:] == picture.shape[:2]
    assert predictor.cfg.WSIS.STAGE == "boxinst"
    assert main_of("tools/report.py")([str(output)]) == 0
    assert "instances of boxinst masks" in (output / "report.html").read_text()


def test_given_boxes_need_their_classes(finished):
    """The mask head has a mask for each class: without it, class 0 would be taken in silence."""
    predictor = wsis.Predictor(finished[0], stage="boxinst_masks")
    picture, boxes = np.zeros((60, 80, 3), np.uint8), [[5, 8, 40, 44], [30, 10, 52, 50]]
    names = predictor.metadata.thing_classes
    with pytest.raises(UsageError, match=rf"of their classes; give classes=.*\({names[0]}, "):
        predictor(picture, boxes=boxes)
    with pytest.raises(UsageError, match=f"not {len(names)}$"):
        predictor(picture, boxes=boxes, classes=[0, len(names)])
    found = predictor(picture, boxes=boxes, classes=[names[1], 0])["instances"]
    assert found.pred_classes.tolist() == [1, 0]
    assert predictor(picture, boxes=[])["instances"].pred_masks.shape == (0, 60, 80)


def rewritten(root, folder, change):
    """A copy of the shapes with another file of training annotations."""
    shutil.copytree(root, folder, dirs_exist_ok=True)
    path = folder / "shapes" / "instances_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        change(annotation)
    path.write_text(json.dumps(content))
    return folder


def triangle(annotation):
    x, y, width, height = annotation["bbox"]
    annotation["segmentation"] = [[x, y, x + width, y + height / 2, x, y + height]]


def narrow(annotation):
    annotation["bbox"][2] *= 0.7


def test_masks_are_never_looked_at(finished, shapes_root, tmp_path):
    """Without masks and with others, the same weights and masks; with other boxes, others."""
    alone = str(shapes_root / "shapes" / "boxes_train.json")
    images = str(shapes_root / "shapes" / "JPEGImages")
    described = f"{{FORMAT: coco, JSON: {alone}, IMAGES: {images}, SUPERVISION: box}}"
    cases = {
        "none": (shapes_root, [("DATA.TRAIN", described)]),
        "others": (rewritten(shapes_root, tmp_path / "a", triangle), []),
        "boxes": (rewritten(shapes_root, tmp_path / "b", narrow), []),
    }
    first, labels = weights_of(finished[0]), content_of(finished[0])["annotations"]
    for name, (root, extra) in cases.items():
        output = tmp_path / f"out_{name}"
        last = "boxinst" if name == "boxes" else "pseudo_labels"
        done = run(root, output, "--until-stage", last, extra=extra)
        assert done.returncode == 0, done.stderr[-3000:]
        same = all(torch.equal(value, first[key]) for key, value in weights_of(output).items())
        assert same == (name != "boxes"), name
        if name != "boxes":
            masks = [a["segmentation"] for a in content_of(output)["annotations"]]
            assert masks == [a["segmentation"] for a in labels]


def test_killed_it_ends_with_the_same_bytes(finished, shapes_root, tmp_path):
    kills = {"boxinst": kill_training("boxinst"), "boxinst_masks": kill_writing("boxinst_masks")}
    for stage, prelude in kills.items():
        killed = run(shapes_root, tmp_path, "--until-stage", stage, forked=prelude)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    done = run(shapes_root, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / LABELS).read_bytes() == (finished[0] / LABELS).read_bytes()
    first, again = weights_of(finished[0]), weights_of(tmp_path)
    assert all(torch.equal(value, again[key]) for key, value in first.items())


def test_points_are_not_enough(shapes_root, tmp_path):
    path = shapes_root / "shapes" / "points_train.json"
    refused = run(shapes_root, tmp_path, extra=[("DATA.TRAIN", str(path))])
    assert refused.returncode == 1
    assert "stage boxinst needs box annotations, and no image of" in refused.stderr
