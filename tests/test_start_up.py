"""Commands that only tell something import nothing that stages compute with."""

import subprocess
import sys
from pathlib import Path

import detectron2.data
import pytest
from wsis.data.builtin import _OF_DETECTRON2, is_known

ROOT = Path(__file__).parents[1]
HEAVY = {"torchvision", "scipy", "timm", "matplotlib", "safetensors", "detectron2.engine"}
HEAVY |= {f"detectron2.{part}" for part in ("data", "evaluation", "layers", "modeling")}
RUN = """
import sys
from wsis.cli import main
heavy = set(sys.argv.pop(1).split(","))
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("loaded:", sorted(heavy & sys.modules.keys()))
"""


def run(code, *words):
    words = [sys.executable, "-c", code, *words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("question", "heavy"),
    [("--help", HEAVY | {"torch"}), ("--list-stages", HEAVY), ("--print-config=cam", HEAVY)],
)
def test_what_is_not_loaded(question, heavy, shapes_root, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    words = ("--config-file", "configs/irnet_shapes.yaml", question, "OUTPUT_DIR", str(tmp_path))
    told = run(RUN, ",".join(heavy), *words)
    assert told.count("\n") > 8, told
    assert told.endswith("loaded: []\n"), told[-500:]


def test_mappers_like_detectron2s_are_known_before_they_are_imported():
    ask = (
        "import wsis.config; from wsis.stage import INSTANCE_MAPPERS as names; print(sorted(names))"
    )
    assert run(ask) == "['BoxInstMapper', 'GivenBoxMapper', 'InstanceMapper']\n"


def test_detectron2_is_whole_for_others():
    """Its modules that we take early are the ones that everybody gets, with what they bring."""
    told = run(
        "from wsis.data.catalog import BoxMode, DatasetCatalog\n"
        "from detectron2.data.catalog import DatasetCatalog as theirs\n"
        "import detectron2.data, detectron2.structures, pickle\n"
        "assert detectron2.data.catalog.DatasetCatalog is theirs is DatasetCatalog\n"
        "assert 'coco_2017_val' in theirs\n"
        "assert detectron2.structures.boxes.BoxMode is detectron2.structures.BoxMode is BoxMode\n"
        "assert pickle.loads(pickle.dumps(BoxMode.XYWH_ABS)) is BoxMode.XYWH_ABS\n"
        "print('same')"
    )
    assert told == "same\n"


def test_names_of_detectron2_are_known():
    ask = "from wsis.data.builtin import class_names; print(len(class_names('coco_2017_val')))"
    assert run(ask) == "80\n"
    names = [
        name
        for name in detectron2.data.DatasetCatalog
        if detectron2.data.DatasetCatalog[name].__module__.partition(".")[0] == "detectron2"
    ]
    assert len(names) > 20
    assert all(name.startswith(_OF_DETECTRON2) for name in names)
    assert all(map(is_known, names))
