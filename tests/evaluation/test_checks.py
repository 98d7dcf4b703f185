"""Product checks on real artifacts and pseudo-label files, alone and in shares."""

import numpy as np
import pytest
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.data.pseudo_labels import write_pseudo_labels
from wsis.data.rle import encode_mask
from wsis.errors import DataError, UsageError
from wsis.evaluation.cam import cam_components
from wsis.evaluation.registry import evaluate_product
from wsis.evaluation.truth import load_truth
from wsis.evaluation.voc_instance import VOCInstanceEvaluator

from tests.evaluation.cases import random_pair
from tests.evaluation.sharding import run_sharded

NAMES = ("cat", "dog", "bird", "cow")
SIZE = (40, 48)


@pytest.fixture
def pairs():
    return [random_pair(i, void=True) for i in range(10)]


def as_dict(index, pair, folder):
    """A COCO-type dataset dict with RLE masks; the void region is a crowd."""
    masks = [*pair.truth.masks, pair.truth.void]
    classes = [*pair.truth.classes.tolist(), index % 4]
    crowds = [0] * len(pair.truth.masks) + [1]
    return {
        "file_name": str(folder / "images" / f"{pair.key}.jpg"),
        "image_key": pair.key,
        "image_id": index + 1,
        "height": SIZE[0],
        "width": SIZE[1],
        "image_labels": sorted(set(pair.truth.classes.tolist())),
        "annotations": [
            {"segmentation": encode_mask(m), "category_id": c, "iscrowd": crowd, "id": i + 1}
            for i, (m, c, crowd) in enumerate(zip(masks, classes, crowds, strict=True))
        ],
    }


@pytest.fixture
def dataset(pairs, tmp_path):
    return [as_dict(index, pair, tmp_path) for index, pair in enumerate(pairs)]


def cams_of(pair, rng):
    """Class ids, and noisy maps of where the classes are."""
    keys = np.unique(pair.truth.classes)
    cam = np.zeros((len(keys), *SIZE))
    for row, key in enumerate(keys):
        cam[row] = pair.truth.masks[pair.truth.classes == key].any(axis=0)
    return keys, (cam * rng.uniform(0.3, 1.0, cam.shape)).astype(np.float16)


@pytest.fixture
def product(pairs, dataset, tmp_path):
    reader = ProductReader(tmp_path / "stage", "stage")
    rng = np.random.default_rng(0)
    for pair, record in zip(pairs, dataset, strict=True):
        keys, cam = cams_of(pair, rng)
        label = load_truth(record).semantic(4).astype(np.uint8)
        label[rng.random(SIZE) < 0.1] = 255
        arrays = {
            "classes": pair.prediction.classes,
            "scores": pair.prediction.scores,
            "masks": pair.prediction.masks,
            "keys": keys,
            "high_res": cam,
            "label": label,
        }
        write_artifact(reader.path(pair.key), arrays)
    return reader


def by_protocol(results):
    return {entry["protocol"]: entry["metrics"] for entry in results}


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name] == pytest.approx(b[name], abs=0, nan_ok=True)


def test_truth_keeps_crowds_apart(dataset, pairs):
    for index, (record, pair) in enumerate(zip(dataset, pairs, strict=True)):
        truth = load_truth(record)
        np.testing.assert_array_equal(truth.masks, pair.truth.masks)
        np.testing.assert_array_equal(truth.crowd_masks, pair.truth.void[None])
        assert truth.crowd_classes.tolist() == [index % 4]
    tags_only = {key: value for key, value in dataset[0].items() if key != "annotations"}
    assert load_truth(tags_only | {"image_labels": [1]}) is None


def test_instances_are_evaluated_as_while_inferring(dataset, pairs, product):
    evaluator = VOCInstanceEvaluator(dataset, NAMES, load_ground_truth=load_truth)
    for pair in pairs:
        evaluator.add(pair.key, pair.prediction)
    expected = evaluator.evaluate()
    found = by_protocol(evaluate_product("instances", dataset, product, class_names=NAMES))
    assert list(found) == ["voc", "coco", "quality, score > 0"]
    for protocol, metrics in expected.items():
        same({name: found[protocol][name] for name in metrics}, metrics)
    assert found["voc"]["images"] == len(pairs)
    assert 0 < found["voc"]["AP50"] < 100


