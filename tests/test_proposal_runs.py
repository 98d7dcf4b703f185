"""Runs with segment proposals, through the real entry point: kills, two processes, bad files."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import scipy.io
from wsis.data.artifacts import ProductReader

from tests.data.proposals.files import prm_entry
from tests.test_bad_input import assert_clean, assert_refused
from tests.test_end_to_end import kill_writing
from tests.tiny import ROOT, manifest_of, train_net_forked, train_net_here

CONFIG = ROOT / "configs" / "prm_shapes.yaml"
EXTRA = (
    ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1000.0"),
    ("MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "3"),
    ("MODEL.PEAK_CLASSIFIER.SUB_PIXEL_FACTOR", "2"),
    ("WSIS.PROPOSALS.MAX_COUNT", "60"),
    ("proposals.DATALOADER.NUM_WORKERS", "0"),
)
LAST = ("--until-stage", "peak_instances")
STAGES = ("proposals", "peak_instances")


@pytest.fixture(scope="module")
def unbroken(shapes_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("prm")
    run = {"datasets": shapes_root, "output": output, "config": CONFIG, "extra": EXTRA}
    done = train_net_here(*LAST, **run)
    assert done.returncode == 0, done.stderr
    return output


def artifacts(output):
    """``{name: bytes}`` of what the stages with artifacts made."""
    return {
        f"{path.parts[-3]}/{path.name}": path.read_bytes()
        for stage in STAGES
        for path in output.glob(f"*_{stage}/artifacts/*.npz")
    }


def test_every_image_has_proposals_and_instances(unbroken, shapes_root):
    images = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())["images"]
    assert len(artifacts(unbroken)) == 2 * len(images)
    product = ProductReader(unbroken / "3_peak_instances", "peak_instances")
    assert sum(len(product[key]["classes"]) for key in product.keys()) > 0  # noqa: SIM118
    figures = json.loads((unbroken / "metrics.json").read_text())["stages"]
    found = {(entry["stage"], entry["protocol"]): entry["metrics"] for entry in figures}
    assert {"AP25", "AP50", "ABO"} <= found["peak_instances", "voc"].keys()
    assert {"ABO", "recall50"} <= found["proposals", "proposals"].keys()


def test_killed_in_both_stages_it_ends_with_the_same_bytes(unbroken, shapes_root, tmp_path):
    """Killed training is tested with IRNet's networks (`tests.test_end_to_end`)."""
    shutil.copytree(unbroken / "1_peak_classifier", tmp_path / "1_peak_classifier")
    run = {"datasets": shapes_root, "output": tmp_path, "config": CONFIG, "extra": EXTRA}
    for stage in STAGES:
        killed = train_net_forked("--until-stage", stage, prelude=kill_writing(stage), **run)
        assert killed.returncode == -signal.SIGKILL, f"{stage}: {killed.stderr}"
        assert manifest_of(tmp_path, stage)["status"] == "running", stage
        made = len(list(tmp_path.glob(f"*_{stage}/artifacts/*.npz")))
        assert made < len(artifacts(unbroken)) // 2, f"{stage} was done before it was killed"
    done = train_net_here(*LAST, **run)
    assert done.returncode == 0, done.stderr
    assert artifacts(tmp_path) == artifacts(unbroken)
    assert_clean(tmp_path, finished=("peak_classifier", *STAGES))


def test_two_processes_make_what_one_makes(unbroken, shapes_root, tmp_path):
    shutil.copytree(unbroken / "1_peak_classifier", tmp_path / "1_peak_classifier")
    two = ("--num-gpus", 0, "--num-processes", 2)
    run = {"datasets": shapes_root, "output": tmp_path, "config": CONFIG, "extra": EXTRA}
    done = train_net_forked(*LAST, *two, **run)
    assert done.returncode == 0, done.stderr
    assert artifacts(tmp_path) == artifacts(unbroken)
    one, both = (json.loads((o / "metrics.json").read_text()) for o in (unbroken, tmp_path))
    assert both["stages"] == one["stages"]


# Bad proposal files.


def read_from(shapes_root, tmp_path, form, root, *more):
    extra = (*EXTRA, ("WSIS.PROPOSALS.FORMAT", form), ("WSIS.PROPOSALS.ROOT", str(root)), *more)
    run = {"datasets": shapes_root, "output": tmp_path / "out", "config": CONFIG, "extra": extra}
    return train_net_here("--stage", "proposals", **run)


def files_for(shapes_root, folder, content):
    """A JSON file for every image: what ``content`` gives for its size (H, W)."""
    folder.mkdir()
    images = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())["images"]
    for image in images:
        name = image["file_name"].rpartition("/")[2].replace(".jpg", ".json")
        text = json.dumps(content((image["height"], image["width"])))
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda size: [prm_entry(np.ones((size[0] + 1, size[1]), bool))], ["(height, width)"]),
        (lambda size: [], ["lists no proposals"]),
        (lambda size: [{"size": size, "counts": "oooooooooooooooo1"}], ["absurdly"]),
        (lambda size: [{"size": size, "counts": [0, 2**40]}], ["one longer than the image"]),
        (lambda size: [{"size": [2**31, 2**31], "counts": "0"}], ["size is (2147483648"]),
        (lambda size: [{"polygon": [1, 2, 3]}], ["has no RLE"]),
    ],
    ids=["wrong size", "empty list", "absurd RLE", "absurd counts", "absurd size", "no masks"],
)
def test_bad_files(shapes_root, tmp_path, content, words):
    root = files_for(shapes_root, tmp_path / "files", content)
    done = read_from(shapes_root, tmp_path, "auto", root)
    assert_refused(done, "files/train_", ".json", *words)
    assert_clean(tmp_path / "out")


def test_unknown_formats_and_folders(shapes_root, tmp_path):
    for policy in ("raise", "skip"):  # the config is wrong, so there is nothing to skip
        done = read_from(shapes_root, tmp_path, "hdf5", tmp_path, ("WSIS.ON_ERROR", policy))
        assert_refused(done, "WSIS.PROPOSALS.FORMAT is 'hdf5'", "generate, auto, npz", code=2)
    done = read_from(shapes_root, tmp_path, "auto", tmp_path / "nowhere")
    assert_refused(done, "nowhere", "no folder", code=2)
    (tmp_path / "empty").mkdir()
    done = read_from(shapes_root, tmp_path, "auto", tmp_path / "empty")
    assert_refused(done, "no proposals for image train_00000", "WSIS.PROPOSALS.ROOT")
    scipy.io.savemat(tmp_path / "empty" / "train_00000.mat", {"boxes": np.zeros(3)})
    done = read_from(shapes_root, tmp_path, "auto", tmp_path / "empty")
    assert_refused(done, "train_00000.mat", "expected superpixels and labels")
    assert_clean(tmp_path / "out")
