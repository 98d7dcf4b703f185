"""Command lines answer before torch and Detectron2 are imported; those wait for their stand-ins."""

import subprocess
import sys

import pytest
from wsis import compat

from tests.tiny import ROOT, environment

COMMANDS = (
    "train_net.py",
    *(
        str(path.relative_to(ROOT))
        for folder in ("tools", "datasets")
        for path in sorted((ROOT / folder).glob("*.py"))
    ),
)
HELP = """
import runpy, sys
path = sys.argv[1]
sys.argv = [path, *sys.argv[2:]]
try:
    runpy.run_path(path, run_name="__main__")
except SystemExit as end:
    print("code", end.code)
print("heavy", sorted({name.partition(".")[0] for name in sys.modules}
    & {"torch", "torchvision", "detectron2", "matplotlib", "cv2"}))
"""


def call(*words, tmp_path):
    return subprocess.run(
        [sys.executable, "-c", HELP, *words],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command, tmp_path):
    done = call(command, "--help", tmp_path=tmp_path)
    assert done.stdout.startswith("usage"), done.stderr
    assert done.stdout.splitlines()[-2:] == ["code 0", "heavy []"], done.stderr


def test_usage_errors_come_at_once(tmp_path):
    done = call("train_net.py", "--no-such-option", tmp_path=tmp_path)
    assert done.stdout.splitlines() == ["code 2", "heavy []"]
    assert "--no-such-option" in done.stderr or "--config-file" in done.stderr


@pytest.mark.parametrize(
    ("command", "option", "wrong", "said"),
    [
        ("tools/report.py", "--images", "0", "'0' is no whole number above 0"),
        ("tools/report.py", "--min-score", "high", "'high' is no finite number"),
        ("tools/demo.py", "--confidence-threshold", "nan", "'nan' is no finite number"),
    ],
)
def test_numbers_that_are_none(command, option, wrong, said, tmp_path):
    done = call(command, option, wrong, tmp_path=tmp_path)
    assert done.stdout.splitlines() == ["code 2", "heavy []"]
    assert said in done.stderr


COMPAT = """
import sys
import wsis
assert "torch" not in sys.modules
import detectron2
from torch.optim import lr_scheduler
import wsis.compat
if wsis.compat.apply():  # no compiled ops
    from detectron2 import _C
    assert isinstance(_C, wsis.compat.MissingOps)
    assert lr_scheduler._LRScheduler is lr_scheduler.LRScheduler
from detectron2.layers import nms
print("fine")
"""


def test_detectron2_finds_its_stand_ins_when_it_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMPAT],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


def test_stand_ins_are_tried_again_after_a_failure(monkeypatch):
    """In a notebook: a package is missing, is installed, and the cell is run again."""
    finder, calls = compat._FirstImport(), []

    def fail():
        calls.append(1)
        if len(calls) == 1:
            raise ModuleNotFoundError("No module named 'pycocotools'")

    monkeypatch.setattr(compat, "apply", fail)
    finder.find_spec("torch")
    with pytest.raises(ModuleNotFoundError):
        finder.find_spec("detectron2.utils")
    finder.find_spec("detectron2.utils")
    finder.find_spec("detectron2.layers")
    assert len(calls) == 2
