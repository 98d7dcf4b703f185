"""Processes take images as they get on."""

import multiprocessing

import pytest
from wsis.engine import shares as module
from wsis.engine.shares import shares


def test_one_process_takes_all_in_order(tmp_path):
    assert list(shares(11, tmp_path / "count")) == list(range(11))
    assert list(shares(0, tmp_path / "count")) == []
    assert not (tmp_path / "count").exists()


def _work(path, total, others_are_done, results, slow):
    taken = []
    for index in shares(total, path):
        taken.append(index)
        if slow:  # with its first image as long as the others need for all of theirs
            others_are_done.wait()
    results.put((slow, taken))
    if not slow:
        others_are_done.set()


@pytest.mark.parametrize("total", [3, 50])
def test_nobody_waits_for_a_process_with_a_slow_image(total, tmp_path, monkeypatch):
    monkeypatch.setattr(module.comm, "get_world_size", lambda: 2)
    (tmp_path / "count").touch()
    context = multiprocessing.get_context("fork")
    done, results = context.Event(), context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(tmp_path / "count", total, done, results, slow))
        for slow in (True, False)
    ]
    for worker in workers:
        worker.start()
    found = dict(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    assert sorted(found[True] + found[False]) == list(range(total)), "each once"
    assert len(found[True]) <= module._AT_ONCE


def test_many_at_the_same_time_take_each_image_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module.comm, "get_world_size", lambda: 5)
    (tmp_path / "count").touch()
    context = multiprocessing.get_context("fork")
    done, results = context.Event(), context.SimpleQueue()
    args = (tmp_path / "count", 400, done, results, False)
    workers = [context.Process(target=_work, args=args) for _ in range(5)]
    for worker in workers:
        worker.start()
    found = [results.get()[1] for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(index for part in found for index in part) == list(range(400))
