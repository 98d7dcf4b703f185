"""IAM end to end on tiny shapes: products, resumption, the report and the demo."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from wsis.data.artifacts import ProductReader

from tests.scripts import main_of
from tests.test_end_to_end import kill_training, kill_writing
from tests.tiny import ROOT, tiny_overrides, train_net_forked, train_net_here

demo = main_of("tools/demo.py")
peak_thresholds = main_of("tools/peak_thresholds.py")
report = main_of("tools/report.py")

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


def real_run(*arguments, datasets, output, **options):
    until = ("--until-stage", "pseudo_labels")
    return train_net_forked(
        *until, *arguments, datasets=datasets, output=output, config=CONFIG, extra=EXTRA, **options
    )


def same_products(output, expected):
    """The labels and every artifact, byte by byte."""
    for pattern in (f"{FOLDERS[1]}/artifacts/*.npz", f"{FOLDERS[2]}/pseudo_labels.json"):
        paths = sorted(expected.glob(pattern))
        assert paths
        for path in paths:
            other = output / path.relative_to(expected)
            assert other.read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "prelude"),
    [(0, kill_training("filling_network")), (1, kill_writing("filled_instances"))],
    ids=["filling_network", "filled_instances"],
)
def test_killed_it_ends_with_the_same_bytes(run, shapes_root, tmp_path, place, prelude):
    broken = shutil.copytree(run, tmp_path / "broken")
    for name in FOLDERS[place:]:
        shutil.rmtree(broken / name)
    killed = real_run(datasets=shapes_root, output=broken, prelude=prelude)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    manifest = json.loads((broken / FOLDERS[place] / "manifest.json").read_text())
    assert manifest["status"] == "running"
    done = real_run(datasets=shapes_root, output=broken)
    assert done.returncode == 0, done.stderr
    same_products(broken, run)


@pytest.mark.slow
def test_two_processes_make_what_one_makes(run, shapes_root, tmp_path):
    """From the same networks; training on two processes sums in another order."""
    for name in ("1_peak_classifier", FOLDERS[0]):
        shutil.copytree(run / name, tmp_path / name)
    two = ("--num-gpus", 0, "--num-processes", 2)
    done = real_run(*two, datasets=shapes_root, output=tmp_path)
    assert done.returncode == 0, done.stderr
    same_products(tmp_path, run)
    shutil.rmtree(tmp_path / FOLDERS[0])
    shutil.rmtree(tmp_path / FOLDERS[1])
    shutil.rmtree(tmp_path / FOLDERS[2])
    done = real_run(*two, datasets=shapes_root, output=tmp_path)  # trains, too
    assert done.returncode == 0, done.stderr
    assert (tmp_path / FOLDERS[2] / "pseudo_labels.json").is_file()


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
    assert peak_thresholds(["--config-file", str(CONFIG), "--images", "3", *words]) == 0
    assert "PEAK_THRESHOLD" in capsys.readouterr().out
    other = CONFIG.with_name("irnet_shapes.yaml")
    assert peak_thresholds(["--config-file", str(other)]) == 2
    assert "irnet_shapes.yaml has no stage that trains" in capsys.readouterr().err


def test_report_and_demo(run, shapes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    words = [*tiny_overrides(CONFIG, EXTRA), "OUTPUT_DIR", str(run)]
    path = tmp_path / "mine.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    arguments = ["--input", str(path), "--config-file", str(CONFIG), "--output", str(tmp_path)]
    arguments += ["--stage", "filled_instances"]
    assert demo([*arguments, *words]) == 0, capsys.readouterr().err
    figure = tmp_path / "mine.filled_instances.png"
    with Image.open(figure) as opened:
        assert opened.width > opened.height
    drawn = figure.read_bytes()
    weights = ("--weights", str(run / FOLDERS[0] / "model_final.pth"))
    elsewhere = [*words[:-1], str(tmp_path / "untrained")]
    assert demo([*arguments, *weights, *elsewhere]) == 0, capsys.readouterr().err
    assert figure.read_bytes() == drawn
    assert demo([*arguments, *elsewhere]) == 1
    assert "no trained weights" in capsys.readouterr().err
    target = tmp_path / "report.html"
    assert report([str(run), "--output", str(target), "--images", "1", "--statistics", "1"]) == 0
    page = target.read_text()
    assert "instance activation map" in page
    assert "iterations 4" in page  # of filling; those of the CRF are called so
