"""What users get wrong with boxes and salient images: one sentence, before anything is trained."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.test_bad_input import assert_refused
from tests.tiny import ROOT, TINY_BOXCASEG, train_net_here

CONFIG = ROOT / "configs" / "boxcaseg_shapes.yaml"


@pytest.fixture
def run(shapes_root, tmp_path):
    """Runs the tiny pipeline on a copy of the shapes after a change of it."""

    def function(change, *extra):
        root = shutil.copytree(shapes_root, tmp_path / "data")
        change(root / "shapes")
        return train_net_here(
            "--until-stage",
            "box_masks",
            datasets=root,
            output=tmp_path / "out",
            config=CONFIG,
            extra=(*TINY_BOXCASEG, *extra),
        )

    return function


def with_box(box):
    def change(root):
        path = root / "instances_train.json"
        content = json.loads(path.read_text())
        content["annotations"][2]["bbox"] = box
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([500, 500, 10, 10], ("bbox", "lies outside its image")),
        ([-20, 0, 10, 10], ("bbox", "lies outside its image")),
        ([5, 5, 0, 10], ("bbox has no area (5, 5 to 5, 15)",)),
        ([5, 5, 10, -1], ("bbox has no area (5, 5 to 15, 4)",)),
        ([5, 5, 10], ("bbox", "4 numbers")),
    ],
)
def test_bad_boxes(run, box, words):
    assert_refused(run(with_box(box)), "annotation 3", "instances_train.json", *words)


def test_a_missing_salient_mask(run):
    done = run(lambda root: (root / "salient" / "masks" / "salient_00000.png").unlink())
    assert_refused(done, "salient_00000.jpg has no mask", "add it or leave the image out")


def test_a_mask_of_another_size_than_its_image(run):
    def change(root):
        small = np.full((9, 9), 255, dtype=np.uint8)
        Image.fromarray(small).save(root / "salient" / "masks" / "salient_00000.png")

    assert_refused(run(change), "salient_00000.png is 9 x 9", "correct one of them")


def test_a_box_that_leaves_the_image_is_clipped(run):
    done = run(with_box([-5, -5, 30, 30]), ("SOLVER.MAX_ITER", "1"))
    assert done.returncode == 0, done.stderr[-3000:]


def test_salient_images_where_classes_are_wanted(run):
    done = run(lambda root: None, ("box_masks.DATA.TRAIN", "shapes_salient"))
    assert_refused(done, "shapes_salient has salient images and no classes", code=2)


def test_tags_are_not_enough(run, shapes_root):
    root = shapes_root / "shapes"
    entry = f"{{NAME: just_tags, FORMAT: coco, JSON: {root}/tags_train.json, "
    entry += f"IMAGES: {root}/JPEGImages, SUPERVISION: image}}"
    done = run(lambda root: None, ("DATA.TRAIN", entry))
    assert_refused(
        done, "box_segmenter trains on box annotations", "SUPERVISION image only", code=2
    )
