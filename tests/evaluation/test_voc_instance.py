"""The evaluator as Detectron2 uses it: data sets by name, batches, processes, files, errors."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data import transforms as T  # noqa: N812
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.structures import Boxes, BoxMode, Instances
from wsis.errors import DataError, UsageError
from wsis.evaluation.predictions import (
    InstancePair,
    InstancePrediction,
    ProtocolOptions,
)
from wsis.evaluation.truth import load_box_truth, load_truth
from wsis.evaluation.voc_instance import VOCInstanceEvaluator, build_measures
from wsis.layers.run_lengths import encode_mask, encode_masks, rle_box, rle_boxes

from tests.evaluation import cases
from tests.evaluation.cases import NAMES, SIZE, random_pair
from tests.evaluation.sharding import run_sharded

SET = "pairs_of_the_evaluator_test"


@pytest.fixture
def pairs():
    return [random_pair(i) for i in range(15)]


def bare(pairs):
    return [
        {
            "file_name": f"{pair.key}.jpg",
            "image_key": pair.key,
            "image_id": i + 7,
            "height": SIZE[0],
            "width": SIZE[1],
        }
        for i, pair in enumerate(pairs)
    ]


def dataset(pairs):
    return [
        record
        | {
            "annotations": [
                {"segmentation": encode_mask(mask), "category_id": int(number), "difficult": hard}
                for mask, number, hard in zip(
                    pair.truth.masks, pair.truth.classes, pair.truth.difficult, strict=True
                )
            ],
            "image_labels": sorted(set(pair.truth.classes.tolist())),
        }
        for record, pair in zip(bare(pairs), pairs, strict=True)
    ]


@pytest.fixture
def registered():
    """Registers dataset dicts under `SET`; they are read when somebody asks."""

    def register(records, **metadata):
        DatasetCatalog.register(SET, records if callable(records) else lambda: records)
        MetadataCatalog.get(SET).set(**{"thing_classes": list(NAMES), **metadata})
        return SET

    yield register
    if SET in DatasetCatalog.list():
        DatasetCatalog.remove(SET)
    MetadataCatalog.pop(SET, None)


def outputs_of(prediction):
    instances = Instances(SIZE)
    instances.pred_masks = torch.from_numpy(prediction.masks)
    instances.scores = torch.from_numpy(prediction.scores)
    instances.pred_classes = torch.from_numpy(prediction.classes)
    return [{"instances": instances}]


def feed(evaluator, pairs):
    for pair in pairs:
        evaluator.process([{"image_key": pair.key}], outputs_of(pair.prediction))
    return evaluator


def same(a, b):
    assert list(a) == list(b)
    for protocol in a:
        assert list(a[protocol]) == list(b[protocol])
        np.testing.assert_array_equal(list(a[protocol].values()), list(b[protocol].values()))


@pytest.mark.parametrize("options", [ProtocolOptions(), ProtocolOptions(use_difficult=False)])
def test_figures_are_those_of_the_measures(pairs, registered, options):
    evaluator = VOCInstanceEvaluator(registered(dataset(pairs)), options=options)
    evaluator.reset()
    evaluator.process(
        [{"image_key": pair.key} for pair in pairs],
        [output for pair in pairs for output in outputs_of(pair.prediction)],
    )
    results = evaluator.evaluate()
    measures = build_measures(NAMES, ("voc", "coco"), options=options)
    same(results, cases.figures_of(measures, pairs))
    assert 0 < next(iter(results.values()))["AP50"] < 100
    evaluator.reset()
    assert np.isnan(next(iter(evaluator.evaluate().values()))["AP50"])


def test_the_data_set_is_read_when_the_first_image_comes(pairs, registered):
    asked = []

    def read():
        asked.append(1)
        return dataset(pairs)

    evaluator = VOCInstanceEvaluator(registered(read))
    assert not asked
    feed(evaluator, pairs)
    assert asked == [1]


class Found(torch.nn.Module):
    """A network that finds the true objects of the first class, whatever it sees."""

    def __init__(self, records):
        super().__init__()
        self.truths = {record["file_name"]: load_truth(record) for record in records}

    def forward(self, inputs):
        outputs = []
        for given in inputs:
            truth = self.truths[given["file_name"]]
            keep = truth.classes == 0
            found = Instances((given["height"], given["width"]))
            found.pred_masks = torch.from_numpy(truth.masks[keep])
            boxes = rle_boxes(encode_masks(truth.masks[keep])).astype(np.float32)
            boxes[:, 2:] += boxes[:, :2]
            found.pred_boxes = Boxes(torch.from_numpy(boxes))
            found.pred_classes = torch.from_numpy(truth.classes[keep])
            found.scores = torch.linspace(0.9, 0.8, int(keep.sum()))
            outputs.append({"instances": found})
        return outputs


def test_inference_on_dataset_as_with_any_evaluator_of_detectron2(
    shapes_root, registered, tmp_path, monkeypatch
):
    """Also on a data set and with a loader that know nothing of an ``image_key``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    records = [dict(record) for record in DatasetCatalog.get("shapes_val")]
    for record in records:
        record.pop("image_key", None)
    known = MetadataCatalog.get("shapes_val")
    classes, ids = known.thing_classes, known.thing_dataset_id_to_contiguous_id
    name = registered(
        records,
        thing_classes=classes,
        thing_dataset_id_to_contiguous_id=ids,
        json_file=str(shapes_root / "shapes" / "instances_val.json"),
    )
    mapper = DatasetMapper(is_train=False, augmentations=[T.Resize((32, 32))], image_format="BGR")
    loader = build_detection_test_loader(records, mapper=mapper)
    network = Found(records)
    ours = VOCInstanceEvaluator(name, ("voc", "coco", "coco_bbox"), output_dir=tmp_path)
    found = inference_on_dataset(network, loader, ours)
    for protocol in ("voc", "coco", "coco_bbox"):
        by_class = [found[protocol][f"AP50/{name}"] for name in classes]
        assert by_class[0] == pytest.approx(100)
        assert not np.nansum(by_class[1:])
    theirs = COCOEvaluator(name, ("bbox", "segm"), False, str(tmp_path / "d2"))
    expected = inference_on_dataset(network, loader, theirs)
    assert found["coco"]["AP"] == pytest.approx(expected["segm"]["AP"], abs=1e-9)
    assert found["coco_bbox"]["AP"] == pytest.approx(expected["bbox"]["AP"], abs=1e-9)


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_gives_the_same_figures_and_file(
    pairs, registered, tmp_path, monkeypatch, world_size
):
    name = registered(dataset(pairs))
    expected = feed(VOCInstanceEvaluator(name, output_dir=tmp_path / "one"), pairs[::-1]).evaluate()

    def process(rank):
        evaluator = VOCInstanceEvaluator(name, output_dir=tmp_path / "many")
        share = pairs[rank::world_size] + pairs[:1]  # a sampler may repeat an image
        return feed(evaluator, share).evaluate()

    results = run_sharded(monkeypatch, world_size, process)
    same(results[0], expected)
    assert results[1:] == [{}] * (world_size - 1)
    name = "coco_instances_results.json"
    assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert [path.name for path in (tmp_path / "many").iterdir()] == [name]


