"""CIM's stages through the real entry point: killed and resumed, two processes, what is refused."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
from wsis.data.artifacts import ProductReader, write_artifact

from tests.test_end_to_end import kill_training, kill_writing
from tests.tiny import ROOT, make_shapes, train_net

pytestmark = pytest.mark.slow

CONFIG = ROOT / "configs" / "cim_shapes.yaml"
TINY = (
    ("WSIS.PROPOSALS.MAX_COUNT", "40"),
    ("MODEL.CIM.HEAD_DIM", "32"),
    ("INPUT.LONGER_SIDES_TRAIN", "(48,64)"),
    ("INPUT.LONGER_SIDES_TEST", "(64,)"),
    ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"),
    ("proposals.DATALOADER.NUM_WORKERS", "0"),
)
KILLS = {
    "class_peaks": kill_writing("class_peaks"),
    "peak_clusters": kill_writing("peak_clusters"),
    "complete_instances": kill_training("complete_instances"),
    "mined_instances": kill_writing("mined_instances"),
}


def run(*arguments, datasets, output, config=CONFIG, **options):
    until = ("--until-stage", "pseudo_labels")
    return train_net(
        *until, *arguments, datasets=datasets, output=output, config=config, extra=TINY, **options
    )


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def finished(datasets, tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken")
    done = run(datasets=datasets, output=output)
    assert done.returncode == 0, done.stderr
    return output


def product(output, stage):
    folder = next(output.glob(f"*_{stage}"))
    return {path.name: path.read_bytes() for path in sorted(folder.glob("artifacts/*.npz"))}


def labels(output):
    return next(output.glob("*_pseudo_labels/pseudo_labels.json")).read_bytes()


@pytest.mark.parametrize("stage", KILLS)
def test_killed_it_ends_with_the_same_bytes(finished, datasets, tmp_path, stage):
    copy = shutil.copytree(finished, tmp_path / "copy")
    folders = sorted(copy.glob("*_*"), key=lambda path: int(path.name.partition("_")[0]))
    place = next(i for i, path in enumerate(folders) if path.name.endswith(stage))
    for folder in folders[place:]:
        shutil.rmtree(folder)
    killed = run(datasets=datasets, output=copy, prelude=KILLS[stage])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run(datasets=datasets, output=copy)
    assert done.returncode == 0, done.stderr
    assert labels(copy) == labels(finished)
    assert product(copy, "mined_instances") == product(finished, "mined_instances")


def test_two_processes_make_what_one_makes(finished, datasets, tmp_path):
    for name in ("peak_classifier", "complete_instances"):
        folder = next(finished.glob(f"*_{name}"))
        shutil.copytree(folder, tmp_path / folder.name)
    done = run("--num-gpus", 0, "--num-processes", 2, datasets=datasets, output=tmp_path)
    assert done.returncode == 0, done.stderr
    assert labels(tmp_path) == labels(finished)


def test_figures_of_every_product(finished):
    measured = json.loads((finished / "metrics.json").read_text())["stages"]
    found = {(entry["stage"], entry["dataset"]) for entry in measured}
    assert ("mined_instances", "shapes_train") in found
    assert ("proposal_detections", "shapes_val") in found


def test_what_is_stored_grows_with_the_proposals_only(finished):
    reader = ProductReader(next(finished.glob("*_proposal_crops")), "proposal_crops")
    for key in reader.keys():  # noqa: SIM118
        arrays = reader[key]
        count = len(arrays["boxes"])
        assert arrays["crops"].shape == (count, 7)


def test_points_in_place_of_peaks(finished, datasets, tmp_path):
    for name in ("peak_classifier", "proposals", "proposal_crops"):
        folder = next(finished.glob(f"*_{name}"))
        shutil.copytree(folder, tmp_path / folder.name)
    config = ROOT / "configs" / "cim_shapes_point.yaml"
    done = run(datasets=datasets, output=tmp_path, config=config)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(next(tmp_path.glob("*_point_clusters/manifest.json")).read_text())
    assert manifest["status"] == "done"
    assert labels(tmp_path)


def test_proposals_of_another_image_are_refused(finished, datasets, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(next(copy.glob("*_proposal_detections")))
    reader = ProductReader(next(copy.glob("*_proposals")), "proposals")
    key = next(key for key in reader.keys() if key.startswith("val"))  # noqa: SIM118
    arrays = reader[key]
    cut = arrays | {"labels": np.ascontiguousarray(arrays["labels"][:-1])}
    size = reader.path(key).stat().st_size
    write_artifact(reader.path(key), cut)
    assert reader.path(key).stat().st_size != size
    done = train_net(
        "--stage",
        "proposal_detections",
        datasets=datasets,
        output=copy,
        config=CONFIG,
        extra=TINY,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "proposals" in done.stderr
