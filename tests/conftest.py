"""Imported first, so that detectron2's stand-ins are in place before any test imports it.

Nothing heavy at the top: the process that only hands out the tests reads this file, too.
"""

import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"  # several tests at once share two cores

import pytest
import wsis  # noqa: F401  (puts the stand-ins where the first import of detectron2 finds them)


@pytest.fixture(autouse=True)
def nothing_stays():
    """What a test registers, sets in the environment or changes of a data set ends with it.

    Fixtures of a wider scope come before this one, so that theirs stay as long as they live.
    """
    import wsis.data.builtin  # noqa: F401  (registers the data sets that are always there)
    from detectron2.data import DatasetCatalog, MetadataCatalog

    # A command that an earlier test ran in this process keeps its log lines from caplog, and writes
    # those of INFO to a stream that is closed.
    for name in ("wsis", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    environment, folder = dict(os.environ), os.getcwd()
    loaders = dict(DatasetCatalog)
    metadata = {name: (entry, dict(vars(entry))) for name, entry in MetadataCatalog.items()}
    yield
    os.chdir(folder)
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
    for catalog, before in ((DatasetCatalog, loaders), (MetadataCatalog, metadata)):
        for name in set(catalog) - set(before):
            catalog.pop(name)
    for name, loader in loaders.items():
        if name not in DatasetCatalog:
            DatasetCatalog.register(name, loader)
    for name, (entry, values) in metadata.items():
        MetadataCatalog[name] = entry
        vars(entry).clear()
        vars(entry).update(values)


@pytest.fixture
def ctrl_c():
    """Ctrl-C is heard, though it is not where a shell started the tests in the background."""
    import signal

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


@pytest.fixture(scope="session")
def ready_folder(tmp_path_factory):
    """What comes with WSIS, with random weights; for reading only."""
    from tests.tiny import make_ready

    return make_ready(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def ready(ready_folder, monkeypatch):
    """`ready_folder` in place of the package's own."""
    monkeypatch.setattr("wsis.ready.FOLDER", ready_folder)
    return ready_folder
