"""Imported first, so that detectron2's stand-ins are in place before any test imports it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests at once share two cores

import pytest
import torch
import wsis  # noqa: F401

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    """A folder with tiny ``shapes/``, for reading only."""
    from tests.tiny import make_shapes

    return make_shapes(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def tiny_run(shapes_root, tmp_path_factory):
    """The folder of an unbroken run of the tiny pipeline, for reading only."""
    from tests.tiny import train_net_here

    output = tmp_path_factory.mktemp("unbroken")
    done = train_net_here(datasets=shapes_root, output=output)
    assert done.returncode == 0, done.stderr
    return output
