"""Done, stale, unfinished or missing; and what a data set's fingerprint knows."""

from __future__ import annotations

import copy
import dataclasses
import re

import numpy as np
import pytest
from wsis.config import flatten, get_wsis_cfg
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.data.weights import FOLDER, WEIGHTS, how_to_get
from wsis.engine import status
from wsis.engine.manifest import DONE, RUNNING, Manifest, write_index
from wsis.engine.pipeline import load_pipeline
from wsis.engine.status import (
    State,
    Status,
    Statuses,
    current_inputs,
    defaults_among,
    fingerprint,
    missing_artifacts,
    product_files,
    relevant_config,
    stage_status,
)
from wsis.errors import DataError

from tests.tiny import PIPELINE

KEYS = ["a", "b", "c"]


def record(key="a", **changes):
    mask = {"size": [4, 6], "counts": b"abc"}
    annotation = {"category_id": 1, "iscrowd": 0, "bbox": [0.0, 0.0, 2.0, 2.0], "bbox_mode": 1}
    found = {
        "file_name": f"/data/{key}.jpg",
        "image_id": 7,
        "image_key": key,
        "height": 4,
        "width": 6,
        "image_labels": [1],
        "instance_file_name": "/data/i.png",
        "annotations": [annotation | {"segmentation": mask}],
    }
    return found | changes


DICTS = [record(key) for key in KEYS]


@pytest.mark.parametrize("level", ["image", "box", "mask"])
def test_fingerprint_ignores_folders_and_sees_labels(level):
    plain = fingerprint([record()], level)
    moved = record(file_name="/elsewhere/a.jpg", instance_file_name="/elsewhere/i.png")
    assert fingerprint([moved], level) == plain
    for change in (
        {"image_labels": [0]},
        {"image_labels": []},
        {"image_key": "z"},
        {"image_id": 9},
    ):
        assert fingerprint([record(**change)], level) != plain, change
    assert fingerprint([record(), record("b")], level) != plain
    assert fingerprint([record("b"), record()], level) != fingerprint(
        [record(), record("b")], level
    )


def test_fingerprint_sees_annotations_up_to_the_level():
    changed = {}
    for field, value in (("bbox", [0.0, 0.0, 3.0, 2.0]), ("segmentation", {"size": [4, 6]})):
        changed[field] = copy.deepcopy(record())
        changed[field]["annotations"][0][field] = value
    seen = {
        level: [
            f
            for f, d in changed.items()
            if fingerprint([d], level) != fingerprint([record()], level)
        ]
        for level in ("image", "box", "mask")
    }
    assert seen == {"image": [], "box": ["bbox"], "mask": ["bbox", "segmentation"]}


def test_fingerprint_of_arrays_and_numpy_numbers():
    one = record(image_labels=[np.int64(1)], extra=np.zeros(3))
    assert fingerprint([one], "image") == fingerprint([record()], "image")
    assert fingerprint([one], "mask") != fingerprint([record()], "mask")
    assert fingerprint([], "image") != fingerprint([one], "image")


@pytest.fixture
def plan(tmp_path):
    """``(stage name, *overrides) -> (pipeline, planned stage)``."""

    def make(name, *overrides):
        pipeline = load_pipeline(PIPELINE, ["OUTPUT_DIR", str(tmp_path), *overrides])
        return pipeline, pipeline.select(stage=name)[0]

    return make


def finish(pipeline, planned, *, status=DONE, keys=KEYS, **changes):
    """Leave behind what a run of the stage would."""
    reader = ProductReader(planned.folder, planned.name)
    if planned.stage.kind in ("infer", "derive"):
        for key in keys:
            write_artifact(reader.path(key), {"x": np.arange(5)})
        if status == DONE:
            write_index(planned.folder, keys, reader.path)
    for path in product_files(planned) if status == DONE else ():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    Manifest(
        planned.name,
        planned.stage.kind,
        status,
        relevant_config(planned),
        current_inputs(pipeline, planned, DICTS),
        files={path.name: 10 for path in product_files(planned)},
        defaults=defaults_among(relevant_config(planned), planned),
        **changes,
    ).write(planned.folder)


def state(pipeline, planned, dicts=DICTS):
    status = stage_status(pipeline, planned, dicts)
    return status.state, status.detail


