"""Damaged products, full disks, diverging training, several runs at once."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest
from wsis.engine import image_stages
from wsis.engine.checkpoint import AtomicCheckpointer

from tests.test_bad_input import (
    assert_clean,
    assert_refused,
    image_of,
    truncate,
    truncate_inside,
)
from tests.tiny import environment, labels_of, manifest_of, train_net_forked, train_net_here


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


def states(output, datasets):
    done = train_net_here("--list-stages", datasets=datasets, output=output)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    return {row[0]: row[2] for row in rows}


def flip(path):
    """Another byte in the middle of a file, whose size stays as it is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def weights_of(output, stage):
    return manifest_of(output, stage)["product"]


# Training.


@pytest.mark.parametrize(
    ("damage", "resumed"),
    [
        ({"model_0000003.pth": 0.5}, 2),
        ({"model_0000003.pth": 0.0}, 2),
        ({"model_0000003.pth": None}, 2),
        ({"model_0000003.pth": 0.9, "model_0000001.pth": 0.9}, None),
        ({"model_0000003.pth": "flip"}, 2),
    ],
    ids=["truncated", "empty", "lost", "all truncated", "a byte flipped"],
)
def test_training_resumes_from_an_older_checkpoint(copy, tiny_run, shapes_root, damage, resumed):
    """As if killed after iteration 3 was saved and before the end; then the disk fails."""
    folder = copy / "1_classifier"
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    for name, keep in damage.items():
        if keep is None:
            (folder / name).unlink()
        elif keep == "flip":
            flip(folder / name)
        else:
            truncate(folder / name, keep=keep)
    done = train_net_here("--stage", "classifier", datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    found = re.search(r"Resuming at iteration (\d+)", done.stdout)
    assert (int(found.group(1)) if found else None) == resumed
    assert weights_of(copy, "classifier") == weights_of(tiny_run, "classifier")
    assert set(states(copy, shapes_root).values()) == {"done"}


@pytest.mark.parametrize("keep", [None, 0.7], ids=["lost", "truncated"])
def test_final_weights_are_made_again(copy, tiny_run, shapes_root, keep):
    path = copy / "4_relation_network" / "model_final.pth"
    path.unlink() if keep is None else truncate(path, keep=keep)
    assert states(copy, shapes_root)["relation_network"] == "missing"
    refused = train_net_here("--stage", "instances", datasets=shapes_root, output=copy)
    assert_refused(refused, "needs relation_network, which is missing", "--stage relation_network")
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert weights_of(copy, "relation_network") == weights_of(tiny_run, "relation_network")
    assert set(states(copy, shapes_root).values()) == {"done"}


def test_final_weights_with_a_flipped_byte_are_never_used(copy, tiny_run, shapes_root):
    path = copy / "4_relation_network" / "model_final.pth"
    flip(path)
    shutil.rmtree(copy / "5_displacement_mean")
    refused = train_net_here("--until-stage", "instances", datasets=shapes_root, output=copy)
    assert_refused(refused, path, "its bytes have changed", "delete it and run the stage again")
    path.unlink()
    done = train_net_here("--until-stage", "instances", datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert weights_of(copy, "relation_network") == weights_of(tiny_run, "relation_network")


@contextmanager
def file_size_limit(limit):
    """No file may grow beyond ``limit`` bytes: what a full disk is, for one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_while_a_checkpoint_is_saved(tiny_run, shapes_root, tmp_path, monkeypatch):
    original, saved = AtomicCheckpointer.save, []

    def save(self, name, **kwargs):
        saved.append(name)
        with file_size_limit(100_000 if len(saved) == 2 else resource.RLIM_INFINITY):
            original(self, name, **kwargs)

    monkeypatch.setattr(AtomicCheckpointer, "save", save)
    done = train_net_here("--stage", "classifier", datasets=shapes_root, output=tmp_path)
    assert_refused(
        done,
        "model_0000003.pth (File too large)",
        "free some space",
        "goes on from the last checkpoint",
    )
    assert_clean(tmp_path)
    folder = tmp_path / "1_classifier"
    assert (folder / "last_checkpoint").read_text() == "model_0000001.pth"
    assert [path.name for path in folder.glob("*.pth")] == ["model_0000001.pth"]
    done = train_net_here("--stage", "classifier", datasets=shapes_root, output=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Resuming at iteration 2" in done.stdout
    assert weights_of(tmp_path, "classifier") == weights_of(tiny_run, "classifier")


DIVERGING = (
    ("SOLVER.BASE_LR", "1e9"),
    ("SOLVER.WARMUP_ITERS", "0"),
    ("SOLVER.CLIP_GRADIENTS.ENABLED", "False"),
    ("SOLVER.CHECKPOINT_PERIOD", "1"),
    ("SOLVER.MAX_ITER", "60"),
)


def test_diverging_training_names_iteration_and_images(shapes_root, tmp_path):
    run = {"datasets": shapes_root, "output": tmp_path}
    done = train_net_here("--stage", "classifier", extra=DIVERGING, **run)
    assert_refused(done, "training diverged", "SOLVER.BASE_LR", "--force")
    assert re.search(r"at iteration \d+ on images train_0000\d, train_0000\d", done.stderr)
    assert_clean(tmp_path)
    import torch

    last = (tmp_path / "1_classifier" / "last_checkpoint").read_text()
    state = torch.load(tmp_path / "1_classifier" / last, weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in state.values())
    refused = train_net_here("--stage", "classifier", **run)
    assert_refused(refused, "stale", "SOLVER.BASE_LR was 1000000000.0 and is 0.001", "--force")
    done = train_net_here("--stage", "classifier", "--force", **run)
    assert done.returncode == 0, done.stderr


# Artifacts and manifests.


def test_truncated_artifact_is_made_again(copy, shapes_root):
    path = sorted(copy.glob("2_cam/artifacts/*.npz"))[3]
    whole = truncate(path)
    assert states(copy, shapes_root)["cam"] == "missing"
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == whole
    assert set(states(copy, shapes_root).values()) == {"done"}


def test_artifact_with_flipped_bytes_is_never_used(copy, tiny_run, shapes_root):
    path = sorted(copy.glob("2_cam/artifacts/*.npz"))[3]
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(255 - byte for byte in data[middle : middle + 8])
    path.write_bytes(data)
    shutil.rmtree(copy / "6_instances")
    done = train_net_here("--until-stage", "instances", datasets=shapes_root, output=copy)
    assert_refused(done, path, "not a readable artifact", "delete it and rerun")
    path.unlink()
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == (tiny_run / path.relative_to(copy)).read_bytes()
    assert labels_of(copy) == labels_of(tiny_run)


def test_truncated_pseudo_labels_are_made_again(copy, tiny_run, shapes_root):
    truncate(copy / "7_pseudo_labels" / "pseudo_labels.json")
    shutil.rmtree(copy / "8_mask_rcnn")
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert labels_of(copy) == labels_of(tiny_run)


@pytest.mark.parametrize("text", ["", '{"stage": "cam"', "[]", '{"stage": 1}', None])
def test_damaged_manifest_is_stale_and_force_redoes_it(copy, tiny_run, shapes_root, text):
    path = copy / "2_cam" / "manifest.json"
    path.unlink() if text is None else path.write_text(text)
    found = states(copy, shapes_root)
    assert found["classifier"] == "done"
    assert found["cam"] == found["instances"] == "stale"
    run = {"datasets": shapes_root, "output": copy}
    assert_refused(train_net_here(**run), "manifest.json", "--from-stage cam --force")
    done = train_net_here("--stage", "cam", "--force", **run)
    assert done.returncode == 0, done.stderr
    assert set(states(copy, shapes_root).values()) == {"done"}


def test_damaged_index(copy, shapes_root):
    path = copy / "2_cam" / "index.json"
    path.write_text("[1]")
    refused = train_net_here(datasets=shapes_root, output=copy)
    assert_refused(refused, path, "damaged; delete it and rerun")
    path.unlink()
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr


def test_full_disk_while_artifacts_are_written(copy, tiny_run, shapes_root, monkeypatch):
    for name in ("2_cam", "3_inter_pixel_label"):
        shutil.rmtree(copy / name)
    original, calls = image_stages.write_artifact, []

    def write_artifact(path, arrays):
        calls.append(path)
        with file_size_limit(1000 if len(calls) == 4 else resource.RLIM_INFINITY):
            return original(path, arrays)

    monkeypatch.setattr(image_stages, "write_artifact", write_artifact)
    monkeypatch.setattr(image_stages, "_WRITERS", 1)  # the limit is the whole process's
    done = train_net_here("--stage", "cam", datasets=shapes_root, output=copy)
    assert_refused(done, calls[3], "File too large", "run the same command again")
    assert not list(copy.rglob("*.tmp"))
    assert manifest_of(copy, "cam")["status"] == "running"
    assert not calls[3].exists()
    done = train_net_here(datasets=shapes_root, output=copy)
    assert done.returncode == 0, done.stderr
    assert labels_of(copy) == labels_of(tiny_run)
    assert set(states(copy, shapes_root).values()) == {"done"}


# Several processes.

HOLDER = textwrap.dedent(
    """
    import sys, pathlib
    from wsis.engine.lock import output_lock
    with output_lock(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
    """
)


def test_second_run_in_the_same_folder_is_refused(copy, shapes_root):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(copy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(shapes_root),
        text=True,
    )
    with holder:
        assert holder.stdout.readline().strip() == "held"
        done = train_net_here("--force", datasets=shapes_root, output=copy)
        listed = states(copy, shapes_root)
        holder.stdin.close()
    assert_refused(done, copy, "in use by another run", f"process {holder.pid} on {os.uname()[1]}")
    assert set(listed.values()) == {"done"}


SIGNALLED = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from detectron2.utils import comm
from wsis.engine.trainer import Trainer
run_step = Trainer.run_step
def signalled(self):
    run_step(self)
    if self.iter == {iteration} and comm.get_rank() == {rank}:
        os.kill(os.getpid(), {number})
Trainer.run_step = signalled
"""


@pytest.mark.parametrize(
    ("number", "said", "code"), [(2, "interrupted", 130), (15, "ended by SIGTERM", 143)]
)
def test_a_signal_in_training(shapes_root, tiny_run, tmp_path, number, said, code):
    run = {"datasets": shapes_root, "output": tmp_path}
    prelude = SIGNALLED.format(iteration=0, rank=0, number=number)
    ended = train_net_forked("--stage", "classifier", prelude=prelude, **run)
    assert ended.returncode == code
    assert "stopping after this iteration, which is saved; once more stops at once" in ended.stderr
    assert ended.stderr.endswith(f"{said}; run the same command again to go on\n")
    assert "Traceback" not in ended.stderr
    done = train_net_here("--stage", "classifier", **run)
    assert done.returncode == 0, done.stderr
    assert "Resuming at iteration 1" in done.stdout
    assert weights_of(tmp_path, "classifier") == weights_of(tiny_run, "classifier")


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_iteration(
    shapes_root, tmp_path
):
    run = {"datasets": shapes_root, "output": tmp_path}
    command = ("--stage", "classifier", "--num-gpus", 0, "--num-processes", 2)
    prelude = SIGNALLED.format(iteration=2, rank=1, number=15)
    ended = train_net_forked(*command, prelude=prelude, **run)
    assert ended.returncode == 1
    assert ended.stderr.endswith("ended by SIGTERM; run the same command again to go on\n")
    assert (tmp_path / "1_classifier" / "last_checkpoint").read_text() == "model_0000002.pth"
    done = train_net_forked(*command, **run)
    assert done.returncode == 0, done.stderr
    assert "Resuming at iteration 3" in done.stdout


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_that_cannot_be_read_leaves_nothing_behind(processes, shapes_root, tmp_path):
    (tmp_path / "a.json").write_text('{"images": [')
    data = f"{{FORMAT: coco, JSON: {tmp_path}/a.json, IMAGES: {shapes_root}/shapes/JPEGImages}}"
    command = ("--num-gpus", 0, "--num-processes", processes)
    run = {"datasets": shapes_root, "output": tmp_path / "output" / "a"}
    done = train_net_forked(*command, **run, extra=(("DATA.TRAIN", data),))
    assert_refused(done, "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    said = [line for line in done.stdout.splitlines() if "starting 2 processes" in line]
    assert len(said) == processes - 1


def test_two_processes_of_which_one_fails_say_it_once(copy, shapes_root, tmp_path):
    """The second image belongs to the second process alone."""
    shutil.rmtree(copy / "2_cam")
    datasets = shutil.copytree(shapes_root, tmp_path / "datasets")
    truncate_inside(image_of(datasets, 1))
    two = ("--num-gpus", 0, "--num-processes", 2)
    done = train_net_forked("--stage", "cam", *two, datasets=datasets, output=copy)
    assert_refused(done, "train_00001.jpg", "truncated")
    assert not list(copy.rglob("*.tmp"))
    assert manifest_of(copy, "cam")["status"] == "running"
