import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wsis.data.salient import load_salient

PATH = Path(__file__).parents[2] / "datasets" / "prepare_salient.py"


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("prepare_salient", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def tree(root, images="images", masks="masks"):
    """Nine single objects and one picture of two."""
    for folder in (images, masks):
        (root / folder).mkdir(parents=True)
    for number in range(10):
        mask = np.zeros((30, 40), dtype=np.uint8)
        mask[5:15, 5:15] = 255
        if number == 4:
            mask[18:28, 20:30] = 255
        Image.fromarray(mask).save(root / masks / f"p{number}.png")
        Image.fromarray(mask).save(root / images / f"p{number}.jpg")


def test_single_objects_and_a_split(script, tmp_path, capsys):
    tree(tmp_path)
    words = ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks")]
    path = tmp_path / "single.txt"
    assert script.main([*words, "--list", str(path), "--val-share", "0.4"]) == 0
    names = path.read_text().split()
    assert names == [f"p{n}" for n in range(10) if n != 4]
    parts = [(tmp_path / f"single_{p}.txt").read_text().split() for p in ("train", "val")]
    assert sorted(parts[0] + parts[1]) == names
    assert all(parts)
    assert "9 of 10" in capsys.readouterr().out


def test_duts(script, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    tree(tmp_path / "DUTS" / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask")
    assert script.main(["--duts"]) == 0
    assert len((tmp_path / "DUTS" / "duts_tr_single.txt").read_text().split()) == 9


def test_from_coco(script, shapes_root, tmp_path):
    root = shapes_root / "shapes"
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["train_00000.jpg", "train_00001.jpg"]))
    words = ["--coco", str(root / "instances_train.json"), "--output", str(tmp_path / "out")]
    words += ["--coco-images", str(root / "JPEGImages"), "--names", str(names)]
    assert script.main(words) == 0
    records = load_salient(tmp_path / "out" / "images", tmp_path / "out" / "masks")
    assert 1 <= len(records) <= 2


def test_mistakes(script, tmp_path, capsys):
    words = ["--images", str(tmp_path / "no"), "--masks", str(tmp_path), "--list", "x.txt"]
    assert script.main(words) == 1
    assert "does not exist" in capsys.readouterr().err
    for wrong in ([*words, "--val-share", "2"], []):
        with pytest.raises(SystemExit, match="2"):
            script.main(wrong)