@pytest.mark.parametrize("name", ["instances", "cam", "semantic", "inter_pixel_label"])
def test_shares_give_the_same_figures(dataset, product, monkeypatch, name):
    single = by_protocol(evaluate_product(name, dataset, product, class_names=NAMES))

    def process(rank):
        return evaluate_product(name, dataset[rank::2], product, class_names=NAMES)

    main, other = run_sharded(monkeypatch, 2, process)
    assert other == []
    sharded = by_protocol(main)
    assert list(sharded) == list(single)
    for protocol in single:
        same(sharded[protocol], single[protocol])


def test_the_exported_file_gives_what_passed_its_threshold(dataset, product, pairs):
    write_pseudo_labels(
        product.folder / "pseudo_labels.json",
        dataset,
        read_instances=lambda record: product[record["image_key"]],
        class_names=NAMES,
        info={},
        min_score=0.5,
    )
    for pair in pairs:  # what the file should hold
        kept = pair.prediction.above(np.nextafter(0.5, 0))
        keep = kept.masks.any(axis=(1, 2))
        arrays = {
            "classes": kept.classes[keep],
            "scores": kept.scores[keep],
            "masks": kept.masks[keep],
        }
        write_artifact(product.path(pair.key), arrays)
    expected = by_protocol(evaluate_product("instances", dataset, product, class_names=NAMES))
    found = by_protocol(evaluate_product("pseudo_labels", dataset, product, class_names=NAMES))
    assert list(found) == list(expected)
    for protocol in expected:
        same(found[protocol], expected[protocol])


def test_cam_gives_miou_and_the_baseline(dataset, product):
    found = by_protocol(
        evaluate_product(
            "cam",
            dataset,
            product,
            class_names=NAMES,
            protocols=("voc",),
            cam_thresholds=(0.2, 0.5),
        )
    )
    assert list(found) == [
        "semantic, CAM > 0.2",
        "voc, baseline CAM > 0.2",
        "voc, baseline CAM > 0.5",
    ]
    evaluator = VOCInstanceEvaluator(
        dataset, NAMES, load_ground_truth=load_truth, protocols=("voc",)
    )
    for record in dataset:
        arrays = product[record["image_key"]]
        components = cam_components(arrays["keys"], arrays["high_res"], threshold=0.5)
        evaluator.add(record["image_key"], components)
    expected = evaluator.evaluate()["voc"]
    actual = found["voc, baseline CAM > 0.5"]
    same({name: actual[name] for name in expected}, expected)


def test_labels(dataset, product):
    (semantic,) = evaluate_product("semantic", dataset, product, class_names=NAMES)
    assert semantic["protocol"] == "semantic"
    assert 50 < semantic["metrics"]["mIoU"] < 100  # a tenth was blotted out
    (label,) = evaluate_product("inter_pixel_label", dataset, product, class_names=NAMES)
    assert label["metrics"]["foreground_precision"] == 100.0
    assert 9 < label["metrics"]["unknown"] < 40


def test_missing_products_are_missed_and_missing_truth_is_left_out(dataset, product, caplog):
    index = next(i for i, d in enumerate(dataset) if len(d["annotations"]) > 1)
    full = by_protocol(evaluate_product("instances", dataset, product, class_names=NAMES))
    product.path(dataset[index]["image_key"]).unlink()
    less = by_protocol(evaluate_product("instances", dataset, product, class_names=NAMES))
    quality = "quality, score > 0"
    assert less[quality]["objects"] == full[quality]["objects"]
    assert less[quality]["images_without_product"] == 1
    assert "1 images without product" in caplog.text
    del dataset[index]["annotations"]
    dataset[index]["image_labels"] = [0]
    rest = by_protocol(evaluate_product("instances", dataset, product, class_names=NAMES))
    assert rest[quality]["objects"] < full[quality]["objects"]
    assert rest[quality]["images_without_ground_truth"] == 1
    for record in dataset:
        record.pop("annotations", None)
        record["image_labels"] = [0]
    assert evaluate_product("instances", dataset, product, class_names=NAMES) == []


def test_missing_cams_and_labels_count_as_nothing(dataset, tmp_path):
    nothing = ProductReader(tmp_path / "none", "cam")
    for name in ("cam", "semantic", "inter_pixel_label"):
        results = evaluate_product(name, dataset, nothing, class_names=NAMES)
        assert results[0]["metrics"]["images_without_product"] == len(dataset)


def test_errors(dataset, product, pairs):
    with pytest.raises(UsageError, match="cam, instances, inter_pixel_label"):
        evaluate_product("masks", dataset, product, class_names=NAMES)
    write_artifact(product.path(pairs[0].key), {"label": np.zeros((2, 2), np.uint8)})
    with pytest.raises(DataError, match=pairs[0].key):
        evaluate_product("semantic", dataset, product, class_names=NAMES)
