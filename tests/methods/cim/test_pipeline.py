"""CIM's stages through the real entry point: killed and resumed, two processes, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
from wsis.data.artifacts import ProductReader
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.layers.regions import Regions
from wsis.stage import _STAGES as stages  # noqa: N811
from wsis.stage import get_stage

from tests.test_bad_input import assert_refused
from tests.test_end_to_end import kill_training, kill_writing
from tests.tiny import ROOT, train_net_forked, train_net_here

CONFIG = ROOT / "configs" / "cim_shapes.yaml"
POINTS = ROOT / "configs" / "cim_shapes_point.yaml"
TINY = (
    ("WSIS.PROPOSALS.MAX_COUNT", "40"),
    ("MODEL.CIM.HEAD_DIM", "32"),
    ("INPUT.LONGER_SIDES_TRAIN", "(48,64)"),
    ("INPUT.LONGER_SIDES_TEST", "(64,)"),
    ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"),
    ("proposals.DATALOADER.NUM_WORKERS", "0"),
)
KILLS = {
    "proposals": kill_writing("proposals"),
    "proposal_crops": kill_writing("proposal_crops"),
    "class_peaks": kill_writing("class_peaks"),
    "peak_clusters": kill_writing("peak_clusters"),
    "complete_instances": kill_training("complete_instances"),
    "mined_instances": kill_writing("mined_instances"),
    "proposal_detections": kill_writing("proposal_detections"),
}
POINT_KILLS = {
    "point_clusters": kill_writing("point_clusters"),
    "point_instances": kill_writing("point_instances"),
}
SHARED = ("peak_classifier", "proposals", "proposal_crops")


def run(*arguments, datasets, output, config=CONFIG, extra=(), **options):
    return (train_net_forked if "prelude" in options else train_net_here)(
        *("--until-stage", "pseudo_labels"),
        *arguments,
        datasets=datasets,
        output=output,
        config=config,
        extra=(*TINY, *extra),
        **options,
    )


def folder_of(output, stage):
    return next(output.glob(f"*_{stage}"))


@pytest.fixture(scope="module")
def finished(shapes_root, tmp_path_factory):
    """The folder of an unbroken run from tags."""
    output = tmp_path_factory.mktemp("cim")
    done = run(datasets=shapes_root, output=output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture(scope="module")
def finished_points(finished, shapes_root, tmp_path_factory):
    """The folder of an unbroken run from points."""
    output = tmp_path_factory.mktemp("cim_points")
    for name in SHARED:
        folder = folder_of(finished, name)
        shutil.copytree(folder, output / folder.name)
    done = run(datasets=shapes_root, output=output, config=POINTS)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def product(output, stage):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder_of(output, stage).glob("artifacts/*.npz"))
    }


def labels(output):
    return (folder_of(output, "pseudo_labels") / "pseudo_labels.json").read_bytes()


def check_killed(unbroken, shapes_root, folder, stage, prelude, config):
    """A run that dies in ``stage`` and goes on ends with the bytes of one that does not."""
    copy = shutil.copytree(unbroken, folder)
    number = int(folder_of(copy, stage).name.partition("_")[0])
    for path in list(copy.glob("*_*")):
        if int(path.name.partition("_")[0]) == number:
            shutil.rmtree(path)
    one = ("--stage", stage)
    arguments = {"datasets": shapes_root, "output": copy, "config": config, "extra": TINY}
    killed = train_net_forked(*one, prelude=prelude, **arguments)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    done = train_net_here(*one, **arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    if stage == "complete_instances":
        network = folder_of(copy, stage) / "model_final.pth"
        assert network.read_bytes() == (folder_of(unbroken, stage) / network.name).read_bytes()
    else:
        assert product(copy, stage) == product(unbroken, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", KILLS)
def test_killed_it_ends_with_the_same_bytes(finished, shapes_root, tmp_path, stage):
    check_killed(finished, shapes_root, tmp_path / "copy", stage, KILLS[stage], CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("stage", POINT_KILLS)
def test_killed_with_points(finished_points, shapes_root, tmp_path, stage):
    prelude = POINT_KILLS[stage]
    check_killed(finished_points, shapes_root, tmp_path / "copy", stage, prelude, POINTS)


@pytest.mark.slow
def test_two_processes_make_what_one_makes(finished, shapes_root, tmp_path):
    for name in ("peak_classifier", "complete_instances"):
        folder = folder_of(finished, name)
        shutil.copytree(folder, tmp_path / folder.name)
    two = ("--num-gpus", 0, "--num-processes", 2)
    done = run(*two, datasets=shapes_root, output=tmp_path, prelude="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert labels(tmp_path) == labels(finished)


def test_figures_of_every_product(finished):
    measured = json.loads((finished / "metrics.json").read_text())["stages"]
    found = {(entry["stage"], entry["dataset"]) for entry in measured}
    assert ("mined_instances", "shapes_train") in found
    assert ("proposal_detections", "shapes_val") in found


def test_what_is_stored_grows_with_the_proposals_only(finished):
    reader = ProductReader(folder_of(finished, "proposal_crops"), "proposal_crops")
    for key in reader.keys():  # noqa: SIM118
        arrays = reader[key]
        count = len(arrays["boxes"])
        assert arrays["crops"].shape == (count, 7)


def test_from_points_at_most_one_mask_for_each(finished_points, shapes_root):
    given = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())
    found = json.loads(labels(finished_points))
    count = {i["id"]: 0 for i in given["images"]}
    for annotation in given["annotations"]:
        count[annotation["image_id"]] += 1
    assert found["annotations"]
    names = {i["id"]: i["file_name"] for i in given["images"]}
    for image in found["images"]:
        own = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        number = next(n for i, n in count.items() if names[i].endswith(image["file_name"]))
        assert len(own) <= number


def change_proposals(monkeypatch, change):
    """Proposals as foreign files could have them."""
    stage = get_stage("proposals")

    def function(dataset_dict, artifacts, cfg):
        return change(dataset_dict, stage.function(dataset_dict, artifacts, cfg))

    monkeypatch.setitem(stages, "proposals", dataclasses.replace(stage, function=function))


def test_proposals_of_another_image_are_refused(copy, shapes_root, monkeypatch):
    def cut(_, arrays):
        return arrays | {"labels": np.ascontiguousarray(arrays["labels"][:-1])}

    change_proposals(monkeypatch, cut)
    for stage in ("proposals", "proposal_crops"):
        shutil.rmtree(folder_of(copy, stage))
    arguments = {"datasets": shapes_root, "output": copy, "config": CONFIG, "extra": TINY}
    words = ("image train_", "(height, width)", "run --from-stage proposals --force")
    assert_refused(train_net_here("--stage", "proposals", **arguments), *words)  # its evaluation
    assert_refused(train_net_here("--stage", "proposal_crops", **arguments), *words)


def test_an_image_whose_product_is_gone(copy, shapes_root):
    shutil.rmtree(folder_of(copy, "peak_clusters"))
    reader = ProductReader(folder_of(copy, "proposals"), "proposals")
    next(iter(reader.path(key) for key in reader.keys())).unlink()  # noqa: SIM118
    arguments = {"datasets": shapes_root, "output": copy, "config": CONFIG, "extra": TINY}
    done = train_net_here("--stage", "peak_clusters", **arguments)
    assert_refused(done, "1 of 12 artifacts missing", "run --stage proposals first")


def test_an_image_without_proposals_is_no_error(finished, shapes_root, tmp_path, monkeypatch):
    def drop(dataset_dict, arrays):
        size = arrays["labels"].shape
        if not dataset_dict["image_key"].endswith(("1", "2")):
            return arrays
        return proposals_artifact(by_rank(Regions.from_masks(np.zeros((0, *size), dtype=bool))))

    change_proposals(monkeypatch, drop)
    folder = folder_of(finished, "peak_classifier")
    shutil.copytree(folder, tmp_path / folder.name)
    done = run(datasets=shapes_root, output=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(labels(tmp_path))
    assert found["annotations"]
    empty = {i["id"] for i in found["images"] if i["file_name"][-5] in "12"}
    assert empty
    assert not empty & {a["image_id"] for a in found["annotations"]}


@pytest.mark.parametrize(
    ("config", "stage", "line", "words"),
    [
        (POINTS, "point_clusters", "900 3 1 1", ("train_", "outside")),
        (POINTS, "point_clusters", "3 3 17 1", ("train_", "17")),
        (POINTS, "point_clusters", None, ("train_", ".txt")),
    ],
    ids=["a point outside the image", "a class outside the classes", "no file of points"],
)
def test_points_that_are_wrong(finished_points, shapes_root, tmp_path, config, stage, line, words):
    copy = shutil.copytree(finished_points, tmp_path / "copy")
    shutil.rmtree(folder_of(copy, stage))
    folder = tmp_path / "points"
    folder.mkdir()
    if line is not None:
        for path in (shapes_root / "shapes").rglob("train*"):
            (folder / f"{path.stem}.txt").write_text(line + "\n")
    extra = (*TINY, ("MODEL.CIM.LABEL.POINTS", str(folder)))
    done = train_net_here(
        "--stage", stage, datasets=shapes_root, output=copy, config=config, extra=extra
    )
    assert_refused(done, *words)
