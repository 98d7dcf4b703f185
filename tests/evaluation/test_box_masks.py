import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.annotations import given_boxes
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.data.ground_truth import GroundTruth
from wsis.errors import DataError
from wsis.evaluation.box_masks import (
    BoxMaskMeasure,
    box_mask_part,
    check_box_masks,
    class_mean_iou,
    object_of_boxes,
    paired_iou,
)
from wsis.evaluation.evaluator import Evaluator
from wsis.evaluation.results import is_defined
from wsis.layers.box_baselines import filled_boxes
from wsis.methods.boxcaseg.mask_checks import box_mask_evaluator, check_proxy_masks
from wsis.stage import get_stage

from tests.evaluation.cases import data_set, product_figures

SIZE = (40, 50)
NAMES = ("cat", "dog", "cow")
CHECKS = {check_box_masks: "box masks", check_proxy_masks: "proxy masks"}


def mask(x0, y0, x1, y1):
    return filled_boxes(np.array([[x0, y0, x1, y1]]), SIZE)[0]


def truth_of(masks, classes):
    masks = np.array(masks).reshape(-1, *SIZE)
    return GroundTruth(masks, np.array(classes), np.zeros(SIZE, bool), np.zeros(len(masks), bool))


def box(*corners, category=0, **more):
    return {"bbox": list(corners), "bbox_mode": BoxMode.XYXY_ABS, "category_id": category} | more


def test_iou_and_class_means():
    a, b = (
        np.array([mask(0, 0, 10, 10), mask(0, 0, 0, 0)]),
        np.array([mask(0, 0, 10, 5), mask(0, 0, 0, 0)]),
    )
    assert paired_iou(a, b).tolist() == [0.5, 0]
    means, mean = class_mean_iou(np.array([0.5, 1.0, 0.3]), np.array([0, 0, 2]), num_classes=3)
    np.testing.assert_allclose(means, [0.75, 0, 0.3])
    assert mean == pytest.approx(0.35)


def test_measure():
    measure = BoxMaskMeasure("x", NAMES)
    iou = paired_iou(np.array([mask(0, 0, 10, 10)]), np.array([mask(0, 0, 10, 6)]))
    found = measure.summarise([measure.measure({"x": (iou, np.array([2])), "y": (iou / 2, iou)})])
    assert found["mIoU"] == pytest.approx(60)
    assert found["mIoU*"] == pytest.approx(20)
    assert (found["IoU@50"], found["IoU@70"], found["boxes"]) == (100, 0, 1)
    assert found["mIoU/cow"] == pytest.approx(60)
    assert np.isnan(found["mIoU/cat"])
    assert np.isnan(measure.summarise([])["mIoU"])


def test_annotations_with_masks_name_their_objects():
    record = {"annotations": [box(0, 0, 9, 9), box(0, 0, 5, 5, iscrowd=1), {"category_id": 1}]}
    record["annotations"].append(box(1, 1, 4, 4))
    assert object_of_boxes(record, truth_of([mask(0, 0, 1, 1)] * 3, [0, 1, 0])).tolist() == [0, 2]


def test_boxes_beside_pictures_are_matched_by_class_and_overlap():
    truth = truth_of([mask(0, 0, 10, 10), mask(20, 20, 40, 30), mask(0, 0, 9, 10)], [0, 1, 0])
    annotations = [
        box(20, 20, 40, 31, category=1),
        box(0, 0, 9, 10),
        box(0, 0, 10, 10),
        box(0, 0, 10, 10, category=2),
        box(45, 0, 49, 3),
    ]
    record = {"annotations": annotations, "instance_file_name": "a.png"}
    assert object_of_boxes(record, truth).tolist() == [1, 2, 0, -1, -1]
    assert object_of_boxes({"annotations": [], "instance_file_name": "a.png"}, truth).size == 0


