"""Predictions belong to the data set that they were made on, whatever its numbers and its name."""

import json
import shutil

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from wsis.data.files import write_json
from wsis.errors import DataError
from wsis.report.run_folders import read_run_folder
from wsis.report.sources import prediction_source, read_images

from tests.scripts import main_of
from tests.tools.runs import CLASSES, SIZES, Run, masks_of

report = main_of("tools/report.py")
visualize = main_of("tools/visualize.py")

IDS = {"bird": 90, "cat": 13}  # as COCO's: not 1 and 2, and cat comes first


@pytest.fixture
def run(tmp_path):
    """A network that was evaluated on two data sets; "a_other" has one image and other numbers."""
    run = Run(tmp_path, f"z_{tmp_path.name}", truth=True)
    folder = run.mask_rcnn()
    content = json.loads(run.json.read_text())
    other = content | {
        "categories": [{"id": number, "name": name} for name, number in IDS.items()],
        "images": content["images"][1:2],
        "annotations": [a for a in content["annotations"] if a["image_id"] == 2],
    }
    del other["images"][0]["image_labels"]
    for annotation in other["annotations"]:
        annotation["category_id"] = IDS[CLASSES[annotation["category_id"] - 1]]
    (tmp_path / "other.json").write_text(json.dumps(other))
    results = [a | {"score": 0.9} for a in other["annotations"][:1]]  # the bird alone
    (folder / "predictions" / "a_other").mkdir()
    path = folder / "predictions" / "a_other" / "coco_instances_results.json"
    path.write_text(json.dumps(results))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (entry,) = config["WSIS"]["DATASETS"]
    config["WSIS"]["DATASETS"].append(
        entry | {"NAME": "a_other", "JSON": str(tmp_path / "other.json")}
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def found_in(run, name):
    folder = read_run_folder(run.output / "8_mask_rcnn")
    images = read_images((name,))
    source = prediction_source(folder, images)
    names = np.array(images.classes)
    return {r["image_key"]: (source.find(r), names) for r in images.records}


def test_classes_have_the_names_of_their_data_set(run):
    read_run_folder(run.output / "8_mask_rcnn")
    ((found, names),) = found_in(run, "a_other").values()
    assert names[found.classes].tolist() == ["bird"]
    assert np.array_equal(found.masks, masks_of(1)[:1])
    (found, names) = found_in(run, run.name)["im1"]
    assert names[found.classes].tolist() == ["bird", "cat"]
    assert np.array_equal(found.masks, masks_of(1))


def forget(*names):
    for name in names:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.pop(name)


def test_data_that_only_the_evaluation_describes(run):
    """As after --eval-only with another DATA.VAL: new data, and other data under the old name."""
    folder = run.output / "8_mask_rcnn"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    first, other = config["WSIS"]["DATASETS"]
    config["WSIS"]["DATASETS"] = [first]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["predictions", str(folder), "--output", str(run.root / "pictures")]
    forget(run.name, "a_other")
    assert visualize(words) == 2  # "a_other" is not known
    write_json(folder / "evaluation.json", {"results": [], "datasets": [other]})
    ((found, names),) = found_in(run, "a_other").values()
    assert names[found.classes].tolist() == ["bird"]
    assert visualize(words) == 0
    under_its_name = other | {"NAME": run.name}
    write_json(folder / "evaluation.json", {"results": [], "datasets": [other, under_its_name]})
    run.training(1, "classifier")  # its config still has the first data of this name
    path = folder / "predictions" / run.name / "coco_instances_results.json"
    shutil.copy(folder / "predictions" / "a_other" / path.name, path)
    assert report([str(run.output), "--images", "1"]) == 0
    ((found, names),) = found_in(run, run.name).values()
    assert names[found.classes].tolist() == ["bird"]


def test_an_unknown_category_is_told(run):
    path = run.output / "8_mask_rcnn" / "predictions" / "a_other" / "coco_instances_results.json"
    path.write_text(json.dumps([{"image_id": 2, "category_id": 1, "score": 1}]))
    read_run_folder(run.output / "8_mask_rcnn")
    with pytest.raises(DataError, match="not of a_other"):
        found_in(run, "a_other")


def test_the_report_shows_every_data_set(run):
    assert report([str(run.output), "--images", "1"]) == 0
    text = (run.output / "report.html").read_text()
    for name in ("a_other", run.name):
        assert f'id="predictions-8_mask_rcnn-{name}"' in text
        assert f"Predictions of mask rcnn on {name}" in text
    assert "1 of the 1 images of <code>a_other</code>" in text


def test_each_data_set_is_drawn_in_its_own_folder(run, tmp_path):
    words = ["predictions", str(run.output / "8_mask_rcnn"), "--number", "0"]
    assert visualize([*words, "--output", str(tmp_path / "pictures")]) == 0
    drawn = sorted(str(p.relative_to(tmp_path / "pictures")) for p in tmp_path.glob("pictures/*/*"))
    every = [f"{run.name}/im{index}.png" for index in range(len(SIZES))]
    assert drawn == ["a_other/im1.png", *every]
