"""The method that CONTRIBUTING.md adds, built from the code that it prints."""

from __future__ import annotations

import importlib
import re
import runpy
import shutil
import sys

import pytest
import wsis.methods
from wsis import stage as stages
from wsis.config import get_wsis_cfg
from wsis.engine.pipeline import load_pipeline

from tests.tiny import ROOT

BLOCKS = dict(
    re.findall(
        r"`([\w/]+\.(?:py|yaml))`[^`]*```(?:python|yaml)\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text(),
        re.DOTALL,
    )
)
METHOD = "wsis.methods.peak_circles"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the printed files, whose method is found beside ours."""
    for name, text in BLOCKS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folders = [*wsis.methods.__path__, str(tmp_path / "projects/WSIS/wsis/methods")]
    monkeypatch.setattr(wsis.methods, "__path__", folders)
    monkeypatch.setattr(stages, "_STAGES", dict(stages._STAGES))
    importlib.invalidate_caches()
    get_wsis_cfg()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(METHOD)]:
        del sys.modules[name]
    vars(wsis.methods).pop("peak_circles", None)


def test_the_printed_tests_pass(checkout):
    tests = runpy.run_path(str(checkout / "tests/methods/peak_circles/test_stages.py"))
    found = [name for name in tests if name.startswith("test_")]
    assert len(found) == 2
    for name in found:
        tests[name]()


def test_the_printed_pipeline_is_one(checkout, shapes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    shutil.copytree(ROOT / "configs" / "base", checkout / "configs" / "base")
    config = checkout / "configs" / "peak_circles_shapes.yaml"
    importlib.import_module(f"{METHOD}.config")
    imports = f"IMPORTS: ['{METHOD}.config:add_peak_circles_config']"
    config.write_text(config.read_text().replace("WSIS: {", f"WSIS: {{{imports}, "))
    pipeline = load_pipeline(config, ())
    names = [planned.name for planned in pipeline.stages]
    assert names == ["peak_classifier", "class_peaks", "circles", "pseudo_labels", "mask_rcnn"]
    for planned in pipeline.stages:
        assert planned.sources.keys() >= set(planned.stage.consumes)
    assert pipeline.stages[2].cfg.MODEL.PEAK_CIRCLES.RADIUS == 0.15
