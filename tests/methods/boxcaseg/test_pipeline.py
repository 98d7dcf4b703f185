"""boxcaseg_shapes.yaml end to end, tiny: products, figures, kills, two processes, options."""

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
from wsis.engine.pipeline import load_pipeline
from wsis.errors import UsageError

from tests.test_end_to_end import kill_training, kill_writing
from tests.tiny import ROOT, TINY_BOXCASEG, train_net_forked, train_net_here

CONFIG = ROOT / "configs" / "boxcaseg_shapes.yaml"
LABELS = "4_pseudo_labels/pseudo_labels.json"
RUN = {"config": CONFIG, "extra": TINY_BOXCASEG}
KILLS = {
    "box_segmenter": kill_training("box_segmenter"),
    "box_masks": kill_writing("box_masks"),
    "proxy_masks": kill_writing("proxy_masks"),
}


@pytest.fixture(scope="module")
def finished(shapes_root, tmp_path_factory):
    """The folder of an unbroken run."""
    output = tmp_path_factory.mktemp("boxcaseg")
    done = train_net_here(datasets=shapes_root, output=output, **RUN)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def content_of(output):
    return json.loads((output / LABELS).read_text())


def test_figures_and_baselines(finished):
    entries = json.loads((finished / "metrics.json").read_text())["stages"]
    measured = {(entry["stage"], entry["protocol"]): entry["metrics"] for entry in entries}
    for stage in ("box_segmenter", "box_masks"):
        for protocol in ("box masks", "baseline filled box", "baseline GrabCut"):
            assert 0 < measured[stage, protocol]["mIoU"] <= 100
        boxes = {measured[stage, p]["boxes"] for s, p in measured if s == stage}
        assert len(boxes) == 1
    assert {"voc", "proxy masks"} <= {p for s, p in measured if s == "proxy_masks"}
    assert ("mask_rcnn", "voc") in measured


def test_every_box_is_exported_with_its_confidence(finished, shapes_root):
    given = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())
    found = content_of(finished)
    assert len(found["annotations"]) == len(given["annotations"])
    boxes = sorted(tuple(float(v) for v in a["bbox"]) for a in given["annotations"])
    assert sorted(tuple(a["bbox"]) for a in found["annotations"]) == boxes
    assert all(0 <= a["confidence"] <= 1 for a in found["annotations"])


def test_a_predictor_makes_the_same_masks_of_the_same_boxes(finished, shapes_root):
    """Of the network that this run has trained; its class names serve as classes."""
    reader = ProductReader(finished / "2_box_masks", "box_masks")
    key = next(key for key in sorted(reader.keys()) if len(reader[key]["boxes"]) > 1)
    (path,) = (shapes_root / "shapes" / "JPEGImages").glob(f"{key}.*")
    kept, predictor = reader[key], wsis.Predictor(finished, stage="box_masks")
    names = [predictor.metadata.thing_classes[number] for number in kept["classes"]]
    image = cv2.imread(str(path))
    found = predictor(image, boxes=kept["boxes"], classes=names)["instances"]
    np.testing.assert_array_equal(found.pred_masks.numpy(), kept["masks"])
    np.testing.assert_array_equal(found.pred_classes.numpy(), kept["classes"])


def test_masks_share_no_pixel_and_stay_in_their_boxes(finished):
    reader = ProductReader(finished / "3_proxy_masks", "proxy_masks")
    keys = list(reader.keys())
    assert keys
    for key in keys:
        arrays = reader[key]
        assert arrays["masks"].sum(axis=0).max(initial=0) <= 1
        for mask, (x0, y0, x1, y1) in zip(arrays["masks"], arrays["boxes"], strict=True):
            inside = mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
            assert inside.sum() == mask.sum()
        assert "ignore" not in arrays


def test_killed_in_its_own_stages_it_ends_with_the_same_bytes(finished, shapes_root, tmp_path):
    for stage, prelude in KILLS.items():
        killed = train_net_forked(
            "--until-stage",
            stage,
            datasets=shapes_root,
            output=tmp_path,
            prelude=prelude,
            **RUN,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    done = train_net_here(
        "--until-stage", "pseudo_labels", datasets=shapes_root, output=tmp_path, **RUN
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / LABELS).read_bytes() == (finished / LABELS).read_bytes()
    resumed, unbroken = (
        torch.load(folder / "1_box_segmenter" / "model_final.pth", weights_only=True)["model"]
        for folder in (tmp_path, finished)
    )
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)