def test_not_yet_run(plan):
    pipeline, planned = plan("cam")
    assert state(pipeline, planned) == (State.MISSING, "not yet run")


def test_begun_without_having_made_anything_counts_as_not_run(plan):
    """So that a mended config needs no --force."""
    pipeline, planned = plan("cam")
    finish(pipeline, planned, status=RUNNING, keys=[])
    assert state(*plan("cam", "INPUT.SCALES", "(1.0,)")) == (State.MISSING, "not yet run")


@pytest.mark.parametrize("name", ["classifier", "cam", "displacement_mean", "pseudo_labels"])
def test_done(plan, name):
    pipeline, planned = plan(name)
    finish(pipeline, planned, counts={"images": 3, "skipped": 1})
    assert state(pipeline, planned) == (State.DONE, "3 images, 1 skipped")


@pytest.mark.parametrize("name", ["classifier", "displacement_mean", "pseudo_labels"])
def test_product_files_that_are_lost_or_cut(plan, name):
    pipeline, planned = plan(name)
    finish(pipeline, planned)
    (path,) = product_files(planned)
    path.write_bytes(b"01234")
    assert state(pipeline, planned) == (
        State.MISSING,
        f"{path.name} has 5 bytes instead of 10",
    )
    path.unlink()
    found, detail = state(pipeline, planned)
    assert found in (State.MISSING, State.STALE)
    assert detail == f"{path.name} missing"


def test_unfinished(plan):
    pipeline, planned = plan("cam")
    finish(pipeline, planned, status=RUNNING, keys=["a"])
    assert state(pipeline, planned) == (State.UNFINISHED, "1 of 3 artifacts")
    pipeline, planned = plan("classifier")
    finish(pipeline, planned, status=RUNNING)
    (planned.folder / "model_0000001.pth").write_bytes(b"weights")
    assert state(pipeline, planned) == (State.UNFINISHED, "interrupted; runs on where it stopped")


def test_missing_artifacts(plan):
    pipeline, planned = plan("cam")
    finish(pipeline, planned)
    path = planned.folder / "artifacts" / "b.npz"
    path.write_bytes(path.read_bytes()[:-1])
    assert missing_artifacts(planned, KEYS) == ["b"]
    (planned.folder / "artifacts" / "a.npz").unlink()
    assert missing_artifacts(planned, KEYS) == ["a", "b"]
    assert state(pipeline, planned) == (State.MISSING, "2 of 3 artifacts missing")


def test_stale_for_each_reason(plan):
    pipeline, planned = plan("cam")
    finish(pipeline, planned)
    changed = plan("cam", "MODEL.RESNETS.DEPTH", "34")
    assert state(*changed) == (State.STALE, "MODEL.RESNETS.DEPTH was 18 and is 34")
    other = [record("a", image_labels=[0]), *DICTS[1:]]
    found, detail = state(pipeline, planned, other)
    assert found is State.STALE
    assert re.fullmatch("images or labels of [a-z_]+ have changed", detail)
    finish(pipeline, pipeline.select(stage="classifier")[0], product="new")
    assert state(pipeline, planned) == (State.STALE, "its input 'classifier' has changed")
    (planned.folder / "manifest.json").write_text("{")
    found, detail = state(pipeline, planned)
    assert found is State.STALE
    assert "is not a manifest" in detail
    (planned.folder / "manifest.json").unlink()
    found, detail = state(pipeline, planned)
    assert found is State.STALE
    assert "no manifest.json" in detail


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.DEVICE", "cuda"),
        ("DATALOADER.NUM_WORKERS", "7"),
        ("SOLVER.CHECKPOINT_PERIOD", "9"),
        ("DATA.VAL", ""),
        ("MODEL.IRNET.BETA", "3.0"),
    ],
)
def test_what_makes_no_difference_to_a_classifier(plan, overrides):
    pipeline, planned = plan("classifier")
    finish(pipeline, planned)
    assert state(*plan("classifier", *overrides))[0] is State.DONE


def test_a_damaged_manifest_upstream_is_no_product(plan):
    pipeline, planned = plan("cam")
    finish(pipeline, planned)
    folder = pipeline.select(stage="classifier")[0].folder
    folder.mkdir()
    (folder / "manifest.json").write_text("[]")
    assert current_inputs(pipeline, planned, DICTS)["classifier"] == ""
    assert state(pipeline, planned)[0] is State.DONE  # Statuses makes it stale


