"""docs/python.md, executed as it is printed, and what the door refuses."""

import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import wsis
import wsis.ready
from wsis import door
from wsis.errors import DataError, UsageError, WSISError

from tests.tiny import PIPELINE, ROOT, environment, forked, tiny_overrides

TEXT = (ROOT / "docs" / "python.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PREDICTIONS = "8_mask_rcnn/predictions/shapes_val/coco_instances_results.json"


@pytest.fixture
def checkout(shapes_root, tiny_run, tmp_path, monkeypatch):
    """A folder laid out as the document supposes, in which Python runs."""
    (tmp_path / "output").mkdir()
    shutil.copytree(tiny_run, tmp_path / "output" / "irnet_shapes")
    (tmp_path / "datasets").symlink_to(shapes_root)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    return tmp_path


def test_the_document(checkout, shapes_root):
    """In a process of its own, as a notebook would."""
    words = ["OUTPUT_DIR", "output/irnet_shapes", *tiny_overrides()]
    code = "\n".join(CODE).replace('["DATA.VAL", "mine"]', f'["DATA.VAL", "mine", *{words!r}]')
    picture = next((shapes_root / "shapes" / "JPEGImages").glob("val_00000.*")).name
    code = code.replace("val_00000.jpg", picture)
    code += "\nassert {e['dataset'] for e in metrics['stages'] if e['stage'] == 'mask_rcnn'}"
    code += " == {'mine', 'shapes_val'}\nassert len(instances) == len(instances.pred_masks)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(shapes_root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (checkout / "found.png").stat().st_size > 1000


def test_the_predictor_gives_what_the_stage_made(checkout, shapes_root):
    """An image of the training set has the masks that the run has kept of it."""
    from wsis.data.artifacts import ProductReader

    record = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())["images"][0]
    run = checkout / "output" / "irnet_shapes"
    shutil.rmtree(run / "3_inter_pixel_label")  # not needed, nor are the data
    predictor = wsis.Predictor(run, stage="instances")
    (checkout / "datasets").unlink()
    image = cv2.imread(str(shapes_root / "shapes" / "JPEGImages" / record["file_name"]))
    kept = ProductReader(run / "6_instances", "instances")[record["file_name"].partition(".")[0]]
    tags = [predictor.metadata.thing_classes[number] for number in kept["classes"]]
    found = predictor(image, tags=tags or None)["instances"]
    above = kept["scores"] > 0
    np.testing.assert_array_equal(found.pred_classes.numpy(), kept["classes"][above])
    assert not above.any() or torch.equal(
        found.pred_masks, torch.from_numpy(np.asarray(kept["masks"][above]))
    )


def test_the_mask_rcnn_is_that_of_detectron2(checkout, shapes_root):
    from detectron2.engine import DefaultPredictor
    from wsis.config import get_wsis_cfg

    run = checkout / "output" / "irnet_shapes"
    cfg = get_wsis_cfg()
    cfg.merge_from_file(str(run / "8_mask_rcnn" / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(run / "8_mask_rcnn" / "model_final.pth")  # the run was copied
    image = cv2.imread(str(next((shapes_root / "shapes" / "JPEGImages").glob("val_*"))))
    theirs = DefaultPredictor(cfg)(image)["instances"]
    ours = wsis.Predictor(run, min_score=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST)(image)["instances"]
    assert len(ours) == len(theirs) > 0
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)


def test_true_masks_score_100(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    from wsis.data.builtin import get_dataset_dicts
    from wsis.data.ground_truth import load_ground_truth
    from wsis.layers.run_lengths import encode_mask

    entries = [
        {
            "image_id": record["image_id"],
            "category_id": int(class_id) + 1,
            "score": 0.5,
            "segmentation": encode_mask(mask),
        }
        for record in get_dataset_dicts("shapes_val")
        for truth in [load_ground_truth(record)]
        for mask, class_id in zip(truth.masks, truth.classes, strict=True)
    ]
    path = tmp_path / "perfect.json"
    path.write_text(json.dumps(entries))
    found = wsis.evaluate(path, "shapes_val")
    assert found["voc"]["AP50"] == found["coco"]["AP"] == 100
    for change, message in (
        ({"category_id": 17}, "has no category 17"),
        ({"image_id": "x"}, "has no image with the id 'x'"),
        ({"score": None}, "score is None, not a number"),
        ({"segmentation": {"size": [1, 1], "counts": "1"}}, "image "),
    ):
        path.write_text(json.dumps([entries[0] | change]))
        with pytest.raises(DataError, match=message):
            wsis.evaluate(path, "shapes_val")
    path.write_text("{}")
    with pytest.raises(DataError, match="a list of objects"):
        wsis.evaluate(path, "shapes_val")
    with pytest.raises(DataError, match="does not exist"):
        wsis.evaluate(tmp_path / "absent.json", "shapes_val")
    with pytest.raises(UsageError, match=r"no data set \(nor a path\) 'nowhere'"):
        wsis.evaluate(path, "nowhere")


@pytest.mark.parametrize(
    "image",
    [None, "a.jpg", np.zeros((4, 5)), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), np.uint8)],
    ids=["none", "path", "grey", "float", "empty"],
)
def test_what_is_no_image_is_told(checkout, image):
    predictor = wsis.Predictor(checkout / "output" / "irnet_shapes")
    with pytest.raises(UsageError, match="an image is an array"):
        predictor(image)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: evil.yaml\nWSIS: {IMPORTS: []}", "has a _BASE_, which no run writes"),
        ("WSIS: {IMPORTS: [evil]}", "imports evil; if you trust it, name it in imports="),
        ("!!python/object/apply:os.system [touch pwned]", "is no stage's config"),
        ("WSIS: {IMPORTS: [], STAGE: cam}\nNO_KEY: 1", "is no stage's config of this version"),
        ("[1]", "is no stage's config"),
        ("", "is no stage's config"),
        ("a: [", "is no stage's config"),
    ],
)
def test_a_strangers_run_folder_runs_nothing(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    evil = "!!python/object/apply:os.system [touch pwned]\n"
    (tmp_path / "1_cam").mkdir()
    (tmp_path / "1_cam" / "config.yaml").write_text(text)
    (tmp_path / "1_cam" / "evil.yaml").write_text(evil)
    (tmp_path / "evil.py").write_text("open('pwned', 'w')")
    with pytest.raises(WSISError, match=message):
        wsis.Predictor(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_categories_are_those_of_the_file(tmp_path):
    """Category ids 4 and 9, named by a path: the file is read before they are looked up."""
    rle = {"size": [4, 6], "counts": [0, 12, 12]}
    entry = {"id": 1, "image_id": 1, "category_id": 9, "segmentation": rle, "iscrowd": 0}
    categories = [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}]
    images = [{"id": 1, "file_name": "a.png", "width": 6, "height": 4}]
    content = {"categories": categories, "images": images, "annotations": [entry]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 6, 3), np.uint8))
    found = [{"image_id": 1, "category_id": 9, "score": 1.0, "segmentation": rle}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    assert (
        wsis.evaluate(tmp_path / "found.json", tmp_path / "val.json", "voc")["voc"]["AP50"] == 100
    )


TWO_PROCESSES = """
import sys
import wsis
from wsis.errors import WSISError

entry = {"NAME": "mine", "FORMAT": "folders", "IMAGES": "mine"}
wsis.register_dataset(entry)
config, *words = sys.argv[1:]
words += ["DATA.TRAIN", "mine"]
try:  # the weights are looked for after the data, in each process
    wsis.run(config, [*words, "MODEL.WEIGHTS", "gone.pth"], num_gpus=0, num_processes=2)
except WSISError as error:
    sys.exit(f"told: {error}")
"""


def test_two_processes_know_what_was_registered_and_tell_what_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("disc", "star"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "mine" / name / "a.png"), np.zeros((40, 50, 3), np.uint8))
    words = [str(PIPELINE), "OUTPUT_DIR", str(tmp_path / "out"), *tiny_overrides()]
    done = forked(TWO_PROCESSES, *words, variables=environment(tmp_path))
    assert "told: stage classifier starts from gone.pth, which does not exist" in done.stderr