@pytest.fixture
def case(tmp_path):
    """One image with two boxes and its artifact."""
    image = np.full((*SIZE, 3), 30, dtype=np.uint8)
    image[5:20, 5:20] = 200
    Image.fromarray(image).save(tmp_path / "a.png")
    masks = [mask(5, 5, 20, 20), mask(30, 10, 45, 30)]
    from wsis.layers.run_lengths import encode_mask

    boxes = [[5, 5, 20, 20], [30, 10, 45, 30]]
    annotations = [
        box(*corners, category=i, segmentation=encode_mask(m), iscrowd=0)
        for i, (corners, m) in enumerate(zip(boxes, masks, strict=True))
    ]
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "image_key": "a"}
    record |= {"height": SIZE[0], "width": SIZE[1], "annotations": annotations}
    found = {
        "masks": np.array([masks[0], mask(30, 10, 45, 20)]),
        "boxes": np.array(boxes),
        "classes": np.array([0, 1]),
        "scores": np.array([0.9, 0.8], dtype=np.float32),
        "confidence": np.array([1.0, 0.5]),
    }
    write_artifact(tmp_path / "artifacts" / "a.npz", found)
    return record, ProductReader(tmp_path, "box_masks")


def config(iterations=5):
    cfg = get_wsis_cfg()
    cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS = iterations
    return cfg


def figures(check, *records, reader, iterations=5):
    entries = product_figures(check, records, reader, config(iterations), NAMES)
    return {entry["protocol"]: entry["metrics"] for entry in entries}


def test_box_masks_with_baselines(case):
    record, reader = case
    found = figures(check_box_masks, record, reader=reader)
    assert found["box masks"]["mIoU"] == pytest.approx(75)
    assert found["baseline filled box"]["mIoU"] == pytest.approx(100)
    assert "baseline GrabCut" in found
    assert set(figures(check_box_masks, record, reader=reader, iterations=0)) == {
        "box masks",
        "baseline filled box",
    }


def test_filled_boxes_are_not_compared_with_themselves(case):
    record, reader = case
    check = get_stage("filled_masks").evaluation
    assert figures(check, record, reader=reader).keys() == {"box masks"}


@pytest.fixture
def fractional(case):
    """Boxes that end within a pixel of their masks; the network saw every pixel they touch."""
    record, _ = case
    boxes = [[5.4, 4.6, 20.3, 19.6], [29.8, 10.2, 45.4, 29.7]]
    for annotation, corners in zip(record["annotations"], boxes, strict=True):
        annotation["bbox"] = corners
    assert given_boxes(record, outwards=True).tolist() == [[5, 4, 21, 20], [29, 10, 46, 30]]
    return record


def seen(record):
    """A product whose masks fill the grown boxes."""
    boxes = given_boxes(record, outwards=True)
    return {"masks": filled_boxes(boxes, SIZE), "boxes": boxes, "classes": np.array([0, 1])}


def test_the_filled_box_is_the_annotated_one_rounded(fractional, tmp_path):
    found = seen(fractional)
    write_artifact(tmp_path / "grown" / "artifacts" / "a.npz", found)
    measured = figures(check_box_masks, fractional, reader=ProductReader(tmp_path / "grown", "x"))
    assert measured["baseline filled box"]["mIoU"] == pytest.approx(100)
    assert measured["box masks"]["mIoU"] == pytest.approx(50 * (225 / 256 + 300 / 340))
    evaluator = box_mask_evaluator(data_set(NAMES), config(), None)
    instances = Instances(SIZE, pred_boxes=Boxes(torch.tensor(found["boxes"])))
    instances.pred_masks = torch.tensor(found["masks"])
    evaluator.add(fractional, {"instances": instances})
    assert evaluator.evaluate()["baseline filled box"]["mIoU"] == pytest.approx(100)


def test_the_filled_box_is_the_one_that_was_given(fractional, tmp_path):
    """Masks of a detector's boxes, measured on a data set that has boxes of its own."""
    DatasetCatalog.register("given", lambda: [fractional])
    other = fractional | {"annotations": [dict(a) for a in fractional["annotations"]]}
    for annotation in other["annotations"]:
        annotation["bbox"] = [v + 3 for v in annotation["bbox"]]
    write_artifact(tmp_path / "grown" / "artifacts" / "a.npz", seen(fractional))
    cfg = get_wsis_cfg()
    cfg.WSIS.IMAGES, cfg.WSIS.EVALUATION.IMAGES = ("given",), ("other",)
    product = ProductReader(tmp_path / "grown", "x")
    entries = product_figures(check_box_masks, [other], product, cfg, NAMES)
    measured = {entry["protocol"]: entry["metrics"] for entry in entries}
    assert measured["baseline filled box"]["mIoU"] == pytest.approx(100)


