"""Evaluating products and networks: protocol options, images that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from wsis.data.artifacts import write_artifact
from wsis.engine import evaluate
from wsis.engine.folder import open_folders
from wsis.engine.manifest import DONE, Manifest
from wsis.engine.pipeline import load_pipeline
from wsis.errors import DataError
from wsis.evaluation.truth import load_truth
from wsis.layers.run_lengths import encode_mask
from wsis.report.figures import best_baseline, instance_entries

from tests.engine.test_folder import OwnImages
from tests.tiny import PIPELINE

SIZE = (12, 16)
KEYS = ("a", "b", "c")


def record(index):
    """A picture with an object of class 0 and a difficult one of class 1."""
    masks = np.zeros((2, *SIZE), dtype=bool)
    masks[0, 1:5, 1 : 5 + index], masks[1, 6:11, 6:12] = True, True
    return {
        "file_name": f"{KEYS[index]}.jpg",
        "image_key": KEYS[index],
        "image_id": index + 1,
        "height": SIZE[0],
        "width": SIZE[1],
        "image_labels": [0, 1],
        "annotations": [
            {"id": i, "category_id": i, "difficult": i, "segmentation": encode_mask(mask)}
            for i, mask in enumerate(masks)
        ],
    }


def plan(folder, name, *overrides):
    always = ("OUTPUT_DIR", str(folder), "DATALOADER.NUM_WORKERS", "0")
    pipeline = load_pipeline(PIPELINE, [*always, *overrides])
    return pipeline, open_folders(pipeline)[name]


def figures(pipeline, folder, images):
    """Entries of metrics.json by protocol."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.images = images
    assert evaluate.evaluate(folder)
    assert not evaluate.evaluate(folder)  # nothing has changed
    evaluate.collect_figures(pipeline, [folder.name])
    stored = json.loads((pipeline.output_dir / "metrics.json").read_text())["stages"]
    return {entry["protocol"]: entry for entry in stored}


@pytest.fixture
def broken(monkeypatch):
    """A perfect network; the image of the last key cannot be read."""

    def mapper(cfg, name, **arguments):
        def read(dataset_dict):
            if dataset_dict["image_key"] == KEYS[-1]:
                raise DataError("c.jpg cannot be read: truncated")
            return dataset_dict

        return read

    def network(inputs):
        truth = load_truth(inputs[0])
        found = Instances(SIZE)
        found.pred_masks = torch.from_numpy(truth.masks)
        found.pred_classes = torch.from_numpy(truth.classes)
        found.scores = torch.ones(len(truth.classes))
        logits = torch.full((4,), -1.0)
        logits[truth.classes] = 1.0
        return [{"instances": found, "logits": logits}]

    monkeypatch.setattr(evaluate, "build_mapper", mapper)
    monkeypatch.setattr(evaluate, "build_inference_model", lambda cfg, weights: network)


def test_objects_of_an_unreadable_image_are_missed(tmp_path, broken):
    pipeline, folder = plan(tmp_path, "mask_rcnn", "WSIS.ON_ERROR", "skip")
    found = figures(pipeline, folder, OwnImages([record(index) for index in range(3)]))
    assert list(found) == ["voc", "coco", "coco_bbox"]
    for protocol, entry in found.items():
        expected = 200 / 3 if protocol == "voc" else 100 * 67 / 101  # COCO's 101 recall levels
        assert entry["metrics"]["AP50"] == pytest.approx(expected), protocol
        assert entry["metrics"]["images_skipped"] == 1
        assert entry["skipped"] == {"c": "c.jpg cannot be read: truncated"}
    assert found["voc"]["metrics"]["ABO"] == pytest.approx(200 / 3)


def test_labels_of_an_unreadable_image_are_missed(tmp_path, broken):
    pipeline, folder = plan(tmp_path, "classifier", "WSIS.ON_ERROR", "skip")
    (entry,) = figures(pipeline, folder, OwnImages([record(index) for index in range(3)])).values()
    assert entry["metrics"]["mAP"] == pytest.approx(200 / 3)
    assert entry["skipped"] == {"c": "c.jpg cannot be read: truncated"}