def test_not_distributed_each_process_has_the_figures_of_its_images(
    pairs, registered, tmp_path, monkeypatch
):
    name = registered(dataset(pairs))

    def process(rank):
        evaluator = VOCInstanceEvaluator(name, ("voc",), False, tmp_path / str(rank))
        return feed(evaluator, pairs[rank::2]).evaluate()

    shares = run_sharded(monkeypatch, 2, process)
    for rank, found in enumerate(shares):
        same(found, feed(VOCInstanceEvaluator(name, ("voc",)), pairs[rank::2]).evaluate())
        entries = json.loads((tmp_path / str(rank) / "coco_instances_results.json").read_text())
        assert len(entries) == sum(len(pair.prediction.classes) for pair in pairs[rank::2])


@pytest.mark.parametrize("ids", [(17, 18, 16, 21), None])
def test_result_file_uses_image_and_category_ids(pairs, registered, tmp_path, ids):
    known = {category: number for number, category in enumerate(ids or ())}
    name = registered(dataset(pairs), thing_dataset_id_to_contiguous_id=known)
    feed(VOCInstanceEvaluator(name, output_dir=tmp_path), pairs).evaluate()
    entries = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(entries) == sum(len(pair.prediction.classes) for pair in pairs)
    first = next(i for i, pair in enumerate(pairs) if len(pair.prediction.classes))
    assert entries[0]["image_id"] == first + 7
    assert entries[0]["category_id"] == (ids or (1, 2, 3, 4))[pairs[first].prediction.classes[0]]
    assert set(entries[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert isinstance(entries[0]["segmentation"]["counts"], str)


def test_no_predictions_at_all_is_an_empty_list(pairs, registered, tmp_path):
    evaluator = VOCInstanceEvaluator(registered(dataset(pairs)), output_dir=tmp_path)
    nothing = pairs[0].prediction.take(np.zeros(0, int))
    evaluator.process([{"image_key": pairs[0].key}], outputs_of(nothing))
    evaluator.evaluate()
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_boxes_alone_serve_the_box_protocol(pairs, registered):
    name = registered(dataset(pairs))
    evaluator, masks_only = VOCInstanceEvaluator(name, ("coco_bbox",)), VOCInstanceEvaluator(name)
    for pair in pairs:
        (output,) = outputs_of(pair.prediction)
        output["instances"].remove("pred_masks")
        boxes = torch.rand(len(pair.prediction.classes), 4).cumsum(1) * 10
        output["instances"].pred_boxes = Boxes(boxes)
        evaluator.process([{"image_key": pair.key}], [output])
    assert list(evaluator.evaluate()) == ["coco_bbox"]
    with pytest.raises(DataError, match="MASK_ON"):
        masks_only.process([{"image_key": pair.key}], [output])


def test_images_without_ground_truth_are_left_out(pairs, registered, caplog):
    records = [record | {"image_labels": [0]} for record in bare(pairs)]
    evaluator = feed(VOCInstanceEvaluator(registered(records)), pairs[:1])
    assert evaluator.without_truth == {pairs[0].key}
    assert np.isnan(evaluator.evaluate()["voc"]["AP50"])
    assert "1 images have no true masks" in caplog.text


def boxed_records(pairs, *, masks):
    """The pairs' truth as annotations with boxes, and with masks for the pairs that `masks` has."""
    records = bare(pairs)
    for index, (record, pair) in enumerate(zip(records, pairs, strict=True)):
        record["annotations"] = []
        for mask, number in zip(pair.truth.masks, pair.truth.classes, strict=True):
            if mask.any():
                box = rle_box(encode_mask(mask))
                area = int(mask.sum())
                one = {"category_id": int(number), "bbox": box, "bbox_mode": BoxMode.XYWH_ABS}
                if index in masks:
                    one["segmentation"] = encode_mask(mask)
                record["annotations"].append(one | {"area": area})
    return records


def figures_of(records, pairs):
    evaluator = VOCInstanceEvaluator(SET, ("voc", "coco_bbox"))
    for record, pair in zip(records, pairs, strict=True):
        evaluator.add(record, pair.prediction)
    return evaluator.evaluate()


def test_boxes_alone_have_the_box_figures_that_masks_would_give(pairs, registered, caplog):
    registered([])
    everywhere = range(len(pairs))
    full = figures_of(boxed_records(pairs, masks=everywhere), pairs)
    with caplog.at_level(logging.INFO):
        alone = figures_of(boxed_records(pairs, masks=()), pairs)
    assert [record.levelname for record in caplog.records] == ["INFO"]  # nothing is amiss
    assert list(alone) == ["coco_bbox"]
    assert 0 < alone["coco_bbox"]["AP50"] < 100
    np.testing.assert_equal(alone["coco_bbox"], full["coco_bbox"])
    assert "count for boxes" in caplog.text
    mixed = boxed_records(pairs, masks=everywhere[:8])
    some = figures_of(mixed, pairs)
    np.testing.assert_equal(some["coco_bbox"], full["coco_bbox"])
    known = [
        InstancePair(pair.key, pair.prediction, truth)
        for truth, pair in zip(map(load_truth, mixed), pairs, strict=True)
        if truth is not None
    ]
    expected = cases.figures_of(build_measures(NAMES, ("voc",)), known)
    np.testing.assert_equal(some["voc"], expected["voc"])


def test_crowds_without_masks_are_crowds_of_boxes():
    box = {"category_id": 0, "bbox": [2, 3, 10, 5], "bbox_mode": BoxMode.XYWH_ABS}
    record = dict(zip(("height", "width"), SIZE, strict=True))
    truth = load_box_truth(record | {"annotations": [box, box | {"iscrowd": 1, "area": 7}]})
    assert truth.areas.tolist() == [50]
    assert truth.masks.sum() == 50
    assert truth.crowds.areas.tolist() == [7]
    assert load_box_truth(record | {"annotations": [box, {"category_id": 1}]}) is None
    assert load_box_truth(record | {"image_labels": [0]}) is None


def test_errors_name_the_image(pairs, registered):
    evaluator = VOCInstanceEvaluator(registered(dataset(pairs)))
    pair = next(p for p in pairs if len(p.prediction.classes))
    right = pair.prediction

    def process(prediction, **given):
        evaluator.process([given or {"image_key": pair.key}], outputs_of(prediction))

    for given in ({"image_key": "nowhere"}, {"file_name": "nowhere.jpg"}):
        with pytest.raises(DataError, match=f"nowhere.*not in {SET}"):
            process(right, **given)
    with pytest.raises(DataError, match=rf"{pair.key}.*\(\d+, 40, 48\)"):
        process(InstancePrediction(right.classes, right.scores, right.masks[:, 1:]))
    with pytest.raises(DataError, match="expected classes 0..3"):
        process(InstancePrediction(right.classes + 9, right.scores, right.masks))
    with pytest.raises(DataError, match="not finite"):
        process(InstancePrediction(right.classes, right.scores * np.nan, right.masks))
    with pytest.raises(UsageError, match="voc, coco, coco_bbox"):
        VOCInstanceEvaluator(SET, ("pascal",))
    with pytest.raises(UsageError, match=r"no data set \(nor a path\) 'elsewhere'"):
        VOCInstanceEvaluator("elsewhere")
