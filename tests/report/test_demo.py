"""PRM without proposals end to end on tiny shapes, and the commands that use what it trained."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wsis.data.artifacts import ProductReader
from wsis.report import demo, peak_thresholds

from tests.tiny import ROOT, tiny_overrides, train_net_here

CONFIG = ROOT / "configs" / "prm_shapes_response.yaml"
EXTRA = (
    ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1000.0"),
    ("MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "3"),
    ("MODEL.PEAK_CLASSIFIER.SUB_PIXEL_FACTOR", "2"),
)


@pytest.fixture(scope="module")
def run(shapes_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("prm")
    done = train_net_here(datasets=shapes_root, output=output, config=CONFIG, extra=EXTRA)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def overrides(run, shapes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    return [*tiny_overrides(CONFIG, EXTRA), "OUTPUT_DIR", str(run)]


def test_artifacts_and_figures(run, shapes_root):
    product = ProductReader(run / "2_response_instances", "response_instances")
    records = json.loads((shapes_root / "shapes" / "instances_train.json").read_text())["images"]
    found = 0
    keys = list(product.keys())
    for key in keys:
        arrays = product[key]
        assert len(arrays["classes"]) == len(arrays["scores"]) == len(arrays["masks"])
        assert len(arrays["responses"]) == len(arrays["peaks"]) <= 3
        found += len(arrays["classes"])
    assert found > 0
    assert len(keys) == len(records)
    stages = {entry["stage"] for entry in json.loads((run / "metrics.json").read_text())["stages"]}
    assert stages == {"peak_classifier", "response_instances"}


def test_demo_of_a_photograph(overrides, tmp_path, capsys):
    path = tmp_path / "mine.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    arguments = [str(path), "--config-file", str(CONFIG), "--output", str(tmp_path / "out")]
    assert demo.main([*arguments, "--tags", "disc", "--set", *overrides]) in (0, 2)
    error = capsys.readouterr().err
    known = error.partition("it knows ")[2].strip().split(", ") if error else ["disc"]
    assert demo.main([*arguments, "--tags", known[0], "--set", *overrides]) == 0
    target = tmp_path / "out" / "mine.response_instances.png"
    with Image.open(target) as figure:
        assert figure.width > 3 * figure.height / 4
    (tmp_path / "other").mkdir()
    Image.fromarray(255 - pixels).save(tmp_path / "other" / "mine.png")
    both = [str(path), str(tmp_path / "other" / "mine.png"), *arguments[1:]]
    assert demo.main([*both, "--tags", known[0], "--set", *overrides]) == 0
    shown = capsys.readouterr().out.split()[-2:]
    assert len({Path(name).read_bytes() for name in shown}) == 2
    arguments[0] = str(tmp_path / "absent.png")
    assert demo.main([*arguments, "--set", *overrides]) == 1
    assert "absent.png" in capsys.readouterr().err
    assert demo.main([*arguments, "--stage", "peak_classifier", "--set", *overrides]) == 2


def test_peak_heights(overrides, capsys):
    arguments = ["--config-file", str(CONFIG), "--images", "3", *overrides]
    assert peak_thresholds.main(arguments) == 0
    assert "PEAK_THRESHOLD" in capsys.readouterr().out
