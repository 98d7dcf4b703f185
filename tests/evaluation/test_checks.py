"""Product checks on real artifacts, alone and in shares."""

import numpy as np
import pytest
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.errors import DataError
from wsis.evaluation.checks import (
    cam_components,
    cam_label_map,
    check_cam,
    check_instances,
)
from wsis.evaluation.coco import CocoMeasure
from wsis.evaluation.predictions import InstancePair
from wsis.evaluation.truth import load_truth
from wsis.evaluation.voc import VocMeasure
from wsis.methods.irnet.label_check import check_semantic

from tests.evaluation.cases import (
    NAMES,
    as_dict,
    figures_of,
    product_figures,
    random_pair,
    write_product,
)
from tests.evaluation.sharding import run_sharded

CHECKS = (check_instances, check_cam, check_semantic)


@pytest.fixture
def pairs():
    return [random_pair(i, void=True) for i in range(10)]


@pytest.fixture
def dataset(pairs, tmp_path):
    return [as_dict(index, pair, tmp_path) for index, pair in enumerate(pairs)]


@pytest.fixture
def product(pairs, dataset, tmp_path):
    return write_product(tmp_path / "stage", pairs, dataset)


def run(check, dataset, product, **options):
    cfg = get_wsis_cfg()
    for name, value in options.items():
        cfg.WSIS.EVALUATION[name] = value
    return product_figures(check, dataset, product, cfg)


def figures(*arguments, **options):
    return {entry["protocol"]: entry["metrics"] for entry in run(*arguments, **options)}


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name] == pytest.approx(b[name], abs=0, nan_ok=True)


def test_truth_keeps_crowds_apart(dataset, pairs):
    for index, (record, pair) in enumerate(zip(dataset, pairs, strict=True)):
        truth = load_truth(record)
        np.testing.assert_array_equal(truth.masks, pair.truth.masks)
        np.testing.assert_array_equal(truth.crowds.masks, pair.truth.void[None])
        assert truth.crowds.classes.tolist() == [index % 4]
    tags_only = {key: value for key, value in dataset[0].items() if key != "annotations"}
    assert load_truth(tags_only | {"image_labels": [1]}) is None


def test_instances_are_measured_against_the_truth_of_the_data_set(dataset, pairs, product):
    stated = [
        InstancePair(pair.key, pair.prediction, load_truth(record))
        for record, pair in zip(dataset, pairs, strict=True)
    ]
    expected = figures_of([VocMeasure(NAMES), CocoMeasure(NAMES)], stated)
    found = figures(check_instances, dataset, product)
    assert list(found) == ["voc", "coco", "quality, score > 0"]
    for protocol, metrics in expected.items():
        same({name: found[protocol][name] for name in metrics}, metrics)
    assert found["voc"]["images"] == len(pairs)
    assert 0 < found["voc"]["AP50"] < 100


@pytest.mark.parametrize("check", CHECKS)
def test_shares_give_the_same_figures(dataset, product, monkeypatch, check):
    single = run(check, dataset, product)
    main, other = run_sharded(monkeypatch, 2, lambda rank: run(check, dataset[rank::2], product))
    assert other == []
    for one, two in zip(single, main, strict=True):
        assert one["protocol"] == two["protocol"]
        same(one["metrics"], two["metrics"])


def test_cam_gives_miou_and_the_baseline(dataset, product):
    found = figures(check_cam, dataset, product, PROTOCOLS=("voc",), CAM_THRESHOLDS=(0.2, 0.5))
    assert list(found) == [
        "semantic, CAM > 0.2",
        "voc, baseline CAM > 0.2",
        "voc, baseline CAM > 0.5",
    ]
    baseline = []
    for record in dataset:
        key = record["image_key"]
        components = cam_components(product[key]["keys"], product[key]["high_res"], threshold=0.5)
        baseline.append(InstancePair(key, components, load_truth(record)))
    expected = figures_of([VocMeasure(NAMES)], baseline)["voc"]
    actual = found["voc, baseline CAM > 0.5"]
    same({name: actual[name] for name in expected}, expected)