def test_an_unreadable_image_stops_the_evaluation_unless_it_is_skipped(
    tmp_path, monkeypatch, broken
):
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        Path(f"{key}.jpg").touch()
    pipeline, folder = plan(tmp_path, "mask_rcnn")
    with pytest.raises(DataError, match=r"c\.jpg cannot be read"):
        figures(pipeline, folder, OwnImages([record(index) for index in range(3)]))


def test_nothing_is_listed_where_everything_was_read(tmp_path, broken):
    images = OwnImages([record(index) for index in range(3)])
    images.records = images.records[:2]
    pipeline, folder = plan(tmp_path, "mask_rcnn", "WSIS.ON_ERROR", "skip")
    for entry in figures(pipeline, folder, images).values():
        assert "skipped" not in entry
        assert entry["metrics"]["images_skipped"] == 0
        assert entry["metrics"]["AP50"] == pytest.approx(100)


def test_figures_stay_as_long_as_their_product(tmp_path, broken):
    images, skip = OwnImages([record(index) for index in range(3)]), ("WSIS.ON_ERROR", "skip")
    pipeline, folder = plan(tmp_path, "mask_rcnn", *skip)
    first = figures(pipeline, folder, images)
    pipeline, folder = plan(tmp_path, "mask_rcnn", *skip, "WSIS.EVALUATION.ELEVEN_POINT", "True")
    found = figures(pipeline, folder, images)
    assert list(found) == ["voc, 11-point", "coco", "coco_bbox", "voc"]
    assert found["voc"] == first["voc"]
    pipeline, folder = plan(tmp_path, "mask_rcnn", *skip, "DATA.VAL", "shapes_train")
    figures(pipeline, folder, images)
    assert metrics_of(tmp_path) == {
        ("mask_rcnn", name, protocol)
        for name, protocols in (("shapes_train", first), ("shapes_val", found))
        for protocol in protocols
    }
    Manifest("mask_rcnn", "train", DONE, {}, {}, product="another").write(folder.path)
    pipeline, folder = plan(tmp_path, "mask_rcnn", *skip)
    assert list(figures(pipeline, folder, images)) == list(first)
    assert {name for _, name, _ in metrics_of(tmp_path)} == {"shapes_val"}


def metrics_of(output):
    """What ``metrics.json`` has figures of: stage, data set, protocol, perhaps a checkpoint."""
    stored = json.loads((output / "metrics.json").read_text())["stages"]
    found = [(e["stage"], e["dataset"], e["protocol"], *e.get("weights", ())) for e in stored]
    assert len(set(found)) == len(found)
    return set(found)


def test_a_command_that_evaluates_less_takes_nothing_away(tmp_path, broken):
    images, skip = OwnImages([record(index) for index in range(3)]), ("WSIS.ON_ERROR", "skip")
    pipeline, folder = plan(tmp_path, "mask_rcnn", *skip)
    figures(pipeline, folder, images)
    path = tmp_path / "metrics.json"
    content = json.loads(path.read_text())
    other = content["stages"][0] | {"weights": {"file": "other.pth", "digest": "ab"}}
    gone = content["stages"][0] | {"stage": "of_another_pipeline"}
    path.write_text(json.dumps(content | {"stages": [gone, other, *content["stages"]]}))
    before = metrics_of(tmp_path)
    assert len(before) == 5
    evaluate.collect_figures(pipeline, [])  # nothing is done, or all is stale
    assert metrics_of(tmp_path) == before
    _, classifier = plan(tmp_path, "classifier", *skip)
    figures(pipeline, classifier, images)
    evaluate.collect_figures(pipeline, ["classifier"])
    assert metrics_of(tmp_path) == before | {("classifier", "shapes_val", "classification")}
    stages = [e["stage"] for e in json.loads(path.read_text())["stages"]]
    assert stages == ["classifier", *["mask_rcnn"] * 4, "of_another_pipeline"]


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"stages": [1]}', '{"stages": [{}]}', '{"results": [], "datasets": 5}']
)
def test_damaged_figures_are_written_anew(tmp_path, broken, damage):
    pipeline, folder = plan(tmp_path, "mask_rcnn", "WSIS.ON_ERROR", "skip")
    folder.path.mkdir(parents=True)
    (folder.path / "evaluation.json").write_text(damage)
    (tmp_path / "metrics.json").write_text(damage)
    found = figures(pipeline, folder, OwnImages([record(index) for index in range(3)]))
    assert list(found) == ["voc", "coco", "coco_bbox"]


