"""What users and disks get wrong: one clear sentence, a non-zero exit code, nothing half-written.

Most cases run in this process (`train_net_here`), through the same ``main`` as ``train_net.py``.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import voc_tree, xml
from tests.tiny import ROOT, labels_of, manifest_of, train_net, train_net_here


def assert_refused(done, *words, code=1):
    """One sentence with these words, this exit code, no traceback."""
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, done.stderr[-3000:]
    for word in words:
        assert str(word) in said[0], said[0]
    assert said[0] in done.stderr.splitlines()[-1], "something follows the message"


def assert_clean(output, *, finished=()):
    """Nothing half-written, and only these stages claim to be done."""
    assert not list(output.rglob("*.tmp"))
    for path in output.glob("*/manifest.json"):
        stage = path.parent.name.partition("_")[2]
        status = json.loads(path.read_text())["status"]
        assert status == ("done" if stage in finished else "running"), stage


@pytest.fixture
def datasets(shapes_root, tmp_path):
    """A copy of the data sets, to be broken."""
    return shutil.copytree(shapes_root, tmp_path / "datasets")


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the finished run, to be broken."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


def truncate(path, *, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return data


def image_of(datasets, index, *, split="train"):
    return datasets / "shapes" / "JPEGImages" / f"{split}_{index:05d}.jpg"


def truncate_inside(path):
    """Half of a JPEG file, which has as many bytes as before: a comment at its beginning."""
    data = path.read_bytes()
    half = len(data) // 2
    comment = b"\xff\xfe" + (len(data) - half - 2).to_bytes(2, "big")
    comment += bytes(len(data) - half - len(comment))
    path.write_bytes(data[:2] + comment + data[2:half])
    assert path.stat().st_size == len(data)
    return data


# The command line and the data set.


def test_the_entry_point_itself_passes_code_and_sentence_on(tmp_path):
    """The one case that goes through a process of its own for certain."""
    done = train_net(datasets=tmp_path / "nowhere", output=tmp_path / "out")
    assert_refused(done, "nowhere/shapes/instances_train.json", "run python datasets/make_shapes")
    assert_clean(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "cams"], ["no stage 'cams'", "classifier, cam, inter_pixel_label"]),
        (["--num-gpus", torch.cuda.device_count() + 4], ["--num-gpus", "--num-processes N"]),
        (["--num-gpus", "-1"], ["--num-gpus must be 0 or more"]),
        (["SOLVER.NO_KEY", "1"], ["NO_KEY"]),
        (["cams.SEED", "1"], ["'cams.SEED' is neither a config key nor <stage>.KEY"]),
        (["SEED"], ["KEY VALUE"]),
        (["DATA.TRAIN", "shapes_trian"], ["(nor a path) 'shapes_trian'", "shapes_train"]),
        (["MODEL.RESNETS.DEPTH", "17"], ["depth 17", "18, 34, 50"]),
        (["MODEL.META_ARCHITECTURE", "CAMNetz"], ["CAMNetz"]),
        (["SOLVER.IMS_PER_BATCH", "0"], ["SOLVER.IMS_PER_BATCH", "0"]),
        (["--num-processes", "4"], ["classifier", "IMS_PER_BATCH 2", "not divisible by 4 pro"]),
        (["MODEL.DEVICE", "tpu"], ["stage classifier: MODEL.DEVICE is 'tpu'", "has cpu"]),
        (["INPUT.CROP_SIDE", "-5"], ["INPUT.CROP_SIDE is -5; it must be 0 or more"]),
        (["classifier.DATA.TRAIN", "birds"], ["stage classifier: DATA.TRAIN: there is no data"]),
        (["WSIS.ON_ERROR", "ignore"], ["WSIS.ON_ERROR", "ignore", "raise", "skip"]),
    ],
)
def test_wrong_commands(shapes_root, tmp_path, arguments, words):
    extra = tuple(zip(arguments[::2], arguments[1::2], strict=False))
    if str(arguments[0]).startswith("--") or len(arguments) % 2:
        done = train_net_here(*arguments, datasets=shapes_root, output=tmp_path / "out")
    else:
        done = train_net_here(datasets=shapes_root, output=tmp_path / "out", extra=extra)
    assert_refused(done, *words, code=2)
    assert_clean(tmp_path / "out")


def test_missing_data_set_is_mended_by_making_it(shapes_root, tmp_path):
    root, output = tmp_path / "datasets", tmp_path / "out"
    done = train_net_here("--stage", "classifier", datasets=root, output=output)
    assert_refused(done, "instances_train.json does not exist", "DETECTRON2_DATASETS")
    root.symlink_to(shapes_root)
    done = train_net_here("--stage", "classifier", datasets=root, output=output)
    assert done.returncode == 0, done.stderr


def test_stages_are_listed_without_the_data(tmp_path):
    config = ROOT / "configs" / "irnet_voc.yaml"
    run = {"datasets": tmp_path, "output": tmp_path / "out", "config": config}
    done = train_net_here("--list-stages", **run)
    assert done.returncode == 0
    assert "relation_network" in done.stdout
    assert "VOC2012 does not exist" in done.stdout


def test_nothing_to_evaluate(shapes_root, tmp_path):
    done = train_net_here("--eval-only", datasets=shapes_root, output=tmp_path / "out")
    assert_refused(done, "nothing to evaluate", "run without --eval-only first")


def test_images_without_a_single_tag(shapes_root, tmp_path):
    datasets = shutil.copytree(shapes_root, tmp_path / "datasets")
    path = datasets / "shapes" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = []
    for image in content["images"]:
        image["image_labels"] = []
    path.write_text(json.dumps(content))
    done = train_net_here("--stage", "classifier", datasets=datasets, output=tmp_path / "out")
    assert_refused(done, "no image of shapes_train has a tag", "datasets/README.md")


def test_a_change_upstream_is_named_where_it_was_made(tiny_run, shapes_root, tmp_path):
    output = shutil.copytree(tiny_run, tmp_path / "out")
    change = (("SOLVER.MAX_ITER", "5"),)
    run = {"datasets": shapes_root, "output": output, "extra": change}
    done = train_net_here("--stage", "relation_network", **run)
    assert_refused(
        done,
        "it builds on classifier, which is stale: SOLVER.MAX_ITER was 4 and is 5",
        "relation_network.KEY VALUE",
    )


def test_missing_voc(tmp_path):
    config = ROOT / "configs" / "irnet_voc.yaml"
    done = train_net_here(datasets=tmp_path, output=tmp_path / "out", config=config)
    assert_refused(done, "VOC2012 does not exist", "prepare_voc.py", "DETECTRON2_DATASETS")


def test_xml_with_an_unknown_class(tmp_path):
    images = {"2007_000001": {"xml": xml(("cat", 1, 1, 3, 3), ("wombat", 1, 1, 3, 3))}}
    voc_tree(tmp_path / "VOC2012", images, {"trainaug": ["2007_000001"]})
    config = ROOT / "configs" / "irnet_voc.yaml"
    done = train_net_here(datasets=tmp_path, output=tmp_path / "out", config=config)
    assert_refused(done, "2007_000001.xml", "annotation 2", "'wombat'", "aeroplane", "classes.txt")
    assert_clean(tmp_path / "out")


def test_output_folder_that_cannot_be_written(shapes_root, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = train_net_here(datasets=shapes_root, output=tmp_path / "file" / "out")
    assert_refused(done, tmp_path / "file" / "out", "set OUTPUT_DIR")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1_classifier").write_text("in the way of a stage's folder")
    done = train_net_here(datasets=shapes_root, output=tmp_path / "out")
    assert_refused(done, tmp_path / "out" / "1_classifier", "OUTPUT_DIR")


# Images.


def test_truncated_image_stops_training_and_a_rerun_goes_on(datasets, tiny_run, tmp_path):
    output = tmp_path / "out"
    last = [image_of(datasets, index) for index in range(8)]
    whole = {path: truncate_inside(path) for path in last}
    done = train_net_here("--until-stage", "cam", datasets=datasets, output=output)
    assert_refused(done, "train_0000", ".jpg cannot be read", "truncated", "replace or remove it")
    assert_clean(output)
    for path, data in whole.items():
        path.write_bytes(data)
    truncate_inside(last[5])
    shutil.rmtree(output / "1_classifier")
    shutil.copytree(tiny_run / "1_classifier", output / "1_classifier")
    done = train_net_here("--until-stage", "cam", datasets=datasets, output=output)
    assert_refused(done, last[5].name, "truncated")
    assert_clean(output, finished=("classifier",))
    made = sorted(path.stem for path in output.glob("2_cam/artifacts/*.npz"))
    assert made == [f"train_0000{index}" for index in range(5)]
    last[5].write_bytes(whole[last[5]])
    done = train_net_here("--until-stage", "pseudo_labels", datasets=datasets, output=output)
    assert done.returncode == 0, done.stderr
    assert labels_of(output) == labels_of(tiny_run)


def test_skipped_images_are_listed_and_all_else_finishes(datasets, tmp_path):
    output = tmp_path / "out"
    for index in (2, 5):
        truncate(image_of(datasets, index))
    truncate(image_of(datasets, 1, split="val"))
    skip = (("WSIS.ON_ERROR", "skip"),)
    done = train_net_here(datasets=datasets, output=output, extra=skip)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("cam", "inter_pixel_label", "displacement_mean", "instances"):
        manifest = manifest_of(output, stage)
        assert set(manifest["skipped"]) == {"train_00002", "train_00005"}, stage
        told = {"collapsed": 0} if stage == "instances" else {}
        assert manifest["counts"] == {"images": 6, "skipped": 2} | told
    assert "truncated" in manifest_of(output, "cam")["skipped"]["train_00002"]
    trained = manifest_of(output, "classifier")  # on eight images, one epoch
    assert set(trained["skipped"]) == {"train_00002", "train_00005"}
    assert trained["counts"] == {"images": 6, "iterations": 4, "skipped": 2}
    content = json.loads(labels_of(output))
    assert len(content["images"]) == 6
    assert {a["image_id"] for a in content["annotations"]} <= {i["id"] for i in content["images"]}
    listed = train_net_here("--list-stages", datasets=datasets, output=output, extra=skip)
    states = [line.split()[2] for line in listed.stdout.splitlines()[2:]]
    assert states == ["done"] * 8
    again = train_net_here(datasets=datasets, output=output, extra=skip)
    assert "Nothing to do" in again.stdout


ODD_IMAGES = {
    "grey.png": np.full((40, 50), 90, np.uint8),
    "rgba.png": np.full((33, 64, 4), 120, np.uint8),
    "deep.png": np.full((48, 40), 40_000, np.uint16),
    "line.png": np.full((37, 1, 3), 200, np.uint8),
    "row.png": np.full((1, 40, 3), 30, np.uint8),
    "empty.png": np.full((30, 30, 3), 10, np.uint8),
}


def own_data_set(folder, *, annotations=(), sizes=True):
    """Pictures of every kind with tags (``empty.png`` has none), and a pipeline over them."""
    (folder / "images").mkdir(parents=True)
    entries = []
    generator = np.random.default_rng(0)
    for identity, (name, pixels) in enumerate(ODD_IMAGES.items(), start=1):
        noise = generator.integers(0, 50, pixels.shape).astype(pixels.dtype)
        Image.fromarray(pixels + noise).save(folder / "images" / name)
        entry = {"id": identity, "file_name": name}
        entry["image_labels"] = [] if name == "empty.png" else [identity % 2 + 1]
        if sizes:
            entry |= {"height": pixels.shape[0], "width": pixels.shape[1]}
        entries.append(entry)
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "pen"}]
    content = {"images": entries, "categories": categories, "annotations": list(annotations)}
    (folder / "mine.json").write_text(json.dumps(content))
    return own_pipeline(folder)


def own_pipeline(folder, name="irnet_shapes"):
    """A pipeline YAML beside the data set: a shipped one on the user's images."""
    data = {"FORMAT": "coco", "JSON": "mine.json", "IMAGES": "images"}
    pipeline = folder / "mine.yaml"
    content = {"_BASE_": f"{name}.yaml", "DATA": {"TRAIN": data, "VAL": data}}
    pipeline.write_text(json.dumps(content))  # JSON is YAML
    return pipeline


