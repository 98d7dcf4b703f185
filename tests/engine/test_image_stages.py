"""Several images at a time: one that fails costs no other anything; too little memory, fewer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from plain.stages import Stages
from wsis.data.stream import Failure
from wsis.engine import image_stages
from wsis.engine.manifest import Images
from wsis.errors import DataError, MachineError, UsageError

from tests.tiny import ROOT, make_shapes, tiny_overrides


def together(finish, most):
    planned = SimpleNamespace(cfg=SimpleNamespace(SEED=0))
    folder = SimpleNamespace(name="cam", planned=planned, images=Images())
    return image_stages._Together(folder, finish, most)


def doubled(samples):
    if 5 in samples:
        raise DataError("not 5")
    return [{"value": np.array(2 * sample)} for sample in samples]


def made(batches, samples):
    """What becomes of samples whose keys are their numbers."""
    found = []
    for some in batches.lists(iter(samples)):
        keys = [getattr(one, "key", str(one)) for one in some]
        found += batches.made(keys, some)
    return [str(one) if isinstance(one, Exception) else int(one["value"]) for one in found]


def test_what_fails_with_others_fails_alone(caplog):
    batches = together(doubled, 4)
    samples = [1, Failure("2", "no file"), 3, 4, 5, 6, 7]
    assert [len(some) for some in batches.lists(iter(samples))] == [4, 3]
    assert made(batches, samples) == [2, "no file", 6, 8, "not 5", 12, 14]
    assert (batches.most, caplog.messages) == (4, [])


@pytest.mark.parametrize(("room", "most"), [(1, 1), (2, 2), (5, 4)])
def test_too_little_memory_for_many_images(room, most, caplog):
    def finish(samples):
        if len(samples) > room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return doubled(samples)

    batches, samples = together(finish, 16), list(range(10, 42))
    assert made(batches, samples) == [2 * sample for sample in samples]
    assert batches.most == most
    assert caplog.messages == ["cam: too little memory for 16 images at a time; fewer from now on"]


@pytest.fixture
def cams(tmp_path, monkeypatch):
    """A stage of 5 images, 3 of them at a time, and what makes their artifacts."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(make_shapes(tmp_path, train=5, val=1)))
    own = ("OUTPUT_DIR", str(tmp_path / "out")), ("MODEL.DEVICE", "cpu"), ("MODEL.WEIGHTS", "")
    own = (*own, ("WSIS.ON_ERROR", "skip"), ("DATALOADER.NUM_WORKERS", "0"))
    config = ROOT / "configs" / "irnet_shapes.yaml"
    stages = Stages(config, tiny_overrides(config, own))
    kept = image_stages._Together
    monkeypatch.setattr(
        image_stages, "_Together", lambda folder, finish, most: kept(folder, finish, 3 * most)
    )
    return stages, *stages.maker("cam")


def test_a_stage_names_the_image_that_fails_and_makes_the_others(cams):
    stages, prepare, finish = cams
    folder = stages.folders["cam"]
    bad = folder.image_keys[1]
    sizes = []

    def failing(error):
        def check(samples):
            sizes.append(len(samples))
            if bad in [sample["image_key"] for sample in samples]:
                raise error
            return finish(samples)

        return prepare, check

    stages.run("cam", failing(DataError("no good")))
    assert sizes == [3, 1, 2, 1, 1, 2]
    assert folder.logged()[bad] == {"skipped": "no good"}
    others = [key for key in folder.image_keys if key != bad]
    first = {key: folder.reader[key] for key in others}
    stages.run("cam", (prepare, lambda samples: [finish([one])[0] for one in samples]))
    for key in others:
        for name, array in folder.reader[key].items():
            np.testing.assert_allclose(first[key][name], array, rtol=1e-3, atol=1e-5)
    short, wrong = RuntimeError("CUDA out of memory"), UsageError("MODEL.X is wrong")
    for error, kind, said in (
        (short, MachineError, f"image {bad}: out of memory"),
        (wrong, UsageError, "MODEL.X"),
    ):
        with pytest.raises(kind, match=said):
            stages.run("cam", failing(error))
        assert folder.reader.path(folder.image_keys[0]).is_file()  # what came before is there
        assert not folder.reader.path(folder.image_keys[2]).exists()
