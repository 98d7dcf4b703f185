"""Protocol coco equals COCOeval run on files."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from wsis.data.coco import load_coco_dataset
from wsis.evaluation.coco import CocoMeasure
from wsis.evaluation.predictions import InstancePair, ProtocolOptions
from wsis.evaluation.truth import EvaluationTruth, load_truth
from wsis.layers.run_lengths import encode_mask, rle_box

from tests.evaluation.cases import box, prediction, random_box, random_pair, truth

NAMES = ("cat", "dog", "bird", "cow")


def unknown(number):
    return {"areas": np.full(number, np.nan), "boxes": np.full((number, 4), np.nan)}


def with_crowd(pair, number):
    void = pair.truth.void
    crowd = truth(void[None], [number], size=void.shape)
    crowds = EvaluationTruth(**vars(crowd), **unknown(1))
    new = EvaluationTruth(**vars(pair.truth), **unknown(len(pair.truth.masks)), crowds=crowds)
    return InstancePair(pair.key, pair.prediction, new)


def through_files(folder, pairs, iou_type, thresholds=None, alter=lambda annotation: annotation):
    """COCOeval on JSON files, as anybody would run it."""
    annotations, results = [], []
    for number, pair in enumerate(pairs, start=1):
        crowds = getattr(pair.truth, "crowds", None) or truth([], [])
        for masks, classes, crowd in (
            (pair.truth.masks, pair.truth.classes, 0),
            (crowds.masks, crowds.classes, 1),
        ):
            for mask, label in zip(masks, classes, strict=True):
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "iscrowd": crowd,
                    "area": int(mask.sum()),
                    "bbox": rle_box(encode_mask(mask)),
                    "segmentation": encode_mask(mask),
                }
                annotations.append(alter(annotation))
        for entry in pair.prediction.results:
            results.append({**entry, "image_id": number, "category_id": entry["category_id"] + 1})
    if iou_type == "segm":  # loadRes would take the boxes' areas for the masks'
        results = [{k: v for k, v in entry.items() if k != "bbox"} for entry in results]
    height, width = pairs[0].truth.void.shape
    images = [
        {"id": i + 1, "file_name": f"{pair.key}.jpg", "height": height, "width": width}
        for i, pair in enumerate(pairs)
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    gt = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "gt.json").write_text(json.dumps(gt))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "gt.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), iou_type)
        if thresholds is not None:
            evaluation.params.iouThrs = np.array(thresholds)
        evaluation.evaluate()
        evaluation.accumulate()
        if thresholds is None:
            evaluation.summarize()
    return evaluation


def metrics_of(pairs, iou_type="segm", **options):
    measure = CocoMeasure(NAMES, iou_type=iou_type, options=ProtocolOptions(**options))
    return measure.summarise([measure.measure(pair) for pair in pairs])


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("crowds", [False, True])
def test_agrees_with_coco_eval_through_files(tmp_path, iou_type, crowds):
    pairs = [random_pair(i, size=(80, 90), void=crowds) for i in range(14)]
    if crowds:
        pairs = [with_crowd(pair, i % 4) for i, pair in enumerate(pairs)]
    metrics = metrics_of(pairs, iou_type)
    stats = through_files(tmp_path, pairs, iou_type).stats
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    expected = [np.nan if value < 0 else 100 * value for value in stats[: len(names)]]
    actual = [metrics[name] for name in names]
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    for threshold, name in ((0.25, "AP25"), (0.7, "AP70")):
        fixed = through_files(tmp_path, pairs, iou_type, [threshold]).eval["precision"]
        for number, class_name in enumerate(NAMES):
            of_class = fixed[0, :, number, 0, -1]
            value = np.nan if (of_class < 0).all() else 100 * of_class.mean()
            assert metrics[f"{name}/{class_name}"] == pytest.approx(value, abs=1e-9, nan_ok=True)


def crowded_pair(rng):
    """Many noisy masks on few objects: equal ones, empty ones, large ones, and a crowd."""
    size = (60, 110)
    objects = [random_box(rng, size) & (rng.random(size) < 0.9) for _ in range(7)]
    objects += [objects[0], box(0, 0, 60, 100, size), box(0, 0, 0, 0, size)]
    classes = np.append(rng.integers(0, 3, 9), 0)
    places = rng.integers(0, len(objects), 60)
    masks = [objects[i] ^ (random_box(rng, size) & (rng.random(size) < 0.3)) for i in places]
    masks += [objects[i] for i in places[:40]] + [random_box(rng, size) for _ in range(40)]
    labels = np.concatenate([classes[places], classes[places[:40]], rng.integers(0, 4, 40)])
    scores = rng.integers(0, 20, len(masks)) / 20
    void = random_box(rng, size)
    objects = truth(objects, classes, size=size, void=void)
    found = prediction(masks, labels, scores, size=size)
    return with_crowd(InstancePair("", found, objects), int(rng.integers(0, 4)))


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_crowded_images_have_the_precision_of_coco_eval_to_the_last_digit(tmp_path, iou_type):
    rng = np.random.default_rng(5)
    pairs = [crowded_pair(rng) for _ in range(4)]
    thresholds = [0.25, *np.linspace(0.5, 0.95, 10)]
    expected = through_files(tmp_path, pairs, iou_type, thresholds).eval["precision"][..., -1]
    expected = np.where(expected < 0, np.nan, expected)
    metrics = metrics_of(pairs, iou_type)
    for number, name in enumerate(NAMES):
        of_class = 100 * expected[:, :, number].mean(axis=1)  # (T, A)
        for metric, value in (
            ("AP25", of_class[0, 0]),
            ("AP50", of_class[1, 0]),
            ("AP", of_class[1:, 0].mean()),
            ("APs", of_class[1:, 1].mean()),
            ("APm", of_class[1:, 2].mean()),
        ):
            assert metrics[f"{metric}/{name}"] == pytest.approx(value, rel=1e-14, nan_ok=True)
    assert 0 < metrics["AP"] < metrics["AP25"] < 100


def test_at_most_100_of_a_class_count(tmp_path):
    rng = np.random.default_rng(0)
    size = (60, 110)
    masks = [random_box(rng, size) for _ in range(220)]
    found = prediction(masks, np.arange(220) % 2, rng.integers(0, 9, 220) / 9, size=size)
    pairs = [InstancePair("a", found, truth(masks[::3], np.arange(0, 220, 3) % 2, size=size))]
    stats = through_files(tmp_path, pairs, "segm").stats
    metrics = metrics_of(pairs)
    assert [metrics[name] for name in ("AP", "APs", "APm")] == pytest.approx(100 * stats[[0, 3, 4]])


def far_from_the_mask(annotation):
    """Areas of another size, boxes moved and some of them beyond the image."""
    number = annotation["id"]
    x, y, width, height = annotation["bbox"]
    area = annotation["area"] * (0.2, 1, 5.1)[number % 3]
    box = [x - 0.3 * (number % 4), y + 0.7, 1.25 * width, height + 0.5 * (number % 5)]
    return annotation | {"area": area, "bbox": box}


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_stated_areas_and_boxes_count_as_in_coco_eval(tmp_path, iou_type):
    pairs = [random_pair(i, size=(80, 90), void=True, distinct=True) for i in range(14)]
    pairs = [with_crowd(pair, i % 4) for i, pair in enumerate(pairs) if pair.truth.void.any()]
    stats = through_files(tmp_path, pairs, iou_type, alter=far_from_the_mask).stats
    records, names, _ = load_coco_dataset(tmp_path / "gt.json", tmp_path)
    assert names == NAMES
    truths = [load_truth(record) for record in records]
    stated = [
        InstancePair(pair.key, pair.prediction, found)
        for pair, found in zip(pairs, truths, strict=True)
    ]
    metrics = metrics_of(stated, iou_type)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    expected = [np.nan if value < 0 else 100 * value for value in stats[: len(names)]]
    np.testing.assert_allclose([metrics[name] for name in names], expected, atol=1e-9)
    changed = "AP" if iou_type == "bbox" else "APs"
    assert metrics_of(pairs, iou_type)[changed] != metrics[changed]


def test_what_is_not_stated_is_that_of_the_mask(tmp_path):
    pairs = [with_crowd(random_pair(i, size=(80, 90), void=True), i % 4) for i in range(6)]

    def leave_out(annotation):
        return {k: v for k, v in annotation.items() if k not in ("area", "bbox")}

    pairs = [pair for pair in pairs if pair.truth.void.any()]
    expected = [metrics_of(pairs, iou_type) for iou_type in ("segm", "bbox")]
    with contextlib.suppress(KeyError):  # COCOeval itself needs both
        through_files(tmp_path, pairs, "segm", alter=leave_out)
    records, _, _ = load_coco_dataset(tmp_path / "gt.json", tmp_path)
    stated = [
        InstancePair(pair.key, pair.prediction, load_truth(record))
        for pair, record in zip(pairs, records, strict=True)
    ]
    for iou_type, figures in zip(("segm", "bbox"), expected, strict=True):
        assert metrics_of(stated, iou_type) == pytest.approx(figures, nan_ok=True)


def test_perfect_and_empty():
    masks = [box(0, 0, 3, 3), box(3, 3, 6, 8)]
    perfect = InstancePair("a", prediction(masks, [0, 1], [0.9, 0.8]), truth(masks, [0, 1]))
    metrics = metrics_of([perfect])
    for name in ("AP", "AP25", "AP50", "AP70", "AP75", "AP/cat", "AP/dog"):
        assert metrics[name] == pytest.approx(100)
    assert np.isnan(metrics["AP/bird"])
    nothing = InstancePair("b", prediction([], [], []), truth([], []))
    assert np.isnan(metrics_of([nothing])["AP"])
    assert np.isnan(metrics_of([])["AP"])
    missed = InstancePair("c", prediction([], [], []), truth(masks, [0, 1]))
    assert metrics_of([missed, nothing])["AP"] == 0.0


def test_void_and_difficult_options():
    easy, hard = box(0, 0, 3, 3), box(3, 3, 6, 8)
    objects = truth([easy, hard], [0, 0], difficult=[False, True])
    missed = InstancePair("a", prediction([easy], [0], [0.8]), objects)
    assert metrics_of([missed])["AP50"] < 60
    assert metrics_of([missed], use_difficult=False)["AP50"] == pytest.approx(100)
    objects = truth([easy], [0], void=hard)
    doubtful = InstancePair("a", prediction([hard, easy], [0, 0], [0.9, 0.8]), objects)
    assert metrics_of([doubtful])["AP50"] == pytest.approx(50)
    assert metrics_of([doubtful], ignore_void=True)["AP50"] == pytest.approx(100)


def test_it_prints_nothing(capsys):
    metrics_of([random_pair(3)])
    assert capsys.readouterr().out == ""


def test_unknown_iou_type():
    with pytest.raises(ValueError, match="segm or bbox"):
        CocoMeasure(NAMES, iou_type="mask")
