"""IAM end to end on tiny shapes: products, resumption, the report and the demo."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from wsis.data.artifacts import ProductReader
from wsis.report import demo, peak_thresholds
from wsis.report.cli import main as report

from tests.tiny import ROOT, tiny_overrides, train_net_here

CONFIG = ROOT / "configs" / "iam_shapes.yaml"
EXTRA = (
    ("INPUT.STRETCH", "(64,64)"),
    ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1000.0"),
    ("MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "3"),
    ("MODEL.PEAK_CLASSIFIER.SUB_PIXEL_FACTOR", "2"),
    ("MODEL.IAM.CHANNELS", "2"),
    ("MODEL.IAM.ITERATIONS", "4"),
    ("MODEL.IAM.PYRAMID_WIDTH", "8"),
    ("filled_instances.MODEL.IAM.MASK_THRESHOLD", "0.05"),  # an untrained network says 0.1
    ("filled_instances.MODEL.IAM.CRF.ITERATIONS", "0"),
    ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.001"),
    ("proposals.DATALOADER.NUM_WORKERS", "0"),
)
FOLDERS = ("3_filling_network", "4_filled_instances", "5_pseudo_labels")


@pytest.fixture(scope="module")
def run(shapes_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("iam")
    go_on(output, shapes_root)
    return output


def go_on(output, datasets):
    done = train_net_here(
        "--until-stage", "pseudo_labels", datasets=datasets, output=output, config=CONFIG,
        extra=EXTRA,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_artifacts_and_labels(run, shapes_root):
    product = ProductReader(run / FOLDERS[1], "filled_instances")
    keys, found = list(product.keys()), 0
    for key in keys:
        arrays = product[key]
        assert len(arrays["classes"]) == len(arrays["scores"]) == len(arrays["masks"])
        assert len(arrays["activation"]) == len(arrays["peaks"]) <= 3
        found += len(arrays["classes"])
    assert found > 0
    labels = json.loads((run / FOLDERS[2] / "pseudo_labels.json").read_text())
    assert labels["info"]["method"] == "IAM"
    assert 0 < len(labels["annotations"]) <= found
    assert len(labels["images"]) == len(keys)
    stages = {entry["stage"] for entry in json.loads((run / "metrics.json").read_text())["stages"]}
    assert {"peak_classifier", "proposals", "filled_instances"} <= stages


def test_resumed_in_the_middle(run, shapes_root, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    training, inference, labels = (broken / name for name in FOLDERS)
    (training / "model_final.pth").unlink()
    for folder in (training, inference):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    checkpoints = sorted(training.glob("model_0*.pth"))
    assert len(checkpoints) == 2
    checkpoints[1].unlink()
    (training / "last_checkpoint").write_text(checkpoints[0].name)
    for path in sorted((inference / "artifacts").glob("*.npz"))[::2]:
        path.unlink()
    shutil.rmtree(labels)
    go_on(broken, shapes_root)
    states = [
        torch.load(folder / FOLDERS[0] / "model_final.pth", weights_only=False)["model"]
        for folder in (run, broken)
    ]
    for name, value in states[0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][name])), name
    name = f"{FOLDERS[2]}/pseudo_labels.json"
    assert (broken / name).read_bytes() == (run / name).read_bytes()


def test_classifier_is_that_of_its_stage(run):
    files = [run / "1_peak_classifier" / "model_final.pth", run / FOLDERS[0] / "model_final.pth"]
    classifier, both = (torch.load(path, weights_only=False)["model"] for path in files)
    for name, value in classifier.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(both[name])), name
    assert any(name.startswith("filling.") for name in both)


def test_peak_heights(run, shapes_root, monkeypatch, capsys):
    """The stage that trains on the classifier is IAM's own, whose network has no weights yet."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    words = [*tiny_overrides(CONFIG, EXTRA), "OUTPUT_DIR", str(run)]
    assert peak_thresholds.main(["--config-file", str(CONFIG), "--images", "3", *words]) == 0
    assert "PEAK_THRESHOLD" in capsys.readouterr().out
    stage = CONFIG.parent / "stages" / "iam_shapes" / "filling_network.yaml"
    assert peak_thresholds.main(["--config-file", str(stage)]) == 2
    assert "filling_network.yaml has no stage that trains" in capsys.readouterr().err


def test_report_and_demo(run, shapes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    words = [*tiny_overrides(CONFIG, EXTRA), "OUTPUT_DIR", str(run)]
    path = tmp_path / "mine.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    arguments = [str(path), "--config-file", str(CONFIG), "--output", str(tmp_path), "--set"]
    assert demo.main([*arguments, *words]) == 0, capsys.readouterr().err
    with Image.open(tmp_path / "mine.filled_instances.png") as figure:
        assert figure.width > figure.height
    target = tmp_path / "report.html"
    assert report([str(run), "--output", str(target), "--images", "1", "--statistics", "1"]) == 0
    assert "instance activation map" in target.read_text()
