"""The evaluator as Detectron2 uses it: batches, processes, result files, errors."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from wsis.errors import DataError, UsageError
from wsis.evaluation.coco import xywh_of_masks
from wsis.evaluation.pseudo_labels import QualityMeasure
from wsis.evaluation.truth import load_box_truth, load_truth
from wsis.evaluation.voc_instance import VOCInstanceEvaluator
from wsis.layers.run_lengths import encode_mask

from tests.evaluation.cases import random_pair
from tests.evaluation.sharding import run_sharded

NAMES = ("cat", "dog", "bird", "cow")
SIZE = (40, 48)


@pytest.fixture
def pairs():
    return [random_pair(i) for i in range(15)]


def dataset(pairs):
    return [
        {"image_key": p.key, "image_id": i + 7, "height": SIZE[0], "width": SIZE[1]}
        for i, p in enumerate(pairs)
    ]


def evaluator_of(pairs, **arguments):
    truths = {pair.key: pair.truth for pair in pairs}
    return VOCInstanceEvaluator(
        dataset(pairs),
        NAMES,
        load_ground_truth=lambda record: truths[record["image_key"]],
        **arguments,
    )


def to_instances(prediction):
    instances = Instances(SIZE)
    instances.pred_masks = torch.from_numpy(prediction.masks)
    instances.scores = torch.from_numpy(prediction.scores)
    instances.pred_classes = torch.from_numpy(prediction.classes)
    return instances


def same(a, b):
    assert list(a) == list(b)
    for protocol in a:
        assert list(a[protocol]) == list(b[protocol])
        np.testing.assert_array_equal(list(a[protocol].values()), list(b[protocol].values()))


def test_process_equals_adding_arrays(pairs):
    one, two = evaluator_of(pairs), evaluator_of(pairs)
    for evaluator in (one, two):
        evaluator.reset()
    one.process(
        [{"image_key": pair.key} for pair in pairs],
        [{"instances": to_instances(pair.prediction)} for pair in pairs],
    )
    for pair in pairs:
        two.add(pair.key, pair.prediction)
    results = one.evaluate()
    same(results, two.evaluate())
    assert list(results) == ["voc", "coco"]
    assert 0 < results["voc"]["AP50"] < 100
    one.reset()
    assert np.isnan(one.evaluate()["voc"]["AP50"])


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_gives_the_same_figures_and_file(
    pairs, tmp_path, monkeypatch, world_size
):
    extra = {"extra_measures": [QualityMeasure(NAMES)]}
    single = evaluator_of(pairs, output_dir=tmp_path / "one", **extra)
    for pair in reversed(pairs):
        single.add(pair.key, pair.prediction)
    expected = single.evaluate()

    def process(rank):
        evaluator = evaluator_of(pairs, output_dir=tmp_path / "many", **extra)
        evaluator.reset()
        share = pairs[rank::world_size] + pairs[:1]  # a sampler may repeat an image
        for pair in share:
            evaluator.add(pair.key, pair.prediction)
        return evaluator.evaluate()

    results = run_sharded(monkeypatch, world_size, process)
    same(results[0], expected)
    assert results[1:] == [{}] * (world_size - 1)
    name = "coco_instances_results.json"
    assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert [path.name for path in (tmp_path / "many").iterdir()] == [name]


def test_result_file_uses_image_and_category_ids(pairs, tmp_path):
    evaluator = evaluator_of(pairs, output_dir=tmp_path, category_ids=(17, 18, 16, 21))
    for pair in pairs:
        evaluator.add(pair.key, pair.prediction)
    evaluator.evaluate()
    entries = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(entries) == sum(len(pair.prediction.classes) for pair in pairs)
    first = next(i for i, pair in enumerate(pairs) if len(pair.prediction.classes))
    assert entries[0]["image_id"] == first + 7
    wanted = (17, 18, 16, 21)[pairs[first].prediction.classes[0]]
    assert entries[0]["category_id"] == wanted
    assert set(entries[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert isinstance(entries[0]["segmentation"]["counts"], str)


def test_no_predictions_at_all_is_an_empty_list(pairs, tmp_path):
    evaluator = evaluator_of(pairs, output_dir=tmp_path)
    evaluator.add(pairs[0].key, pairs[0].prediction.above(2.0))
    evaluator.evaluate()
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_boxes_alone_serve_the_box_protocol(pairs):
    evaluator = evaluator_of(pairs, protocols=("coco_bbox",))
    masks_only = evaluator_of(pairs)
    for pair in pairs:
        instances = to_instances(pair.prediction)
        instances.remove("pred_masks")
        instances.pred_boxes = Boxes(torch.rand(len(instances), 4).cumsum(1) * 10)
        evaluator.process([{"image_key": pair.key}], [{"instances": instances}])
    assert list(evaluator.evaluate()) == ["coco_bbox"]
    with pytest.raises(DataError, match="MASK_ON"):
        masks_only.process([{"image_key": pair.key}], [{"instances": instances}])


def test_images_without_ground_truth_are_left_out(pairs, caplog):
    evaluator = VOCInstanceEvaluator(dataset(pairs), NAMES, load_ground_truth=lambda record: None)
    evaluator.add(pairs[0].key, pairs[0].prediction)
    assert evaluator.without_truth == {pairs[0].key}
    assert np.isnan(evaluator.evaluate()["voc"]["AP50"])
    assert "1 images have no true masks" in caplog.text


def boxed_records(pairs, *, masks):
    """The pairs' truth as annotations with boxes, and with masks for the pairs that `masks` has."""
    records = dataset(pairs)
    for index, (record, pair) in enumerate(zip(records, pairs, strict=True)):
        record["annotations"] = []
        for mask, number in zip(pair.truth.masks, pair.truth.classes, strict=True):
            if mask.any():
                box = xywh_of_masks(mask[None])[0].tolist()
                area = int(mask.sum())
                one = {"category_id": int(number), "bbox": box, "bbox_mode": BoxMode.XYWH_ABS}
                if index in masks:
                    one["segmentation"] = encode_mask(mask)
                record["annotations"].append(one | {"area": area})
    return records