OPTIONS = {
    (): ("voc", "coco"),
    ("ELEVEN_POINT", "True"): ("voc, 11-point", "coco"),
    ("USE_DIFFICULT", "False"): ("voc, without difficult", "coco, without difficult"),
    ("IGNORE_VOID", "True"): ("voc, void ignored", "coco, void ignored"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_reach_networks_and_show_in_the_names(tmp_path, broken, option):
    changed = (f"WSIS.EVALUATION.{option[0]}", option[1]) if option else ()
    pipeline, folder = plan(tmp_path, "mask_rcnn", "WSIS.ON_ERROR", "skip", *changed)
    found = figures(pipeline, folder, OwnImages([record(index) for index in range(3)]))
    assert tuple(found)[:2] == OPTIONS[option]
    classes = [m for m in next(iter(found.values()))["metrics"].items() if m[0].startswith("AP50/")]
    voc = [value for _, value in classes[:2]]
    if option[:1] == ("ELEVEN_POINT",):
        assert voc == pytest.approx([700 / 11] * 2)
    elif option[:1] == ("USE_DIFFICULT",):
        assert voc == [pytest.approx(200 / 3), None]  # nobody asks for the difficult ones
    else:
        assert voc == pytest.approx([200 / 3] * 2)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_reach_products_and_their_baselines(tmp_path, option):
    changed = (f"WSIS.EVALUATION.{option[0]}", option[1]) if option else ()
    images, names = OwnImages([record(index) for index in range(3)]), OPTIONS[option]
    for stage in ("instances", "cam"):
        pipeline, folder = plan(tmp_path / stage, stage, *changed)
        reader = folder.reader
        for sample in images.records:
            truth = load_truth(sample)
            arrays = {
                "classes": truth.classes,
                "scores": np.ones(2, np.float32),
                "masks": truth.masks,
                "keys": truth.classes,
                "high_res": truth.masks.astype(np.float16),
            }
            write_artifact(reader.path(sample["image_key"]), arrays)
        found = figures(pipeline, folder, images)
        if stage == "instances":
            assert tuple(found)[:2] == names
            continue
        baselines = [f"{name}, baseline CAM > 0.15" for name in names]
        assert set(baselines) <= set(found)
        # the report tells the baseline from the instances whatever the options
        assert instance_entries(list(found.values())) == []
        assert best_baseline(list(found.values()))["protocol"].startswith(f"{names[0]}, baseline")


@pytest.mark.parametrize("size", [(1, 1333), (1333, 3), (40, 60)])
def test_thin_images_keep_their_sides_in_test_time_augmentation(size):
    from detectron2.modeling import DatasetMapperTTA

    options = {"min_sizes": [40, 80], "max_size": 600, "flip": True}
    sample = {"image": torch.full((3, *size), 7, dtype=torch.uint8), "height": 5, "width": 9}
    found = evaluate.ThinImageTTA(**options)(sample)
    assert len(found) == 4
    assert all(min(one["image"].shape) >= 1 and (one["image"] == 7).all() for one in found)
    if min(size) > 3:
        stock = DatasetMapperTTA(**options)(sample)
        assert [a["image"].shape for a in found] == [a["image"].shape for a in stock]
