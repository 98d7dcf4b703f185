"""The training stream is a function of seed and position."""

import itertools
import multiprocessing
import os
import signal
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from wsis.data import stream
from wsis.data.stream import (
    Failure,
    ResumableLoader,
    StreamBatches,
    TrainingStream,
    seeded,
    single_pass_loader,
)
from wsis.errors import DataError, MachineError, explain

DICTS = [
    {"image_key": f"img{i}", "width": 10 + 30 * (i % 3 == 0), "height": 20, "index": i}
    for i in range(7)
]


def draw(sample):
    """A mapper that augments: it draws from all three global generators."""
    return {
        "image_key": sample["image_key"],
        "numpy": np.random.random(),  # noqa: NPY002
        "torch": torch.rand(()).item(),
    }


def refuse(sample):
    """A mapper for which one image is broken."""
    if sample["index"] == 2:
        raise DataError("img2 is truncated")
    return {"image_key": sample["image_key"]}


def loader(start=0, workers=0, mapper=draw, skip=False, **options):
    stream = TrainingStream(DICTS, mapper, seed=3, skip_broken=skip)
    made = ResumableLoader(stream, StreamBatches(stream, 2, **options), num_workers=workers)
    made.batches.start = start
    return made


def take(source, count):
    return list(itertools.islice(iter(source), count))


