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


@pytest.fixture
def few(tmp_path):
    """Two photographs called alike, a mask on two of the four objects of the first, boxes else."""
    images, annotations = [], []
    for number, folder in enumerate("ab"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        pixels = np.full((100, 150, 3), 40 * number, np.uint8)
        pixels[30:70, 20:60] = pixels[20:90, 80:120] = 200
        Image.fromarray(pixels).save(tmp_path / "images" / folder / "x.png")
        name, size = f"{folder}/x.png", {"width": 150, "height": 100}
        images.append({"id": number, "file_name": name} | size)
        for x, y, w, h in ((0, 0, 9, 9), (20, 30, 40, 40), (80, 20, 40, 70), (80, 20, 20, 20)):
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            one = {"id": len(annotations), "image_id": number, "category_id": 1}
            one |= {"bbox": [x, y, w, h]}
            one |= {"segmentation": [corners]} if w == 40 and number == 0 else {}
            annotations.append(one)
    categories = [{"id": 1, "name": "block"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    return tmp_path


def crops(script, few, output="out"):
    words = ["--coco", str(few / "mine.json"), "--crops", "--output", str(few / output)]
    return script.main(words)


def test_crops_around_the_few_objects_with_masks(script, few, capsys):
    assert crops(script, few) == 0
    assert f"2 crops around the 2 objects with masks: {few / 'out'}\n" in capsys.readouterr().out
    first, second = load_salient(few / "out" / "images", few / "out" / "masks")
    assert (first["height"], first["width"]) == (80, 80)
    image, mask = (np.asarray(Image.open(first[k])) for k in ("file_name", "salient_file_name"))
    assert mask[20:60, 20:60].all()
    assert (mask > 0).sum() == 1600
    assert (image[mask > 0] == 200).all()
    assert (second["height"], second["width"]) == (100, 80)
    before = {path: path.read_bytes() for path in (few / "out").rglob("*.*")}
    Image.new("RGB", (9, 9)).save(few / "out" / "images" / "older.png")
    assert crops(script, few) == 0
    assert "beside 1 that were there before" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in before}


def test_a_broken_annotation_costs_no_other_crop(script, few, caplog):
    content = json.loads((few / "mine.json").read_text())
    content["annotations"][1]["segmentation"] = "broken"
    (few / "mine.json").write_text(json.dumps(content))
    assert crops(script, few) == 0
    (only,) = load_salient(few / "out" / "images", few / "out" / "masks")
    assert (only["height"], only["width"]) == (100, 80)
    assert "segmentation" in caplog.text


def test_crops_of_photographs_that_are_called_alike(script, few):
    content = json.loads((few / "mine.json").read_text())
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (few / "mine.json").write_text(json.dumps(content))
    assert crops(script, few) == 0
    assert len(load_salient(few / "out" / "images", few / "out" / "masks")) == 4


def test_boxes_alone_make_no_crops(script, few, capsys):
    content = json.loads((few / "mine.json").read_text())
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    (few / "mine.json").write_text(json.dumps(content))
    assert crops(script, few) == 1
    said = capsys.readouterr().err
    assert "0 crops around the 0 objects with masks; an object needs a mask in one piece" in said
    assert not (few / "out").exists()
    words = ["--coco", str(few / "mine.json"), "--output", str(few / "out")]
    assert script.main(words) == 1
    assert "--crops takes crops around the objects instead" in capsys.readouterr().err


def test_mistakes(script, tmp_path, capsys):
    words = ["--images", str(tmp_path / "no"), "--masks", str(tmp_path), "--list", "x.txt"]
    assert script.main(words) == 1
    assert "does not exist" in capsys.readouterr().err
    for wrong in ([*words, "--val-share", "2"], []):
        with pytest.raises(SystemExit, match="2"):
            script.main(wrong)