def test_missing_initial_weights_name_the_command(plan, tmp_path):
    path = tmp_path / "resnet50-19c8e357.pth"
    pipeline, planned = plan("classifier", "MODEL.WEIGHTS", str(path))
    with pytest.raises(DataError) as error:
        current_inputs(pipeline, planned, [record()])
    said = str(error.value)
    command = f"python datasets/prepare_weights.py --name resnet50 --download --root {tmp_path}"
    assert f"stage classifier starts from {path}, which does not exist; run {command}" in said
    assert "classifier.MODEL.WEIGHTS" in said
    pipeline, planned = plan("classifier", "MODEL.WEIGHTS", str(tmp_path / "own.pth"))
    with pytest.raises(DataError, match=r"own\.pth.*correct classifier\.MODEL\.WEIGHTS"):
        current_inputs(pipeline, planned, [record()])


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_shipped_weights_lie_where_the_command_puts_them(name):
    assert how_to_get(FOLDER / WEIGHTS[name]).endswith(f"--name {name} --download")


def test_a_run_outlives_an_upgrade(plan, monkeypatch):
    """Keys with their defaults come and go with releases of Detectron2 and of WSIS."""
    pipeline, planned = plan("classifier")
    finish(pipeline, planned)
    with_new = planned.with_values({})
    with_new.cfg.defrost()
    with_new.cfg.SOLVER.NEW_KEY = 7
    stock = get_wsis_cfg()
    stock.SOLVER.NEW_KEY = 7
    monkeypatch.setattr(status, "stock_values", lambda imports=(): flatten(stock, ""))
    later = dataclasses.replace(pipeline, stages=(with_new, *pipeline.stages[1:]))
    assert state(later, with_new)[0] is State.DONE
    with_new.cfg.SOLVER.NEW_KEY = 8
    assert state(later, with_new)[1] == "SOLVER.NEW_KEY was absent and is 8"
    del with_new.cfg.SOLVER["NEW_KEY"], with_new.cfg.SOLVER["NESTEROV"]
    assert state(later, with_new)[0] is State.DONE


def test_newer_releases_word_for_the_decay_of_biases(plan):
    _, planned = plan("classifier", "SOLVER.WEIGHT_DECAY", "0.25")
    other = planned.with_values({"SOLVER.WEIGHT_DECAY_BIAS": None})
    assert relevant_config(other)["SOLVER.WEIGHT_DECAY_BIAS"] == 0.25


def test_every_stage_is_looked_at_once_and_again_where_work_was_done(plan, monkeypatch):
    looked = []
    monkeypatch.setattr(
        status,
        "stage_status",
        lambda pipeline, planned, dicts: looked.append(planned.name) or Status(State.DONE),
    )
    pipeline, _ = plan("cam")

    class NoImages:
        def of(self, planned):
            return []

    statuses = Statuses(pipeline, NoImages())
    names = [planned.name for planned in pipeline.stages]
    for _ in range(3):
        assert all(statuses.of(planned).state is State.DONE for planned in pipeline.stages)
    assert looked == names
    statuses.worked_on(pipeline.stages[5])
    for planned in pipeline.stages:
        statuses.of(planned)
    assert looked[len(names) :] == names[5:]


def test_what_builds_on_a_stale_stage_is_stale_too(plan, monkeypatch):
    def look(pipeline, planned, dicts):
        state = State.STALE if planned.name == "cam" else State.DONE
        return Status(state, "SEED was 1 and is 2")

    monkeypatch.setattr(status, "stage_status", look)
    pipeline, _ = plan("cam")

    class NoImages:
        def of(self, planned):
            return []

    statuses = Statuses(pipeline, NoImages())
    found = {planned.name: statuses.of(planned) for planned in pipeline.stages}
    said = "it builds on cam, which is stale: SEED was 1 and is 2"
    assert found["classifier"].state is State.DONE
    assert found["cam"].detail == "SEED was 1 and is 2"
    assert {found[name].detail for name in ("inter_pixel_label", "mask_rcnn")} == {said}
