"""One file is written from all artifacts, by any number of processes."""

import multiprocessing
import os
from types import SimpleNamespace

import numpy as np
import pytest
from wsis.config import get_wsis_cfg
from wsis.data.pseudo_labels import PseudoLabels, read_pseudo_labels
from wsis.engine import runners
from wsis.engine.runners import run_export


def labels_of(records, products, cfg):
    """Every third image has no instance, every fifth is left out."""

    def read(record):
        number = record["image_id"]
        if number % 5 == 4:
            return None
        rng, count = np.random.default_rng(number), number % 3
        masks = rng.random((count, 6, 8)) < 0.5
        return {"classes": np.zeros(count, int), "scores": rng.random(count), "masks": masks}

    return PseudoLabels(records, read_instances=read, class_names=("bär",), min_score=0.1)


def killed(records, products, cfg):
    """The process that comes to the second half of the images is ended there."""
    labels = labels_of(records, products, cfg)
    read = labels._read
    labels._read = lambda record: os._exit(9) if record["image_id"] > 20 else read(record)
    return labels


def export(path, closed, function=labels_of):
    """What a process of a run does."""
    path.mkdir(exist_ok=True)
    sizes = {"height": 6, "width": 8}
    records = [
        {"file_name": f"/in/{n}.jpg", "image_id": n, "image_key": str(n)} | sizes for n in range(41)
    ]
    folder = SimpleNamespace(
        path=path,
        planned=SimpleNamespace(cfg=get_wsis_cfg()),
        dataset_dicts=records,
        manifest=SimpleNamespace(digest="d"),
        close=lambda product, counts: closed.put(counts),
    )
    run_export(folder, SimpleNamespace(file_name="labels.json", function=function), {})


def as_rank(rank, size, barrier, path, closed, patch, function=labels_of):
    for name, value in {
        "get_rank": rank,
        "get_world_size": size,
        "is_main_process": not rank,
    }.items():
        patch.setattr(runners.comm, name, lambda value=value: value)
    patch.setattr(runners.comm, "synchronize", barrier.wait)
    export(path, closed, function)


def test_a_killed_export_leaves_nothing_to_the_next_one(tmp_path, monkeypatch):
    """It may have one process alone, whose file and folder are as if there had been none."""
    monkeypatch.setattr(runners, "digest_of_product", lambda folder: "")
    context = multiprocessing.get_context("fork")
    closed, barrier = context.SimpleQueue(), context.Barrier(2)
    workers = [
        context.Process(
            target=as_rank, args=(rank, 2, barrier, tmp_path / "more", closed, monkeypatch, killed)
        )
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 9
    assert any((tmp_path / "more").iterdir())
    for name in ("one", "more"):
        export(tmp_path / name, closed)
    (file,) = (tmp_path / "more").iterdir()
    assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes()


@pytest.mark.parametrize("size", [2, 3])
def test_the_bytes_are_those_of_one_process(size, tmp_path, monkeypatch):
    monkeypatch.setattr(runners, "digest_of_product", lambda folder: "")
    context = multiprocessing.get_context("fork")
    closed, barrier = context.SimpleQueue(), context.Barrier(size)
    export(tmp_path / "one", closed)
    (tmp_path / "more" / runners.PARTS).mkdir(parents=True)
    for rank in "07":  # of a run that was killed
        (tmp_path / "more" / runners.PARTS / rank).write_text('0\n1\n"image_id": 7}\n40\n2\n"im')
    workers = [
        context.Process(
            target=as_rank, args=(rank, size, barrier, tmp_path / "more", closed, monkeypatch)
        )
        for rank in range(size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    counts = closed.get()
    assert counts == closed.get()
    assert counts["left_out"] == 8
    assert counts["images"] == 33
    (file,) = (tmp_path / "more").iterdir()
    assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes()
    found = read_pseudo_labels(file)
    ids = [a["id"] for image in found.images for a in image["annotations"]]
    assert ids == [*range(1, counts["annotations"] + 1)]