@pytest.mark.parametrize("sizes", [True, False], ids=["sizes", "no sizes"])
def test_images_of_every_kind_and_size_with_tags_only(tmp_path, sizes):
    pipeline = own_data_set(tmp_path / f"data_{sizes}", sizes=sizes)
    done = train_net_here(datasets=tmp_path, output=tmp_path / "out", config=pipeline)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads(labels_of(tmp_path / "out"))
    assert len(content["images"]) == len(ODD_IMAGES)
    assert content["annotations"]
    empty = next(i["id"] for i in content["images"] if i["file_name"] == "empty.png")
    assert empty not in {a["image_id"] for a in content["annotations"]}


# Pseudo labels from outside.


def break_rle(path):
    """Change one character of the first RLE, so that it covers another number of pixels."""
    text = path.read_text()
    start = text.index('"counts": "') + len('"counts": "')
    path.write_text(text[:start] + chr(ord(text[start]) ^ 1) + text[start + 1 :])


def test_pseudo_labels_with_a_bad_rle(copy, shapes_root):
    path = copy / "7_pseudo_labels" / "pseudo_labels.json"
    good = path.read_bytes()
    break_rle(path)
    shutil.rmtree(copy / "8_mask_rcnn")
    done = train_net_here(datasets=shapes_root, output=copy)
    assert_refused(done, path, "image 1, annotation 1", "segmentation", "pixels")
    assert_clean(copy, finished=STAGES[:-1])
    path.write_bytes(good)
    assert train_net_here(datasets=shapes_root, output=copy).returncode == 0


