"""Command lines answer before torch and Detectron2 are imported; those wait for their stand-ins."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from wsis import compat

from tests.tiny import ROOT, environment, train_net_forked

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


@pytest.mark.parametrize("command", COMMANDS)
def test_nobody_has_to_read_the_help(command, tmp_path):
    """``| head -1``: the reader is gone, and no error is worth telling."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, ROOT / command, "--help"]
    variables = environment(tmp_path) | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        words, stdout=writer, stderr=subprocess.PIPE, env=variables, check=False, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "prelude",
    [
        "import os; os.closerange(1, 2); sys.stdout = None",  # >&-, as Python starts then
        "import os; ends = os.pipe(); os.close(ends[0]); os.dup2(ends[1], 1)",  # | head
    ],
)
def test_nobody_has_to_read_the_stages(prelude, tmp_path):
    done = train_net_forked("--list-stages", datasets=tmp_path, output=tmp_path, prelude=prelude)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_usage_errors_come_at_once(tmp_path):
    done = call("train_net.py", "--no-such-option", tmp_path=tmp_path)
    assert done.stdout.splitlines() == ["code 2", "heavy []"]
    assert "--no-such-option" in done.stderr or "--config-file" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("train_net.py", "--config-file", "a.yaml", "--list-stagse"),
            "unrecognized arguments: --list-stagse; did you mean --list-stages?",
        ),
        (
            ("train_net.py", "--config_file=a.yaml", "SEED", "-1"),
            "required: --config-file; there is no --config_file; did you mean --config-file?",
        ),
        (
            ("tools/check_data.py", "birds", "--picture", "here"),
            "--picture here; there is no --picture; did you mean --pictures?",
        ),
        (("tools/report.py", "a", "--nothing-like-it"), "arguments: --nothing-like-it"),
    ],
)
def test_mistyped_options(words, said, tmp_path):
    done = call(*words, tmp_path=tmp_path)
    assert done.stdout.splitlines() == ["code 2", "heavy []"]
    assert done.stderr.endswith(f"{said}\n")


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


WITHOUT_DETECTRON2 = """
import runpy, sys


class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Nothing())
import wsis, wsis.layers.masks
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "words",
    [
        ("train_net.py", "--config-file", "configs/irnet_shapes.yaml"),
        (
            "tools/demo.py",
            "--config-file",
            "configs/irnet_shapes.yaml",
            "--input",
            "a",
            "--output",
            "b",
        ),
    ],
    ids=["train_net", "demo"],
)
def test_without_detectron2_one_sentence_says_where_it_comes_from(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DETECTRON2, *words],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the package detectron2 is not installed; the section")
    assert done.stderr.count("\n") == 1, done.stderr


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


def test_a_compiled_detectron2_gets_pkg_resources(monkeypatch):
    """setuptools 82 has dropped it, and the model zoo of every detectron2 imports it."""
    monkeypatch.setitem(sys.modules, "detectron2._C", ModuleType("detectron2._C"))
    monkeypatch.setitem(sys.modules, "pkg_resources", None)  # so that monkeypatch puts it back
    del sys.modules["pkg_resources"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not compat.apply()
    found = sys.modules["pkg_resources"].resource_filename("detectron2", "model_zoo")
    assert (Path(found) / "model_zoo.py").is_file()


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
