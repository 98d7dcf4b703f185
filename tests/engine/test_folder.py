"""The run folder of a stage: done, stale, unfinished or missing; its index and its logs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils import comm
from wsis.config import flatten, get_wsis_cfg
from wsis.data.artifacts import write_artifact
from wsis.engine import manifest as manifests
from wsis.engine.folder import NOT_YET_RUN, StageFolder, State, Status, open_folders
from wsis.engine.manifest import (
    DONE,
    RUNNING,
    Images,
    fingerprint,
    relevant_config,
    sizes_of_images,
)
from wsis.engine.pipeline import load_pipeline
from wsis.errors import DataError, WSISError

from tests.engine.test_manifest import record
from tests.tiny import PIPELINE

KEYS = ["a", "b", "c"]
DICTS = [record(key) for key in KEYS]


class OwnImages:
    """Stands in for `wsis.engine.manifest.Images`."""

    def __init__(self, records=DICTS):
        self.records, self._said = records, set()

    def named(self, names):
        return self.records

    def fingerprint(self, names, level):
        return fingerprint(self.records, level)

    def sizes(self, names):
        return sizes_of_images(self.records)

    say = Images.say


@pytest.fixture
def folder(tmp_path):
    """``(stage name, *overrides, records=..., processes=...) -> StageFolder``, as a command's."""

    def find(name, *overrides, records=DICTS, processes=1):
        words = ["OUTPUT_DIR", str(tmp_path), *overrides]
        folders = open_folders(load_pipeline(PIPELINE, words, num_processes=processes))
        for one in folders.values():
            one.images = OwnImages(records)
        return folders[name]

    return find


def finish(folder, *, status=DONE, keys=KEYS, product="", counts=None):
    """Leave behind what a run of the stage would."""
    folder.open(force=False)
    if folder.planned.stage.kind in ("infer", "derive"):
        for key in keys:
            folder.log(key, write_artifact(folder.reader.path(key), {"x": np.arange(5)}))
        if status == DONE:
            folder.write_index()
    if status == DONE:
        for path in folder.product_files():
            path.write_bytes(b"0123456789")
        folder.close(product, counts or {})
    folder.forget()
    return folder


def state(folder):
    status = folder.status()
    return status.state, status.detail


def test_not_yet_run(folder):
    assert state(folder("cam")) == (State.MISSING, "not yet run")


def test_begun_without_having_made_anything_counts_as_not_run(folder):
    """So that a mended config needs no --force."""
    finish(folder("cam"), status=RUNNING, keys=[])
    assert state(folder("cam", "INPUT.SCALES", "(1.0,)")) == (State.MISSING, "not yet run")


@pytest.mark.parametrize("name", ["classifier", "cam", "displacement_mean", "pseudo_labels"])
def test_done(folder, name):
    finish(folder(name), counts={"images": 3, "skipped": 1})
    assert state(folder(name)) == (State.DONE, "3 images, 1 skipped")


@pytest.mark.parametrize("name", ["classifier", "displacement_mean", "pseudo_labels"])
def test_product_files_that_are_lost_or_cut(folder, name):
    finish(folder(name))
    (path,) = folder(name).product_files()
    path.write_bytes(b"01234")
    assert state(folder(name)) == (State.MISSING, f"{path.name} has 5 bytes instead of 10")
    path.unlink()
    found, detail = state(folder(name))
    assert found in (State.MISSING, State.STALE)
    assert detail == f"{path.name} missing"


def test_unfinished(folder):
    finish(folder("cam"), status=RUNNING, keys=["a"])
    assert state(folder("cam")) == (State.UNFINISHED, "1 of 3 artifacts")
    classifier = finish(folder("classifier"), status=RUNNING)
    (classifier.path / "model_0000001.pth").write_bytes(b"weights")
    assert state(folder("classifier")) == (
        State.UNFINISHED,
        "interrupted; runs on where it stopped",
    )


def test_missing_artifacts(folder):
    cam = finish(folder("cam"))
    path = cam.reader.path("b")
    path.write_bytes(path.read_bytes()[:-1])
    assert cam.missing() == ["b"]
    cam.reader.path("a").unlink()
    assert cam.missing() == ["a", "b"]
    assert state(cam) == (State.MISSING, "2 of 3 artifacts missing")


def test_a_lost_index_is_written_again(folder):
    cam = finish(folder("cam"))
    (cam.path / "index.json").unlink()
    assert state(folder("cam")) == (State.MISSING, "index.json missing")


def test_stale_for_each_reason(folder):
    cam = finish(folder("cam"))
    changed = folder("cam", "MODEL.RESNETS.DEPTH", "34")
    assert state(changed) == (State.STALE, "MODEL.RESNETS.DEPTH was 18 and is 34")
    other = [record("a", image_labels=[0]), *DICTS[1:]]
    found, detail = state(folder("cam", records=other))
    assert found is State.STALE
    assert re.fullmatch("images or labels of [a-z_]+ have changed", detail)
    finish(folder("classifier"), product="new")
    assert state(folder("cam")) == (State.STALE, "its input 'classifier' has changed")
    (cam.path / "manifest.json").write_text("{")
    found, detail = state(folder("cam"))
    assert found is State.STALE
    assert "is not a manifest" in detail
    (cam.path / "manifest.json").unlink()
    found, detail = state(folder("cam"))
    assert found is State.STALE
    assert "no manifest.json" in detail