def against(truth, record, found):
    """Figures of one image with this truth, and those of its filled boxes."""
    evaluator = Evaluator("x", NAMES, [box_mask_part(NAMES, config(0))], lambda record: truth)
    evaluator.add(record, found)
    return evaluator.evaluate()


@pytest.mark.parametrize("corners", [[-0.4, 0.2, 0.3, 0.4], [49.8, 39.9, 50, 40]])
def test_a_box_of_less_than_half_a_pixel_is_one_pixel(case, corners):
    record, _ = case
    record["annotations"] = [record["annotations"][0] | {"bbox": corners}]
    pixel = given_boxes(record, outwards=True)
    whole = truth_of(filled_boxes(pixel, SIZE), [0])
    found = against(whole, record, {"masks": filled_boxes(pixel, SIZE), "boxes": pixel})
    assert found["baseline filled box"]["mIoU"] == pytest.approx(100)


def test_proxy_masks_and_those_to_be_trusted(case):
    record, reader = case
    found = figures(check_proxy_masks, record, reader=reader)
    assert found["proxy masks"]["mIoU"] == pytest.approx(75)
    assert found["proxy masks, confidence > 0.95"]["mIoU"] == pytest.approx(100)
    assert found["proxy masks, confidence > 0.95"]["boxes"] == 1
    assert "voc" in found


def test_boxes_without_an_artifact_are_missed(case):
    record, reader = case
    both = [record, record | {"image_key": "b"}]
    for check, protocol in CHECKS.items():
        found = figures(check, *both, reader=reader, iterations=0)
        assert found[protocol]["mIoU"] == pytest.approx(75 / 2)
        assert found[protocol]["boxes"] == 4


def test_a_test_set_without_masks_has_no_figures(case, caplog):
    record, _ = case
    alone = [{k: v for k, v in a.items() if k != "segmentation"} for a in record["annotations"]]
    evaluator = box_mask_evaluator(data_set(NAMES), config(), None)
    evaluator.add(record | {"annotations": alone}, {"instances": None})
    assert not any(map(is_defined, evaluator.evaluate().values()))
    assert not caplog.text  # the end of a run tells it, once


def test_masks_of_other_boxes_are_joined_to_objects(case):
    """A detector's boxes: more than there are objects, in another order."""
    record, reader = case
    first, second = record["annotations"]
    record["annotations"] = [second, first, second | {"category_id": 2}]
    for check, protocol in CHECKS.items():
        found = figures(check, record, reader=reader)
        assert found[protocol]["mIoU"] == pytest.approx(75)
        assert found[protocol]["boxes"] == 2


def test_masks_of_another_size(case):
    record, reader = case
    smaller = [{k: v for k, v in a.items() if k != "segmentation"} for a in record["annotations"]]
    small = truth_of([mask(5, 5, 20, 20)], [0])
    found = {"masks": np.zeros((2, 9, 9), bool), "boxes": reader["a"]["boxes"]}
    with pytest.raises(DataError, match="for 2 boxes in an image of 40 x 50"):
        against(small, record | {"annotations": smaller}, found)


def test_no_boxes_at_all():
    none = np.zeros((0, *SIZE), dtype=bool)
    record = {"image_key": "a", "annotations": []}
    found = {"masks": none, "boxes": np.zeros((0, 4), int)}
    measured = against(truth_of(none, np.zeros(0, int)), record, found)
    assert np.isnan(measured["box masks"]["mIoU"])


def test_an_unreadable_image_is_missed(case):
    record, _ = case
    evaluator = box_mask_evaluator(data_set(NAMES), config(1), None)
    evaluator.add(record, None)
    found = evaluator.evaluate()
    assert [(m["mIoU"], m["boxes"]) for m in found.values()] == [(0, 2)] * 3