def test_no_pseudo_label_at_all(copy, shapes_root):
    high = (("pseudo_labels.WSIS.PSEUDO_LABELS.MIN_SCORE", "1.1"),)
    run = {"datasets": shapes_root, "output": copy, "extra": high}
    done = train_net_here("--from-stage", "pseudo_labels", "--force", **run)
    path = copy / "7_pseudo_labels" / "pseudo_labels.json"
    assert_refused(done, "no pseudo label", path, "instances", "MIN_SCORE (1.1)", "thresholds.py")
    assert "no instance is left; lower WSIS.PSEUDO_LABELS.MIN_SCORE (now 1.1)" in done.stdout
    assert_clean(copy, finished=STAGES[:-1])


STAGES = ["classifier", "cam", "inter_pixel_label", "relation_network", "displacement_mean"]
STAGES += ["instances", "pseudo_labels", "mask_rcnn"]


def test_own_annotations_with_a_bad_rle(tmp_path):
    rle = {"size": [40, 50], "counts": "00"}
    annotation = {"id": 7, "image_id": 1, "category_id": 2, "segmentation": rle, "score": 1.0}
    pipeline = own_data_set(tmp_path / "data_rle", annotations=[annotation])
    done = train_net_here(datasets=tmp_path, output=tmp_path / "out", config=pipeline)
    assert_refused(done, "mine.json", "image 1, annotation 7", "segmentation counts cover 0")
    assert_clean(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"JSON": "absent.json"}, ["absent.json", "does not exist"]),
        ({"IMAGES": "absent"}, ["absent", "does not exist"]),
        ({"FORMAT": "xlsx"}, ["FORMAT is one of coco, voc, folders, csv, yolo, ", ", not xlsx"]),
    ],
)
def test_own_data_set_described_wrongly(tmp_path, change, words):
    name = "data_" + "_".join(change)
    pipeline = own_data_set(tmp_path / name, sizes=False)
    content = json.loads(pipeline.read_text())
    content["DATA"]["TRAIN"].update(change)
    pipeline.write_text(json.dumps(content))
    done = train_net_here(datasets=tmp_path, output=tmp_path / "out", config=pipeline)
    assert_refused(done, *words, code=2 if "FORMAT" in change else 1)


def test_an_image_in_two_roles_is_told_before_any_training(tmp_path):
    """CIM's proposals are of the images of both roles, which would overwrite each other's."""
    pipeline = own_data_set(tmp_path / "data", sizes=True)
    content = json.loads(pipeline.read_text()) | {"_BASE_": "cim_shapes.yaml"}
    pipeline.write_text(json.dumps(content))
    done = train_net_here(datasets=tmp_path, output=tmp_path / "out", config=pipeline)
    assert_refused(done, "occurs twice in mine_train, mine_val", "share no image")
    assert not list((tmp_path / "out").glob("1_*"))