def test_an_image_replaced_under_its_name(folder, tmp_path):
    own = [record(key, file_name=str(tmp_path / f"{key}.jpg")) for key in KEYS]
    for one in own:
        Path(one["file_name"]).write_bytes(b"12345")
    cam = finish(folder("cam", records=own))
    assert state(folder("cam", records=own))[0] is State.DONE
    (tmp_path / "b.jpg").write_bytes(b"123456")
    found, detail = state(folder("cam", records=own))
    assert found is State.STALE
    assert re.fullmatch("image files of [a-z_]+ have changed", detail)
    path = cam.path / "manifest.json"  # as an earlier version wrote it
    known = json.loads(path.read_text())
    del known["inputs"]["image_files"]
    path.write_text(json.dumps(known))
    assert state(folder("cam", records=own))[0] is State.DONE


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.DEVICE", "cpu"),
        ("DATALOADER.NUM_WORKERS", "7"),
        ("SOLVER.CHECKPOINT_PERIOD", "9"),
        ("DATA.VAL", ""),  # no validation set at all
        ("MODEL.IRNET.BETA", "3.0"),
    ],
)
def test_what_makes_no_difference_to_a_classifier(folder, overrides):
    finish(folder("classifier"))
    changed = folder("classifier", *overrides)
    assert changed.planned.cfg.dump() != folder("classifier").planned.cfg.dump()
    assert state(changed)[0] is State.DONE


def test_a_finished_stage_keeps_the_processes_that_trained_it(folder):
    """Looked at from one process, or from more, it is no other stage; trained anew it is one."""
    words = ("SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER.IMS_PER_BATCH", "16")
    finish(folder("classifier", *words, processes=2))
    for processes in (1, 2, 4):
        found = folder("classifier", *words, processes=processes)
        assert 2 * processes == found.planned.cfg.SOLVER.IMS_PER_BATCH
        assert state(found)[0] is State.DONE
    changed = folder("classifier", *words[:3], "32")
    assert state(changed) == (State.STALE, "SOLVER.IMS_PER_BATCH was 4 and is 8")
    plain = folder("classifier", *words[2:])
    assert "SOLVER.IMS_PER_BATCH was 4 and is 16" in state(plain)[1]
    begun = folder("relation_network", *words, processes=2)
    begun.open(force=False)
    (begun.path / "model_0000001.pth").write_bytes(b"weights")
    assert state(begun)[0] is State.UNFINISHED
    assert "SOLVER.IMS_PER_BATCH was 4 and is 2" in state(folder("relation_network", *words))[1]


def test_a_damaged_manifest_upstream_is_no_product(folder):
    cam = finish(folder("cam"))
    classifier = folder("classifier")
    classifier.path.mkdir()
    (classifier.path / "manifest.json").write_text("[]")
    assert cam.inputs()["classifier"] == ""
    assert state(cam)[0] is State.STALE
    assert "it builds on classifier, which is stale" in state(cam)[1]


def test_missing_initial_weights_name_the_command(folder, tmp_path):
    path = tmp_path / "resnet50-19c8e357.pth"
    with pytest.raises(DataError) as error:
        folder("classifier", "MODEL.WEIGHTS", str(path)).inputs()
    said = str(error.value)
    command = f"python datasets/prepare_weights.py --name resnet50 --download --root {tmp_path}"
    assert f"stage classifier starts from {path}, which does not exist; run {command}" in said
    assert "classifier.MODEL.WEIGHTS" in said
    with pytest.raises(DataError, match=r"own\.pth.*correct classifier\.MODEL\.WEIGHTS"):
        folder("classifier", "MODEL.WEIGHTS", str(tmp_path / "own.pth")).inputs()


def test_a_run_outlives_an_upgrade(folder, monkeypatch):
    """Keys with their defaults come and go with releases of Detectron2 and of WSIS."""
    finish(folder("classifier"))
    later = folder("classifier")
    cfg = later.planned.cfg.clone()
    later.planned = dataclasses.replace(later.planned, cfg=cfg)
    cfg.defrost()
    cfg.SOLVER.NEW_KEY = 7
    stock = get_wsis_cfg()
    stock.SOLVER.NEW_KEY = 7
    monkeypatch.setattr(manifests, "stock_values", lambda imports=(): flatten(stock, ""))
    assert state(later)[0] is State.DONE
    cfg.SOLVER.NEW_KEY = 8
    later.forget()
    assert state(later)[1] == "SOLVER.NEW_KEY was absent and is 8"
    del cfg.SOLVER["NEW_KEY"], cfg.SOLVER["NESTEROV"]
    later.forget()
    assert state(later)[0] is State.DONE


def test_newer_releases_word_for_the_decay_of_biases(folder):
    planned = folder("classifier", "SOLVER.WEIGHT_DECAY", "0.25").planned
    other = planned.with_values({"SOLVER.WEIGHT_DECAY_BIAS": None})
    assert relevant_config(other)["SOLVER.WEIGHT_DECAY_BIAS"] == 0.25