def test_the_process_that_starts_others_reads_no_data_set(tmp_path, monkeypatch):
    """One of those that it starts does, for all; it knows how they share the work all the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "images").mkdir()
    entry = "{FORMAT: coco, JSON: broken.json, IMAGES: images}"
    words = ["DATA.TRAIN", entry, "OUTPUT_DIR", "out", "SOLVER.IMS_PER_BATCH", 6]
    config, started = ROOT / "configs" / "supervised_photos.yaml", []

    def launch(main, processes, *, device):
        started.append((processes, device))
        raise KeyboardInterrupt

    monkeypatch.setattr(door, "launch", launch)
    with pytest.raises(KeyboardInterrupt):
        wsis.run(config, words, num_gpus=0, num_processes=2)
    assert started == [(2, "cpu")]
    with pytest.raises(UsageError, match="IMS_PER_BATCH 6 .*not divisible by 4 processes"):
        wsis.run(config, words, num_gpus=0, num_processes=4)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"broken.json is not a readable JSON file"):
        wsis.run(config, words, num_gpus=0)
    assert not (tmp_path / "out").exists()


def test_no_run_and_no_such_name(tmp_path):
    with pytest.raises(WSISError, match=r"\(boxcaseg_ready; did you mean boxcaseg_ready\?\)"):
        wsis.Predictor("boxcaseg_redy")
    with pytest.raises(WSISError, match="holds no stage that has run"):
        wsis.Predictor(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        _ = wsis.predict


@pytest.mark.parametrize("overrides", ["SEED 1", {"SEED": 1}])
def test_overrides_are_a_list(overrides):
    with pytest.raises(UsageError, match=r"overrides are a list, \[KEY, VALUE"):
        wsis.run(PIPELINE, overrides)


def test_import_alone_is_cheap(shapes_root):
    code = "import sys, wsis; print(int('torch' in sys.modules or 'detectron2' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(shapes_root), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0"


def test_large_and_thin_images_have_instances_of_their_size(checkout):
    """Above INPUT.MAX_PIXELS the stages work on a smaller image; masks and boxes are enlarged."""
    run = checkout / "output" / "irnet_shapes"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    large = cv2.resize(pixels, (1000, 1400), interpolation=cv2.INTER_CUBIC)
    detector, maker = (wsis.Predictor(run, stage, min_score=0) for stage in (None, "instances"))
    for image in (large, pixels, *(pixels[:h, :w].copy() for h, w in ((1, 1), (1, 9), (12, 1)))):
        for found in (detector(image), maker(image, tags=["disc"])):
            instances = found["instances"]
            assert instances.image_size == instances.pred_masks.shape[1:] == image.shape[:2]
            corners = instances.pred_boxes.tensor[:, 2:]
            assert (corners <= torch.tensor(image.shape[1::-1])).all()
        assert len(instances)
    assert found["boundary"].shape == (3, 1)
