"""tools/report.py with several runs: figures and pictures side by side."""

import json
import re
import shutil

import pytest
from wsis.data.files import write_json

from tests.scripts import main_of
from tests.tools.runs import SIZES, Run
from tests.tools.test_report import Outline, forget

main = main_of("tools/report.py")


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs, whose configs may call their data the same."""
    monkeypatch.chdir(tmp_path)
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run = Run(tmp_path / name, "compared", truth=True)
        run.output = tmp_path / f"{name}_run"
        runs.append(run)
    yield runs
    forget("compared")


def same_images(runs):
    """The second run's file lists the first one's last two images only."""
    first, second = runs
    shutil.rmtree(second.root / "images")
    (second.root / "images").symlink_to(first.root / "images")
    content = json.loads(first.json.read_text())
    kept = {image["id"] for image in content["images"][2:]}
    images = [image for image in content["images"] if image["id"] in kept]
    objects = [a for a in content["annotations"] if a["image_id"] in kept]
    objects.append(objects[0] | {"id": 99, "bbox": "broken"})  # costs the annotation only
    write_json(second.json, content | {"images": images, "annotations": objects})


def compare(runs, *words):
    assert main([*(str(run.output) for run in runs), "--images", "4", *words]) == 0


def test_common_images_and_figures_by_protocol(two, capsys):
    for run in two:
        run.pseudo_labels()
        run.training(8, "mask_rcnn")
        run.metrics()
    same_images(two)
    path = two[1].output / "metrics.json"
    path.write_text(path.read_text().replace("61.5", "70.25").replace('"voc"', '"voc, 11-point"'))
    compare(two, "--output", "both.html")
    printed = capsys.readouterr().out
    text = (two[0].output.parent / "both.html").read_text()
    outline = Outline(text)
    assert outline.sections == ["compared", "pseudo-labels"]
    assert "2 of the 2 images that all of these runs have" in text
    for caption in ("photograph", "one_run", "two_run", "ground truth"):
        assert outline.captions.count(caption) == 2
    rows = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    # other protocols, other rows; other images, other data sets, even if the names are the same
    assert ["pseudo masks", "compared", "voc", "AP50", "50.00"] in rows
    assert ["mask rcnn", "compared", "voc", "AP50", "61.50"] in rows
    assert ["mask rcnn", "compared of two_run", "voc, 11-point", "AP50", "70.25"] in rows
    assert printed.splitlines()[-1].endswith("both.html")


def test_without_a_common_image_a_sentence_says_so(two):
    for run in two:
        run.pseudo_labels()
    compare(two)
    text = (two[0].output.parent / "runs.html").read_text()
    assert Outline(text).sections == ["compared"]
    assert "No pseudo labels side by side: no image is common to all" in text
    assert "Nothing has been evaluated." in text


def test_one_run_twice_has_equal_pictures(two):
    run = two[0]
    run.instances()
    shutil.copytree(run.output, run.output.parent / "copy")
    assert main([str(run.output), str(run.output.parent / "copy"), "--images", "1"]) == 0
    text = (run.output.parent / "runs.html").read_text()
    pictures = dict(re.findall(r'alt="(one_run|copy)" src="([^"]+)"', text))
    assert len(pictures) == 2
    assert len(set(pictures.values())) == 1


def test_no_second_run_is_an_error(two, capsys):
    two[0].training(1, "classifier")
    assert main([str(two[0].output), "nowhere"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    assert not (two[0].output.parent / "runs.html").exists()


def test_boxes_without_masks_are_drawn_and_classes_counted(two):
    """No row of figures that nobody can compute; predictions of a detector of boxes are shown."""
    run = two[0]
    content = json.loads(run.json.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
        annotation["bbox"] = [1, 2, 8, 6]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < 3]
    write_json(run.json, content)
    folder = run.training(1, "mask_rcnn")
    found = [
        {"image_id": i, "category_id": 2, "score": s, "bbox": [1, 2, 8, 6]}
        for i, s in ((1, 0.9), (2, 0.8), (2, 0.2))
    ]
    write_json(folder / "predictions" / run.name / "coco_instances_results.json", found)
    undefined = {"stage": "mask_rcnn", "dataset": run.name, "metrics": {"AP50": None, "AP": None}}
    boxes = {"protocol": "classification", "metrics": {"mAP": 50.0}}
    figures = [undefined | one for one in ({"protocol": "voc"}, {"protocol": "coco"}, boxes)]
    figures[2]["stage"] = "classifier"
    write_json(run.output / "metrics.json", {"stages": figures})
    assert main([str(run.output)]) == 0
    text = (run.output / "report.html").read_text()
    outline = Outline(text)
    assert outline.captions.count("prediction") == len(SIZES)
    assert outline.captions.count("annotations") == 4  # of two images, in two sections
    assert re.search(r"<td>bird</td><td class=\"n\">0</td>", text)
    assert re.search(r"<td>cat</td><td class=\"n\">2</td>", text)
    assert "–" not in text
    assert f"No masks to measure against: mask_rcnn on {run.name}." in text
