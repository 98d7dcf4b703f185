"""From prompts to pseudo labels by train_net.py, with a tiny random model."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import wsis
from wsis.data import model_folders
from wsis.data.artifacts import read_artifact

from tests.methods.prompted_masks.networks import save_tiny
from tests.tiny import ROOT, manifest_of, train_net_here

SMALL = [
    ("MODEL.TIMM.WEIGHTS", ""),
    ("SOLVER.MAX_ITER", "2"),
    ("SOLVER.IMS_PER_BATCH", "2"),
    ("WSIS.EVALUATION.GRABCUT_ITERATIONS", "1"),
    ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"),
]
# Config file and STAGES, as the method's page has them.
PIPELINES = {
    "": ("prompted_masks_photos", ""),
    "_box": (
        "boxes_photos",
        "{prompted_box_masks: , proxy_masks: , pseudo_labels: , mask_rcnn: }",
    ),
    "_point": (
        "points_photos",
        "{prompted_point_instances: , pseudo_labels: , mask_rcnn: }",
    ),
}
LABELS = "*_pseudo_labels/pseudo_labels.json"
MODEL = "MODEL.PROMPTED_MASKS.MODEL"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "sam")


def run(root, output, model, *words, kind="_box", labels="instances", extra=()):
    shapes = root / "shapes"
    data = f"{{FORMAT: coco, JSON: {shapes}/{labels}_train.json, IMAGES: {shapes}/JPEGImages}}"
    extra = [*SMALL, ("DATA.TRAIN", data), (MODEL, str(model)), *extra]
    name, stages = PIPELINES[kind]
    extra = [("STAGES", stages), ("WSIS.METHOD", "Prompted masks"), *extra] if stages else extra
    config = ROOT / "configs" / f"{name}.yaml"
    words = words or ("--until-stage", "pseudo_labels")
    return train_net_here(*words, datasets=root, output=output, config=config, extra=extra)


def labels_of(output):
    return next(output.glob(LABELS)).read_bytes()


def states(root, output, model, **options):
    listed = run(root, output, model, "--list-stages", **options)
    assert listed.returncode == 0, listed.stderr
    return [line.split(None, 3)[2:] for line in listed.stdout.splitlines()[2:]]


@pytest.fixture(scope="module")
def finished(shapes_root, model, tmp_path_factory):
    """A run of boxes, up to the pseudo labels; for reading only."""
    output = tmp_path_factory.mktemp("runs") / "boxes"
    done = run(shapes_root, output, model)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def test_every_box_becomes_a_pseudo_label(finished, shapes_root):
    given = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())["annotations"]
    found = json.loads(labels_of(finished))["annotations"]
    assert sorted(a["bbox"] for a in found) == sorted(a["bbox"] for a in given)
    assert len({a["confidence"] for a in found}) > 1
    artifacts = [read_artifact(path) for path in finished.glob("1_*/artifacts/*.npz")]
    assert any(arrays["masks"].any() for arrays in artifacts)
    for arrays in artifacts:
        for mask, (x0, y0, x1, y1) in zip(arrays["masks"], arrays["boxes"], strict=True):
            assert mask.sum() == mask[y0:y1, x0:x1].sum()
    entries = json.loads((finished / "metrics.json").read_text())["stages"]
    figures = {(e["stage"], e["protocol"]) for e in entries}
    assert {"box masks", "baseline filled box", "baseline GrabCut"} <= {
        protocol for stage, protocol in figures if stage == "prompted_box_masks"
    }


def test_a_run_goes_on_where_it_was_ended(finished, shapes_root, model, tmp_path):
    output = shutil.copytree(finished, tmp_path / "copy")
    stage = output / "1_prompted_box_masks"
    manifest = manifest_of(output, "prompted_box_masks") | {"status": "running"}
    (stage / "manifest.json").write_text(json.dumps(manifest))
    for path in [stage / "index.json", *sorted(stage.glob("artifacts/*.npz"))[2:]]:
        path.unlink()
    state, detail = states(shapes_root, output, model)[0]
    assert (state, detail.startswith("2 of 8 artifacts")) == ("unfinished", True)
    kept = {path: path.stat().st_mtime_ns for path in stage.glob("artifacts/*.npz")}
    done = run(shapes_root, output, model)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    for path in sorted(finished.glob("1_*/artifacts/*.npz")):
        assert (stage / "artifacts" / path.name).read_bytes() == path.read_bytes()
    assert labels_of(output) == labels_of(finished)


def test_the_model_counts_by_its_content(finished, shapes_root, model, tmp_path):
    elsewhere = shutil.copytree(model, tmp_path / "elsewhere")
    (elsewhere / "README.md").write_text("not read")
    options = {"root": shapes_root, "output": finished}
    assert {state for state, *_ in states(**options, model=elsewhere)[:3]} == {"done"}
    assert {state for state, *_ in states(**options, model=tmp_path / "gone")[:3]} == {"done"}
    other = save_tiny(tmp_path / "other", seed=1)  # files of the same sizes
    (state, detail), *_ = states(**options, model=other)
    assert (state, detail.startswith("its input 'model' has changed")) == ("stale", True)
    refused = run(shapes_root, finished, other)
    assert refused.returncode == 1
    assert "stage prompted_box_masks in" in refused.stderr
    assert "is stale: its input 'model' has changed. Redo it" in refused.stderr
    batches = [("MODEL.PROMPTED_MASKS.PROMPTS_AT_ONCE", "3")]
    assert states(**options, model=model, extra=batches)[0][0] == "done"


@pytest.mark.parametrize("kind", ["_box", "_point", ""])
def test_a_missing_model_is_told_before_the_first_stage(shapes_root, tmp_path, kind):
    for name, told in (
        ("datasets/weights/sam-vit-base", "prepare_weights.py --name sam-vit-base --download"),
        (str(tmp_path / "sam-vit-huge"), f"--name sam-vit-huge --download --root {tmp_path}"),
        ("somebody/sam", 'run hf download somebody/sam --include "*.json" --include'),
        (str(tmp_path / "mine"), "name a folder that holds one"),
    ):
        refused = run(shapes_root, tmp_path / "out", name, kind=kind)
        assert refused.returncode == 1
        assert f"there is no Segment Anything model {name!r}" in refused.stderr
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr
        assert not (tmp_path / "out" / "pipeline.json").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pytorch_model.bin").write_bytes(b"code")
    refused = run(shapes_root, tmp_path / "out", tmp_path / "other", kind=kind)
    assert refused.returncode == 1
    assert f"{tmp_path / 'other'} has no weights as safetensors" in refused.stderr
    assert not (tmp_path / "out" / "pipeline.json").exists()


def test_a_damaged_manifest_is_told_and_force_redoes(finished, shapes_root, model, tmp_path):
    output = shutil.copytree(finished, tmp_path / "copy")
    (output / "1_prompted_box_masks" / "manifest.json").write_text("{")
    words = ("--stage", "prompted_box_masks")
    refused = run(shapes_root, output, model, *words)
    assert refused.returncode == 1
    assert "so nothing tells how its files were made" in refused.stderr
    done = run(shapes_root, output, model, *words, "--force")
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_missing_package_is_told_before_the_first_stage(
    finished, shapes_root, model, tmp_path, monkeypatch
):
    hidden = {"transformers"}
    monkeypatch.setattr(
        model_folders, "find_spec", lambda name: None if name in hidden else find_spec(name)
    )
    refused = run(shapes_root, tmp_path / "out", model, kind="")
    assert refused.returncode == 1
    told = "error: the package transformers is not installed; pip install transformers\n"
    assert refused.stderr.endswith(told)
    assert not (tmp_path / "out" / "1_peak_classifier").exists()
    done = run(shapes_root, finished, model)  # what is finished needs it no more
    assert done.returncode == 0, done.stderr


def test_points_become_pseudo_labels(shapes_root, model, tmp_path):
    done = run(shapes_root, tmp_path / "out", model, kind="_point", labels="points")
    assert done.returncode == 0, done.stderr[-3000:]
    given = json.loads((shapes_root / "shapes" / "points_train.json").read_text())["annotations"]
    found = json.loads(labels_of(tmp_path / "out"))["annotations"]
    assert 0 < len(found) <= len(given)


def test_a_data_set_without_boxes_is_refused(shapes_root, model, tmp_path):
    refused = run(shapes_root, tmp_path / "out", model, labels="tags")
    assert refused.returncode == 1
    assert "stage prompted_box_masks needs box annotations" in refused.stderr


def test_tags_become_masks_also_of_other_photographs(shapes_root, model, tmp_path):
    """class_peaks, then the model; `wsis.Predictor` does both on any image of any size."""
    shapes, output = shapes_root / "shapes", tmp_path / "out"
    extra = [("class_peaks.MODEL.CIM.LABEL.PEAK_THRESHOLD", "-100.0")]
    extra += [("MODEL.PROMPTED_MASKS.NMS_THRESHOLD", "0.9"), ("INPUT.MAX_PIXELS", "3000")]
    done = run(shapes_root, output, model, kind="", labels="tags", extra=extra)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(labels_of(output))["annotations"]
    predictor = wsis.Predictor(output, stage="prompted_peak_instances")
    for path in sorted((shapes / "JPEGImages").glob("train*"))[:3]:
        arrays = read_artifact(
            output / "3_prompted_peak_instances" / "artifacts" / f"{path.stem}.npz"
        )
        names = [predictor.metadata.thing_classes[k] for k in set(arrays["classes"].tolist())]
        image = cv2.imread(str(path))
        found = predictor(image, tags=names)["instances"]
        assert found.image_size == image.shape[:2]
        scores = arrays["scores"][arrays["scores"] > 0]
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    assert len(predictor(image)["instances"]) == 0  # no tags, no peaks
    narrow = predictor(np.zeros((3, 200, 3), np.uint8), tags=names)["instances"]
    assert narrow.image_size == narrow.pred_masks.shape[1:] == (3, 200)