def test_labels(dataset, product):
    (semantic,) = run(check_semantic, dataset, product)
    assert semantic["protocol"] == "semantic"
    assert 50 < semantic["metrics"]["mIoU"] < 100  # a tenth was blotted out


def test_missing_products_are_missed_and_missing_truth_is_left_out(dataset, product, caplog):
    index = next(i for i, d in enumerate(dataset) if len(d["annotations"]) > 1)
    full = figures(check_instances, dataset, product)
    product.path(dataset[index]["image_key"]).unlink()
    less = figures(check_instances, dataset, product)
    quality = "quality, score > 0"
    assert less[quality]["objects"] == full[quality]["objects"]
    assert less[quality]["images_without_product"] == 1
    assert "1 images without product" in caplog.text
    del dataset[index]["annotations"]
    dataset[index]["image_labels"] = [0]
    rest = figures(check_instances, dataset, product)
    assert rest[quality]["objects"] < full[quality]["objects"]
    assert rest[quality]["images_without_ground_truth"] == 1
    for record in dataset:
        record.pop("annotations", None)
        record["image_labels"] = [0]
    assert run(check_instances, dataset, product) == []


@pytest.mark.parametrize("check", CHECKS)
def test_missing_products_count_as_nothing(dataset, tmp_path, check):
    nothing = ProductReader(tmp_path / "none", "cam")
    results = run(check, dataset, nothing)
    assert results[0]["metrics"]["images_without_product"] == len(dataset)


def test_errors_name_the_image(dataset, product, pairs):
    write_artifact(product.path(pairs[0].key), {"label": np.zeros((2, 2), np.uint8)})
    with pytest.raises(DataError, match=pairs[0].key):
        run(check_semantic, dataset, product)
    wrong = {"classes": np.array([0]), "scores": np.ones(1), "masks": np.ones((1, 2, 2), bool)}
    write_artifact(product.path(pairs[0].key), wrong)
    with pytest.raises(DataError, match=pairs[0].key):
        run(check_instances, dataset, product)


def two_blobs():
    cam = np.zeros((2, 10, 12), dtype=np.float32)
    cam[0, 1:4, 1:4] = 1.0
    cam[0, 6:9, 1:4] = 0.5
    cam[1, 1:4, 3:8] = 0.7
    cam[1, 9, 11] = 0.9
    return np.array([2, 5]), cam


def test_label_map_takes_the_largest():
    keys, cam = two_blobs()
    label = cam_label_map(keys, cam, threshold=0.15)
    assert label[2, 2] == 3
    assert label[2, 3] == 3
    assert label[2, 4] == 6
    assert label[0, 0] == 0
    assert not cam_label_map(keys, cam, threshold=1.0).any()  # a CAM has to exceed it


def test_components_become_instances():
    keys, cam = two_blobs()
    found = cam_components(keys, cam, threshold=0.15)
    assert found.classes.tolist() == [2, 2, 5, 5]
    assert found.scores.tolist() == pytest.approx([1.0, 0.5, 0.7, 0.0])  # the speck scores 0
    assert found.masks.sum(axis=(1, 2)).tolist() == [9, 9, 12, 1]
    assert not (found.masks.sum(axis=0) > 1).any()
    kept = cam_components(keys, cam, threshold=0.15, min_area=0.0)
    assert kept.scores[3] == pytest.approx(0.9)


def test_no_class_no_instance():
    keys, cam = np.zeros(0, dtype=np.int64), np.zeros((0, 5, 7), dtype=np.float32)
    found = cam_components(keys, cam, threshold=0.15)
    assert found.masks.shape == (0, 5, 7)
    assert found.classes.shape == found.scores.shape == (0,)
    assert cam_label_map(keys, cam, threshold=0.15).shape == (5, 7)