def test_every_epoch_is_another_permutation():
    stream = TrainingStream(DICTS, draw, seed=3)
    epochs = [[stream.index_at(7 * e + i) for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [stream.index_at(i) for i in range(7)] == epochs[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouped", [False, True])
def test_resumed_stream_equals_unbroken_one(workers, grouped):
    unbroken = take(loader(group_by_aspect=grouped), 9)
    resumed = take(loader(start=4, workers=workers, group_by_aspect=grouped), 5)
    assert resumed == unbroken[4:]


def test_processes_share_the_stream_without_overlap():
    together = [s for batch in take(loader(), 6) for s in batch]
    apart = [take(loader(rank=r, world_size=2), 3) for r in range(2)]
    interleaved = [s for pair in zip(*[sum(a, []) for a in apart], strict=True) for s in pair]
    assert interleaved == together


def test_grouped_batches_do_not_mix_wide_and_tall():
    wide = {d["image_key"] for d in DICTS if d["width"] > d["height"]}
    batches = [{s["image_key"] in wide for s in b} for b in take(loader(group_by_aspect=True), 20)]
    assert all(len(kinds) == 1 for kinds in batches)
    assert {True} in batches
    assert {False} in batches


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_what_the_network_draws_from(workers):
    """Else the first iteration after a resumption would differ from the same one unbroken."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(loader(workers=workers), 2)
    assert torch.equal(torch.rand(3), expected)


def test_seeded_leaves_the_outer_state_alone():
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    expected = np.random.random(), torch.rand(()).item()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    with seeded(1, 2):
        inside = np.random.random(), torch.rand(()).item()  # noqa: NPY002
    assert (np.random.random(), torch.rand(()).item()) == expected  # noqa: NPY002
    with seeded(1, 2):
        assert (np.random.random(), torch.rand(()).item()) == inside  # noqa: NPY002
    with seeded(1, 3):
        assert np.random.random() != inside[0]  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_stops_training_with_its_message(workers):
    with pytest.raises(DataError, match="^img2 is truncated$"):
        take(loader(mapper=refuse, workers=workers), 4)


def test_broken_image_is_replaced_on_request():
    keys = [s["image_key"] for batch in take(loader(mapper=refuse, skip=True), 7) for s in batch]
    assert len(keys) == 14
    assert "img2" not in keys
    assert keys.count("img3") == 4  # its own two turns and those of its broken neighbour


@pytest.mark.parametrize("workers", [0, 2])
def test_replaced_images_are_told_once(workers):
    told = []
    stream = TrainingStream(DICTS, refuse, seed=3, skip_broken=True)
    take(
        ResumableLoader(stream, StreamBatches(stream, 2), num_workers=workers, on_skip=told.append),
        14,
    )
    assert told == [Failure("img2", "img2 is truncated")]


def test_keys_at_an_iteration_are_those_of_all_processes():
    batches = [take(loader(rank=r, world_size=2), 4)[3] for r in range(2)]
    keys = [sample["image_key"] for batch in batches for sample in batch]
    assert loader(rank=1, world_size=2).batches.keys_at(3) == keys


@pytest.mark.parametrize("workers", [0, 2])
def test_single_pass_keeps_order_and_reports_failures(workers):
    made = list(single_pass_loader(DICTS, refuse, num_workers=workers))
    assert [m.key if isinstance(m, Failure) else m["image_key"] for m in made] == [
        d["image_key"] for d in DICTS
    ]
    assert made[2] == Failure("img2", "img2 is truncated")


@pytest.mark.parametrize(("ahead", "asked"), [(1, 2), (5, 5)])
def test_loading_processes_are_as_many_samples_ahead_as_asked_for(ahead, asked):
    drawn = []
    order = (drawn.append(index) or index for index in range(len(DICTS)))
    made = single_pass_loader(DICTS, draw, num_workers=1, order=order, ahead=ahead)
    assert next(made)["image_key"] == "img0"
    assert len(drawn) == asked + 1  # the next one is asked for in its place
    assert len(list(made)) == len(DICTS) - 1


def tensors(sample):
    return {"wide": torch.full((3, 4), sample["width"]).t(), "key": sample["image_key"]}


def test_without_room_in_shared_memory_samples_come_through_a_pipe(monkeypatch, caplog):
    """Here the main process would wait for ever; strides and values stay."""
    dicts = [{"image_key": f"img{i}", "width": i} for i in range(5)]
    expected = [tensors(record) for record in dicts]
    for room in (True, False):
        if not room:
            monkeypatch.setattr(stream, "ForkingPickler", NoRoom)
        made = list(single_pass_loader(dicts, tensors, num_workers=2))
        assert [one["key"] for one in made] == [one["key"] for one in expected]
        for one, other in zip(made, expected, strict=True):
            assert torch.equal(one["wide"], other["wide"])
            assert one["wide"].stride() == other["wide"].stride() == (1, 4)
        assert caplog.text.count("shared memory (/dev/shm) is full") == 1 - room
    assert "--shm-size" in caplog.text


class NoRoom(ForkingPickler):
    @classmethod
    def dumps(cls, made):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


def die(sample):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_loading_process_that_is_killed_is_told_with_what_to_change():
    with pytest.raises(RuntimeError) as caught:
        list(single_pass_loader([{"image_key": "a"}], die, num_workers=1))
    said, code = explain(caught.value)
    assert said.startswith("a data-loading process was ended, perhaps for lack of memory")
    assert "fewer DATALOADER.NUM_WORKERS" in said
    assert code == 1


def too_large(sample):
    return np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_for_which_memory_runs_out_is_named_and_not_skipped(workers):
    (made,) = single_pass_loader([{"image_key": "a"}], too_large, num_workers=workers)
    assert made.fatal
    assert isinstance(made.error(), MachineError)
    assert made.message.startswith("image a: out of memory (Unable to allocate")
    with pytest.raises(MachineError, match=r"^image img\d: out of memory"):
        take(loader(mapper=too_large, workers=workers, skip=True), 1)


def test_loading_processes_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(stream, "_SEMAPHORES", 2**60)
    with pytest.raises(MachineError, match="2 data-loading processes cannot be started.*shm-size"):
        next(iter(loader(workers=2)))


def test_single_pass_over_nothing():
    assert list(single_pass_loader([], refuse, num_workers=2)) == []


def test_a_signal_for_all_processes_of_a_job_leaves_loading_time_to_finish():
    """Systemd and SLURM send SIGTERM to every process; training saves its iteration first."""
    batches = iter(loader(workers=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    assert len(next(batches)) == 2
    worker.join()
    assert worker.exitcode == -signal.SIGALRM