def figures_of(records, pairs, **arguments):
    evaluator = VOCInstanceEvaluator(
        records, NAMES, load_ground_truth=load_truth, protocols=("voc", "coco_bbox"), **arguments
    )
    for pair in pairs:
        evaluator.add(pair.key, pair.prediction)
    return evaluator.evaluate()


def test_boxes_alone_have_the_box_figures_that_masks_would_give(pairs, caplog):
    everywhere = range(len(pairs))
    full = figures_of(boxed_records(pairs, masks=everywhere), pairs)
    alone = figures_of(boxed_records(pairs, masks=()), pairs, load_boxes=load_box_truth)
    assert list(alone) == ["coco_bbox"]
    assert 0 < alone["coco_bbox"]["AP50"] < 100
    np.testing.assert_equal(alone["coco_bbox"], full["coco_bbox"])
    assert "count for boxes" in caplog.text
    mixed = boxed_records(pairs, masks=everywhere[:8])
    some = figures_of(mixed, pairs, load_boxes=load_box_truth)
    np.testing.assert_equal(some["coco_bbox"], full["coco_bbox"])
    np.testing.assert_equal(some["voc"], figures_of(mixed, pairs)["voc"])


def test_crowds_without_masks_are_crowds_of_boxes():
    box = {"category_id": 0, "bbox": [2, 3, 10, 5], "bbox_mode": BoxMode.XYWH_ABS}
    record = dict(zip(("height", "width"), SIZE, strict=True))
    truth = load_box_truth(record | {"annotations": [box, box | {"iscrowd": 1, "area": 7}]})
    assert truth.areas.tolist() == [50]
    assert truth.masks.sum() == 50
    assert truth.crowd_areas.tolist() == [7]
    assert load_box_truth(record | {"annotations": [box, {"category_id": 1}]}) is None
    assert load_box_truth(record | {"image_labels": [0]}) is None


def test_errors_name_the_image(pairs):
    evaluator = evaluator_of(pairs)
    pair = next(p for p in pairs if len(p.prediction.classes))
    with pytest.raises(DataError, match="nowhere"):
        evaluator.add("nowhere", pair.prediction)
    wrong = type(pair.prediction)(
        pair.prediction.classes, pair.prediction.scores, pair.prediction.masks[:, 1:]
    )
    with pytest.raises(DataError, match=rf"{pair.key}.*\(\d+, 40, 48\)"):
        evaluator.add(pair.key, wrong)
    wrong = type(pair.prediction)(
        pair.prediction.classes + 9, pair.prediction.scores, pair.prediction.masks
    )
    with pytest.raises(DataError, match="expected classes 0..3"):
        evaluator.add(pair.key, wrong)
    wrong = type(pair.prediction)(
        pair.prediction.classes, pair.prediction.scores * np.nan, pair.prediction.masks
    )
    with pytest.raises(DataError, match="not finite"):
        evaluator.add(pair.key, wrong)
    with pytest.raises(UsageError, match="voc, coco, coco_bbox"):
        evaluator_of(pairs, protocols=("pascal",))