@pytest.fixture
def folders(tmp_path):
    found = open_folders(load_pipeline(PIPELINE, ["OUTPUT_DIR", str(tmp_path)]))
    return list(found.values())


def test_every_stage_is_looked_at_once_and_again_where_work_was_done(folders, monkeypatch):
    looked = []

    def compare(folder):
        looked.append(folder.name)
        return Status(State.DONE)

    monkeypatch.setattr(StageFolder, "_compare", compare)
    names = [folder.name for folder in folders]
    for _ in range(3):
        assert all(folder.status().state is State.DONE for folder in folders)
    assert looked == names
    folders[5].forget()
    for folder in folders:
        folder.status()
    assert looked[len(names) :] == names[5:]


def test_what_builds_on_a_stale_stage_is_stale_too(folders, monkeypatch):
    def compare(folder):
        if folder.name == "relation_network":
            return NOT_YET_RUN
        found = State.STALE if folder.name == "cam" else State.DONE
        return Status(found, "SEED was 1 and is 2")

    monkeypatch.setattr(StageFolder, "_compare", compare)
    found = {folder.name: folder.status() for folder in folders}
    said = "it builds on cam, which is stale: SEED was 1 and is 2"
    assert found["classifier"].state is State.DONE
    assert found["cam"].detail == "SEED was 1 and is 2"
    assert found["relation_network"] == NOT_YET_RUN
    assert {found[name].detail for name in ("inter_pixel_label", "mask_rcnn")} == {said}


# Logs and the index.


@pytest.fixture
def cam(folder):
    """An empty run folder of four images."""
    found = folder("cam", records=[record(key) for key in ("b", "c", "a", "d")])
    found.path.mkdir()
    return found


def test_logs_of_all_processes_are_collected(cam, monkeypatch):
    cam.log("a", {"bytes": 1, "crc32": 2})
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    cam.log("b", {"skipped": "truncated"})
    monkeypatch.undo()
    cam.log("a", {"bytes": 3, "crc32": 4})
    assert len(list(cam.path.glob("log.*"))) == 2
    assert cam.logged() == {"a": {"bytes": 3, "crc32": 4}, "b": {"skipped": "truncated"}}


@pytest.mark.parametrize(
    "half", ["[" * 100_000, '{"key": "b", "by', '"b"', "7", "{}", "\n", '{"bytes": 3}']
)
def test_half_lines_of_a_killed_process_count_for_nothing(cam, half):
    cam.log("a", {"bytes": 1, "crc32": 2})
    with open(cam.path / "log.0.jsonl", "a") as stream:
        stream.write("\n" + half)
    assert cam.logged() == {"a": {"bytes": 1, "crc32": 2}}
    cam.log("c", {"bytes": 5, "crc32": 6})
    assert cam.logged()["c"] == {"bytes": 5, "crc32": 6}


def test_half_a_character_counts_for_nothing(cam):
    cam.log("a", {"bytes": 1, "crc32": 2})
    with open(cam.path / "log.0.jsonl", "ab") as stream:
        stream.write(b"\n" + '{"key": "é'.encode()[:-1])
    assert list(cam.logged()) == ["a"]


def test_index_reads_what_was_written_but_not_logged(cam):
    records = {
        key: write_artifact(cam.reader.path(key), {"x": np.ones(3, np.float32)})
        for key in ("b", "a")
    }
    cam.log("b", records["b"])  # "a": killed between file and log
    cam.log("c", {"skipped": "truncated"})
    index = cam.write_index()
    assert list(index) == ["a", "b", "c", "d"]
    assert index == {**records, "c": {"skipped": "truncated"}, "d": {}}
    assert cam.logged() == index == json.loads((cam.path / "index.json").read_text())
    assert not list(cam.path.glob("log.*"))
    assert cam.missing() == ["d"]


def test_a_logged_size_that_the_file_does_not_have_is_read_again(cam):
    written = write_artifact(cam.reader.path("a"), {"x": np.ones(3, np.float32)})
    cam.log("a", {"bytes": 1, "crc32": 2})
    assert cam.write_index()["a"] == written


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{", "[" * 100_000, None])
def test_damaged_index(cam, text):
    assert cam.logged() == {}
    path = cam.path / "index.json"
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(WSISError, match=r"index\.json is damaged; delete it and rerun"):
        cam.missing()


def test_a_folder_is_opened_anew_or_as_it_was_left(cam):
    for name in (".half.tmp", "model_0000001.pth", "artifacts/.a.npz.tmp", "artifacts/a.npz"):
        (cam.path / name).parent.mkdir(exist_ok=True)
        (cam.path / name).write_bytes(b"")
    cam.open(force=False)
    left = {path.name for path in cam.path.rglob("*") if path.is_file()}
    assert left == {"model_0000001.pth", "a.npz", "manifest.json", "config.yaml"}
    cam.open(force=True)
    assert {path.name for path in cam.path.rglob("*")} == {"manifest.json", "config.yaml"}