def test_two_processes_make_what_one_makes(finished, shapes_root, tmp_path):
    shutil.copytree(finished / "1_box_segmenter", tmp_path / "1_box_segmenter")
    words = ("--until-stage", "pseudo_labels", "--num-gpus", 0, "--num-processes", 2)
    done = train_net_forked(*words, datasets=shapes_root, output=tmp_path, **RUN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "python train_net.py --num-processes 2 --config-file" in done.stdout  # to go on
    assert "Warning" not in done.stderr  # of Detectron2's own code, in each of them
    assert (tmp_path / LABELS).read_bytes() == (finished / LABELS).read_bytes()
    one, two = (
        json.loads((o / "metrics.json").read_text())["stages"] for o in (finished, tmp_path)
    )
    assert two == one[: len(two)]


def test_options_of_proxy_masks_make_them_stale_and_take_effect(finished, shapes_root, tmp_path):
    output = shutil.copytree(finished, tmp_path / "copy")
    node = "proxy_masks.MODEL.BOXCASEG.PROXY."
    extra = [(node + "CONFIDENCE", "original"), (node + "IGNORE_CONTESTED", "True")]
    extra += [(node + "IGNORE_BETWEEN", "(0.3,0.7)")]
    run = RUN | {"extra": [*TINY_BOXCASEG, *extra]}
    listed = train_net_here("--list-stages", datasets=shapes_root, output=output, **run)
    states = [line.split()[2] for line in listed.stdout.splitlines()[2:]]
    assert states == ["done", "done", "stale", "stale", "stale"]
    words = ("--from-stage", "proxy_masks", "--force")
    retrain = [("mask_rcnn.MODEL.ROI_MASK_HEAD.USE_IGNORE", "True")]
    run = RUN | {"extra": [*TINY_BOXCASEG, *extra, *retrain]}
    done = train_net_here(*words, datasets=shapes_root, output=output, **run)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = content_of(finished), content_of(output)
    assert any("ignore_mask" in a for a in after["annotations"])
    assert not any("ignore_mask" in a for a in before["annotations"])
    pairs = zip(before["annotations"], after["annotations"], strict=True)
    assert all(a["confidence"] >= b["confidence"] for a, b in pairs)


def test_boxes_alone_give_the_same_pseudo_labels(finished, shapes_root, tmp_path):
    """``boxes_train.json`` has no masks, and nothing asks for them; Mask R-CNN has box AP."""
    root = shapes_root / "shapes"
    extra = [
        (
            f"DATA.{split.upper()}",
            f"{{FORMAT: coco, JSON: {root}/boxes_{split}.json, IMAGES: {root}/JPEGImages, "
            "SUPERVISION: box}",
        )
        for split in ("train", "val")
    ]
    run = RUN | {"extra": [*TINY_BOXCASEG, *extra]}
    done = train_net_here(datasets=shapes_root, output=tmp_path, **run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert content_of(tmp_path)["annotations"] == content_of(finished)["annotations"]
    found = json.loads((tmp_path / "metrics.json").read_text())["stages"]
    assert [(entry["stage"], entry["protocol"]) for entry in found] == [("mask_rcnn", "coco_bbox")]


def test_a_trained_network_serves_without_training_and_salient_images(
    finished, shapes_root, tmp_path
):
    extra = [("box_segmenter.SOLVER.MAX_ITER", "0"), ("DATA.SALIENT", "")]
    words = ("--until-stage", "box_masks")
    run = RUN | {"extra": [*TINY_BOXCASEG, *extra]}
    done = train_net_here(*words, datasets=shapes_root, output=tmp_path / "none", **run)
    assert done.returncode == 2
    assert "MODEL.WEIGHTS, which is empty" in done.stderr
    weights = finished / "1_box_segmenter" / "model_final.pth"
    run["extra"].append(("box_segmenter.MODEL.WEIGHTS", str(weights)))
    done = train_net_here(*words, datasets=shapes_root, output=tmp_path, **run)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        json.loads((o / "metrics.json").read_text())["stages"] for o in (finished, tmp_path)
    )
    assert two == one[: len(two)]


def test_the_segmenter_learns_from_boxes_of_other_classes(tmp_path):
    """It does not look at classes; a stage that does refuses them."""
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}
    content = {"images": [image], "categories": [{"id": 7, "name": "fish"}], "annotations": []}
    (tmp_path / "fish.json").write_text(json.dumps(content))
    entry = f"{{NAME: fish, FORMAT: coco, JSON: {tmp_path}/fish.json, IMAGES: {tmp_path}}}"
    both = f"[shapes_train, {entry}]"
    assert load_pipeline(CONFIG, ["box_segmenter.DATA.TRAIN", both]).stages
    with pytest.raises(UsageError, match="different classes"):
        load_pipeline(CONFIG, ["DATA.TRAIN", both])
