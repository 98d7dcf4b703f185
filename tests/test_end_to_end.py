"""Whole pipelines: kills and two processes of their own, evaluation, stale work."""

from __future__ import annotations

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch

from tests.tiny import labels_of, train_net, train_net_forked, train_net_here

# Kills the process right after the n-th call of a function has returned.
KILL_AFTER = """
import os, signal
import {module} as module
owner = {owner}
original = owner.{name}
calls = 0
def deadly(*args, **kwargs):
    global calls
    result = original(*args, **kwargs)
    trainer = getattr(args[0], "checkpointer", None)
    calls += "{where}" in str(trainer.save_dir if trainer else args[0])
    if calls == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
owner.{name} = deadly
"""


def kill_after(module: str, name: str, count: int, owner: str = "module", where: str = "") -> str:
    """Code that kills its process after ``count`` calls that concern the folder ``where``."""
    return KILL_AFTER.format(module=module, name=name, count=count, owner=owner, where=where)


def kill_training(stage: str) -> str:
    return kill_after("wsis.engine.trainer", "run_step", 3, "module.Trainer", f"_{stage}")


def kill_writing(stage: str) -> str:
    return kill_after("wsis.engine.image_stages", "write_artifact", 3, where=f"_{stage}/")


KILLS = {
    "classifier": kill_training("classifier"),
    "cam": kill_writing("cam"),
    "inter_pixel_label": kill_writing("inter_pixel_label"),
    "relation_network": kill_training("relation_network"),
    "displacement_mean": kill_writing("displacement_mean"),
    "instances": kill_writing("instances"),
    "pseudo_labels": kill_after("wsis.data.pseudo_labels", "_annotations", 3),
    "mask_rcnn": kill_training("mask_rcnn"),
}


def test_unbroken_run_ends_with_figures_for_every_product(tiny_run):
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert json.loads((tiny_run / "pipeline.json").read_text()) == [*KILLS]
    measured = {(entry["stage"], entry["protocol"]) for entry in metrics["stages"]}
    stages = {stage for stage, _ in measured}
    assert {"classifier", "cam", "inter_pixel_label", "instances", "mask_rcnn"} <= stages
    assert {"voc", "coco", "coco_bbox"} <= {p for stage, p in measured if stage == "mask_rcnn"}
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(json.loads(labels_of(tiny_run))["annotations"]) > 0


