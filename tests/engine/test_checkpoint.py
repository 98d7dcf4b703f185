"""Checkpoints are whole or absent, finite, and a damaged one is passed over."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn
from wsis.engine import checkpoint
from wsis.engine.checkpoint import AtomicCheckpointer, build_network, load_trained
from wsis.engine.manifest import Manifest, digest_of_weights
from wsis.engine.pipeline import load_pipeline
from wsis.errors import UsageError, WSISError
from wsis.modeling.checkpoint import load_tensors

from tests.tiny import PIPELINE


@pytest.fixture
def checkpointer(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return AtomicCheckpointer(model, str(tmp_path), optimizer=optimizer)


def fill(checkpointer, value):
    with torch.no_grad():
        for parameter in checkpointer.model.parameters():
            parameter.fill_(value)


def test_round_trip_marks_the_last(checkpointer, tmp_path):
    for iteration, value in ((1, 1.0), (3, 3.0)):
        fill(checkpointer, value)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    assert checkpointer.newest_readable() == tmp_path / "model_0000003.pth"
    fill(checkpointer, 0.0)
    stored = checkpointer.load(str(checkpointer.newest_readable()))
    assert stored["iteration"] == 3
    assert (checkpointer.model.weight == 3.0).all()
    assert [path.name for path in checkpointer.periodic_files()] == [
        "model_0000001.pth",
        "model_0000003.pth",
    ]


def test_killed_while_saving_keeps_the_previous(checkpointer, tmp_path, monkeypatch):
    fill(checkpointer, 1.0)
    checkpointer.save("model_0000001", iteration=1)
    before = (tmp_path / "model_0000001.pth").read_bytes()

    def half(data, stream):
        stream.write(before[:100])
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(checkpoint.torch, "save", half)
    for name in ("model_0000003", "model_0000001"):  # a new file, and one over the old
        child = os.fork()
        if child == 0:
            try:
                checkpointer.save(name, iteration=3)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "model_0000001.pth").read_bytes() == before
    assert not (tmp_path / "model_0000003.pth").exists()
    assert checkpointer.newest_readable() == tmp_path / "model_0000001.pth"


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_saving_is_ctrl_c_and_keeps_the_previous(checkpointer, tmp_path, monkeypatch):
    """torch makes another error of what a stream raises."""
    fill(checkpointer, 1.0)
    checkpointer.save("model_0000001", iteration=1)
    before = (tmp_path / "model_0000001.pth").read_bytes()

    class Stream:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            if self.stream.tell() > 100:
                signal.raise_signal(signal.SIGINT)
            return self.stream.write(data)

    save = torch.save
    monkeypatch.setattr(checkpoint.torch, "save", lambda data, stream: save(data, Stream(stream)))
    for name in ("model_0000003", "model_0000001"):
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(name, iteration=3)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(checkpointer, tmp_path, value):
    fill(checkpointer, 1.0)
    checkpointer.save("model_0000001", iteration=1)
    with torch.no_grad():
        checkpointer.model.weight[1, 2] = value
    with pytest.raises(WSISError, match="diverged by iteration 3: weight is not finite.*BASE_LR"):
        checkpointer.save("model_0000003", iteration=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000001.pth",
    ]
    assert checkpointer.newest_readable().name == "model_0000001.pth"


def test_running_statistics_must_be_finite_too(tmp_path):
    model = nn.BatchNorm1d(2)
    model.running_var[1] = float("inf")
    with pytest.raises(WSISError, match="running_var"):
        AtomicCheckpointer(model, str(tmp_path)).save("model_final")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"no archive" * 99,
        lambda data: data[:-2000] + bytes([data[-2000] ^ 4]) + data[-1999:],
    ],
    ids=["truncated", "empty", "another file", "one bit flipped"],
)
def test_a_damaged_checkpoint_is_passed_over(checkpointer, tmp_path, damage, caplog):
    for iteration in (1, 3):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    last = tmp_path / "model_0000003.pth"
    last.write_bytes(damage(last.read_bytes()))
    assert checkpointer.newest_readable() == tmp_path / "model_0000001.pth"
    assert "model_0000003.pth is damaged" in caplog.text
    (tmp_path / "model_0000001.pth").unlink()
    assert checkpointer.newest_readable() is None


def test_a_file_without_training_state_is_passed_over(checkpointer, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model_0000007.pth")
    torch.save([1, 2], tmp_path / "model_0000008.pth")
    assert checkpointer.newest_readable() is None


def test_a_mark_that_points_nowhere_or_outside(checkpointer, tmp_path):
    assert checkpointer.newest_readable() is None
    checkpointer.save("model_0000001", iteration=1)
    for mark in (b"model_0000009.pth", b"", b"../../etc/passwd", b"\xff\0", b"x" * 5000, None):
        path = tmp_path / "last_checkpoint"
        path.unlink()
        path.mkdir() if mark is None else path.write_bytes(mark)
        assert checkpointer.newest_readable() == tmp_path / "model_0000001.pth"


def test_every_flipped_byte_is_noticed_or_does_no_harm(tmp_path):
    """torch leaves gaps between the parts of its files, whose bytes nobody reads."""
    AtomicCheckpointer(nn.Linear(2, 1), str(tmp_path)).save("model_0000001", iteration=1)
    path, noticed = tmp_path / "model_0000001.pth", 0
    whole, stored = path.read_bytes(), load_tensors(path)
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 0x10
        path.write_bytes(data)
        try:
            found = load_tensors(path)
        except Exception:  # a damaged archive raises nearly anything
            noticed += 1
        else:
            assert found["iteration"] == stored["iteration"]
            assert found["model"].keys() == stored["model"].keys()
            assert all(torch.equal(v, stored["model"][k]) for k, v in found["model"].items())
    assert noticed > len(whole) / 7 / 3


def test_a_finished_product_that_was_replaced_is_not_loaded(tmp_path):
    model, path = nn.Linear(3, 2), tmp_path / "model_final.pth"
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    fill(checkpointer, 1.0)
    checkpointer.save("model_final", iteration=1)
    manifest = Manifest("classifier", "train", "done", {}, {}, product=digest_of_weights(path))
    manifest.write(tmp_path)
    load_trained(model, path)
    fill(checkpointer, 2.0)  # another run's: sound, of the same size, and not this one's
    checkpointer.save("model_final", iteration=1)
    with pytest.raises(WSISError, match=r"model_final\.pth is not the file that its stage wrote"):
        load_trained(model, path)
    manifest.status = "running"  # it is being trained again
    manifest.write(tmp_path)
    load_trained(model, path)


@pytest.mark.parametrize(
    ("key", "name", "near"),
    [
        ("META_ARCHITECTURE", "CAMNett", "CAMNet"),
        ("BACKBONE.NAME", "build_resnet_backbon", "build_resnet_backbone"),
    ],
)
def test_a_name_that_nothing_registered(key, name, near):
    (stage,) = load_pipeline(PIPELINE, [f"classifier.MODEL.{key}", name]).select(stage="classifier")
    with pytest.raises(UsageError, match=rf"makes no network.* '{name}' .*; did you mean {near}\?"):
        build_network(stage.cfg)