def test_killed_in_every_stage_it_ends_with_the_same_bytes(tiny_run, shapes_root, tmp_path):
    for stage, prelude in KILLS.items():
        killed = train_net_forked(
            "--until-stage", stage, datasets=shapes_root, output=tmp_path, prelude=prelude
        )
        assert killed.returncode == -signal.SIGKILL, f"{stage}: {killed.stderr}"
        manifest = json.loads(next(tmp_path.glob(f"*_{stage}/manifest.json")).read_text())
        assert manifest["status"] == "running", stage
    done = train_net(datasets=shapes_root, output=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AP50" in done.stderr + done.stdout
    assert labels_of(tmp_path) == labels_of(tiny_run)
    for name in ("1_classifier", "4_relation_network", "8_mask_rcnn"):
        resumed, unbroken = (
            torch.load(folder / name / "model_final.pth", weights_only=True)["model"]
            for folder in (tmp_path, tiny_run)
        )
        assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken), name
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_make_what_one_makes(tiny_run, shapes_root, tmp_path):
    """From the same trained networks; training on two processes sums in another order."""
    for name in ("1_classifier", "4_relation_network"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    done = train_net(
        "--until-stage",
        "pseudo_labels",
        "--num-gpus",
        0,
        "--num-processes",
        2,
        datasets=shapes_root,
        output=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert labels_of(tmp_path) == labels_of(tiny_run)
    one, two = (
        json.loads((o / "metrics.json").read_text())["stages"] for o in (tiny_run, tmp_path)
    )
    assert two == one[: len(two)]
    assert len(two) > 5


def snapshot(folder):
    """Modification times of all products."""
    patterns = ("*/artifacts/*.npz", "*/*.pth", "*/*.json", "*/summary.npz")
    files = [path for pattern in patterns for path in folder.glob(pattern)]
    return {path: path.stat().st_mtime_ns for path in files if path.name != "evaluation.json"}


@pytest.fixture
def copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "copy")


def test_second_run_does_nothing_and_says_so(copy, shapes_root):
    before = snapshot(copy)
    for place in (".", "2_cam", "8_mask_rcnn/predictions/shapes_val"):
        (copy / place / ".evaluation.json.half.tmp").touch()  # of a run that was killed
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stderr + done.stdout
    assert snapshot(copy) == before
    assert not list(copy.rglob(".*.tmp"))


def test_what_is_evaluated_anew_is_something_to_do(copy, shapes_root):
    (copy / "1_classifier" / "evaluation.json").unlink()
    for said in (False, True):
        done = train_net_here("--stage", "classifier", datasets=shapes_root, output=copy)
        assert done.returncode == 0, done.stderr
        assert ("Nothing to do" in done.stdout) == said


def test_eval_only_evaluates_and_makes_nothing(copy, shapes_root):
    before = snapshot(copy)
    figures = json.loads((copy / "metrics.json").read_text())["stages"]
    for path in [copy / "metrics.json", *copy.glob("*/evaluation.json")]:
        path.unlink()
    done = train_net_here("--eval-only", datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert snapshot(copy) == before
    assert json.loads((copy / "metrics.json").read_text())["stages"] == figures


def test_another_checkpoint_is_evaluated_beside_the_runs_own(copy, shapes_root, tmp_path):
    """Upside down, the classifier has other figures; what it does not fit is left alone."""
    stored = torch.load(copy / "1_classifier" / "model_final.pth", weights_only=True)["model"]
    stored["classifier.weight"] = -stored["classifier.weight"]
    torch.save(stored, tmp_path / "other.pth")
    before, content = snapshot(copy), json.loads((copy / "metrics.json").read_text())["stages"]
    predictions = {path: path.read_bytes() for path in copy.glob("*/predictions/*/*.json")}

    def evaluate(*arguments):
        """Evaluate; nothing of the run changes. Returns what was said and the new entries."""
        done = train_net_here("--eval-only", *arguments, datasets=shapes_root, output=copy)
        found = json.loads((copy / "metrics.json").read_text())["stages"]
        assert [entry for entry in found if "weights" not in entry] == content
        assert snapshot(copy) == before
        assert all(path.read_bytes() == data for path, data in predictions.items())
        new = [entry for entry in found if "weights" in entry]
        return done.returncode, done.stdout + done.stderr, new

    code, said, (entry,) = evaluate("MODEL.WEIGHTS", tmp_path / "other.pth")
    assert code == 0, said
    (own,) = [entry for entry in content if entry["stage"] == "classifier"]
    assert own["metrics"] != entry["metrics"]
    assert entry["weights"]["file"] == str(tmp_path / "other.pth")
    assert len(entry["weights"]["digest"]) > 8
    assert f"classifier, weights {tmp_path / 'other.pth'}" in said
    names = {"stage": "classifier", "dataset": own["dataset"], "protocol": own["protocol"]}
    assert names.items() <= entry.items()

    code, said, new = evaluate("--stage", "mask_rcnn", "MODEL.WEIGHTS", tmp_path / "other.pth")
    assert (code, new) == (1, [entry])
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "other.pth does not fit" in line
    assert "0 of " in line

    code, said, new = evaluate("MODEL.WEIGHTS", tmp_path / "none.pth")
    assert (code, new) == (1, [entry])
    assert f"classifier, mask_rcnn: MODEL.WEIGHTS {tmp_path / 'none.pth'} does not exist" in said

    shutil.copy(copy / "8_mask_rcnn" / "model_final.pth", tmp_path / "same.pth")
    code, said, new = evaluate("mask_rcnn.MODEL.WEIGHTS", tmp_path / "same.pth")
    assert code == 0, said
    assert new[0] == entry
    mine = [entry for entry in content if entry["stage"] == "mask_rcnn"]
    assert [entry["metrics"] for entry in new[1:]] == [entry["metrics"] for entry in mine]
    (written,) = (copy / "other_weights").glob("same-*/mask_rcnn/*/coco_instances_results.json")
    assert written.read_bytes() in predictions.values()

    code, said, new = evaluate("--stage", "cam", "cam.INPUT.SCALES", "(1.0, 0.5)")
    assert code == 1
    assert "nothing to evaluate: no chosen stage of irnet_shapes is done" in said


def test_the_weights_that_a_run_started_from_are_its_own(tiny_run, shapes_root, tmp_path):
    """The command that trained, with --eval-only, evaluates what it trained, as ever."""
    stored = torch.load(tiny_run / "1_classifier" / "model_final.pth", weights_only=True)["model"]
    trunk, output = tmp_path / "trunk.pth", tmp_path / "out"
    torch.save({k: v for k, v in stored.items() if k.startswith("backbone.")}, trunk)

    def run(*arguments, weights=trunk):
        words = ("--stage", "classifier", *arguments, "MODEL.WEIGHTS", weights)
        return train_net_here(*words, datasets=shapes_root, output=output)

    assert run().returncode == 0
    content = (output / "metrics.json").read_text()
    for removed in (False, True):
        if removed:
            trunk.unlink()
        (output / "metrics.json").unlink()
        done = run("--eval-only")
        assert done.returncode == 0, done.stderr
        assert (output / "metrics.json").read_text() == content
    done = run("--eval-only", weights=tmp_path / "misspelt.pth")
    assert done.returncode == 1
    assert "misspelt.pth does not exist" in done.stdout + done.stderr
    assert (output / "metrics.json").read_text() == content


def states(output, datasets, *arguments):
    done = train_net_here("--list-stages", *arguments, datasets=datasets, output=output)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    return {row[0]: row[2] for row in rows}, done.stdout


def test_list_stages_tells_done_stale_and_missing(copy, shapes_root, caplog):
    assert set(states(copy, shapes_root)[0].values()) == {"done"}
    advice = "the overrides of a run (DATA.TRAIN, KEY VALUE) belong in every later command"
    assert advice not in caplog.text

    found, text = states(copy, shapes_root, "cam.INPUT.SCALES", "(1.0,0.5)")
    assert found.pop("classifier") == "done"
    assert found["cam"] == found["inter_pixel_label"] == found["mask_rcnn"] == "stale"
    assert "INPUT.SCALES was [1.0] and is [1.0, 0.5]" in text
    assert advice in caplog.text

    artifact = sorted(copy.glob("2_cam/artifacts/*.npz"))[2]
    data = artifact.read_bytes()
    artifact.unlink()
    found, text = states(copy, shapes_root)
    assert found["cam"] == "missing"
    assert "1 of 8 artifacts missing" in text
    assert found["mask_rcnn"] == "done"

    before = snapshot(copy)
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert artifact.read_bytes() == data
    after = snapshot(copy)
    changed = {path.relative_to(copy) for path in after if before.get(path) != after[path]}
    names = {str(path) for path in changed}
    assert names == {f"2_cam/artifacts/{artifact.name}", "2_cam/manifest.json", "2_cam/index.json"}


def test_a_finished_training_is_extended(copy, shapes_root, tmp_path):
    shutil.copytree(copy, tmp_path / "unbroken")

    def train(output, iterations, *arguments, run=train_net_here, **options):
        extra = (("mask_rcnn.SOLVER.MAX_ITER", iterations), ("mask_rcnn.SOLVER.WARMUP_ITERS", "0"))
        one = ("--stage", "mask_rcnn", *arguments)
        done = run(*one, datasets=shapes_root, output=output, extra=extra, **options)
        return done.returncode, done.stdout + done.stderr

    def content(output):
        folder = output / "8_mask_rcnn"
        weights = torch.load(folder / "model_final.pth", weights_only=True)["model"]
        return json.loads((folder / "manifest.json").read_text()), weights

    assert train(tmp_path / "unbroken", "7", "--force")[0] == 0
    assert train(copy, "4", "--force")[0] == 0
    code, said = train(copy, "7")
    assert code == 1
    assert "SOLVER.MAX_ITER was 4 and is 7. Train on with --resume, redo it" in said
    killed = {"run": train_net_forked, "prelude": kill_training("mask_rcnn")}
    assert train(copy, "7", "--resume", **killed)[0] == -signal.SIGKILL
    code, said = train(copy, "7")  # of the extension nothing is stale
    assert code == 0, said
    (unbroken, expected), (extended, found) = content(tmp_path / "unbroken"), content(copy)
    assert (unbroken.pop("extended"), extended.pop("extended")) == ([], [4])
    assert extended["product"] == unbroken["product"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "7 iterations, extended from 4" in train(copy, "7", "--list-stages")[1]
    code, said = train(copy, "4", "--resume")
    assert code == 1
    assert "SOLVER.MAX_ITER was 7 and is 4. Redo it" in said


def test_stale_stage_is_refused_and_force_redoes_it(copy, shapes_root):
    change = ("instances.MODEL.IRNET.INSTANCE_BACKGROUND", "0.5")
    refused = train_net_here(*change, datasets=shapes_root, output=copy)
    assert refused.returncode == 1
    assert "stage instances in" in refused.stderr
    assert re.search(r"INSTANCE_BACKGROUND was 0\.\d+ and is 0\.5", refused.stderr)
    assert "Traceback" not in refused.stderr
    redone = train_net_here(
        "--from-stage",
        "instances",
        "--until-stage",
        "pseudo_labels",
        "--force",
        *change,
        datasets=shapes_root,
        output=copy,
    )
    assert redone.returncode == 0, redone.stderr
    found, _ = states(copy, shapes_root, *change)
    assert found["instances"] == found["pseudo_labels"] == "done"
    assert found["mask_rcnn"] == "stale"


def test_artifacts_hold_what_the_plan_says(tiny_run):
    from wsis.data.artifacts import ProductReader

    reader = ProductReader(tiny_run / "6_instances", "instances")
    keys = list(reader.keys())
    assert len(keys) == 8
    arrays = reader[keys[0]]
    assert arrays["masks"].dtype == bool
    assert arrays["masks"].shape[0] == len(arrays["scores"]) == len(arrays["classes"])
    summary = ProductReader(tiny_run / "5_displacement_mean", "displacement_mean").summary
    assert summary["mean"].shape == (2,)
    assert np.isfinite(summary["mean"]).all()


def test_artifacts_of_many_images_lie_in_many_folders(tiny_run, shapes_root, tmp_path):
    """Killed and run again, and by a command that would not spread so few."""
    shutil.copytree(tiny_run / "1_classifier", tmp_path / "1_classifier")
    many = "import wsis.data.artifacts as artifacts; artifacts.MOST_TOGETHER = 3\n"
    words = ("--until-stage", "inter_pixel_label")
    options = {"datasets": shapes_root, "output": tmp_path}
    killed = train_net_forked(*words, **options, prelude=many + kill_writing("cam"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (half,) = {path.parent for path in list(tmp_path.glob("2_cam/artifacts/*/*.npz"))[:1]}
    (half / ".a.npz.half.tmp").touch()
    for prelude in (many, ""):
        done = train_net_forked(*words, **options, prelude=prelude)
        assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout + done.stderr
    for stage in ("2_cam", "3_inter_pixel_label"):
        flat = {path.name: path.read_bytes() for path in (tiny_run / stage).glob("artifacts/*.npz")}
        files = [path for path in (tmp_path / stage).rglob("artifacts/**/*") if path.is_file()]
        assert {path.name: path.read_bytes() for path in files} == flat
        assert all(len(path.parent.name) == 2 for path in files)
        index = "index.json"
        assert (tmp_path / stage / index).read_bytes() == (tiny_run / stage / index).read_bytes()
    path = files[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    done = train_net_here("--verify", "--stage", "inter_pixel_label", **options)
    assert done.returncode == 1
    assert f"{path.parent.name}/{path.name}: other bytes" in done.stdout + done.stderr
    path.unlink()
    assert states(tmp_path, shapes_root)[0]["inter_pixel_label"] == "missing"
