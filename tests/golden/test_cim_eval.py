"""Instance AP as CIM reports it (golden/cim.md, cim_eval)."""

import numpy as np
import pytest
from wsis.data.rle import check_rle, decode_rle
from wsis.evaluation.coco import CocoMeasure
from wsis.evaluation.streaming import InstancePair, InstancePrediction
from wsis.evaluation.truth import EvaluationTruth
from wsis.evaluation.voc import ProtocolOptions

from tests.golden.conftest import assert_close

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # COCO's first six figures


@pytest.fixture(scope="module")
def arrays(golden):
    return golden.load("cim_eval")


def decoded(annotations, size):
    masks = [decode_rle(check_rle(a["segmentation"], size)) for a in annotations]
    return np.array(masks, dtype=bool).reshape(-1, *size)


def classes_of(annotations, categories):
    return np.array([categories.index(a["category_id"]) for a in annotations], dtype=np.int64)


def pairs(golden, arrays):
    truth, found = golden.text(arrays["gt_json"]), golden.text(arrays["pred_json"])
    categories = sorted(category["id"] for category in truth["categories"])
    for image in truth["images"]:
        size = (image["height"], image["width"])
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        things = [a for a in own if not a.get("iscrowd")]
        crowds = [a for a in own if a.get("iscrowd")]
        predicted = [a for a in found if a["image_id"] == image["id"]]
        regions = decoded(crowds, size)
        yield InstancePair(
            f"{image['id']:012d}",
            InstancePrediction(
                classes_of(predicted, categories),
                np.array([a["score"] for a in predicted]),
                decoded(predicted, size),
            ),
            EvaluationTruth(
                masks=decoded(things, size),
                classes=classes_of(things, categories),
                void=regions.any(axis=0),
                difficult=np.zeros(len(things), dtype=bool),
                crowd_masks=regions,
                crowd_classes=classes_of(crowds, categories),
            ),
        )


def test_average_precision(golden, arrays):
    names = [str(name) for name in arrays["class_names"]]
    measure = CocoMeasure(names, options=ProtocolOptions(absent_is_zero=True))
    assert measure.protocol == "coco, absent classes 0"
    in_order = sorted(pairs(golden, arrays), key=lambda pair: pair.key)
    metrics = measure.summarise([measure.measure(pair) for pair in in_order])
    for index, threshold in enumerate(arrays["thresholds"]):
        figure = f"AP{round(100 * float(threshold))}"
        by_class = np.array([metrics[f"{figure}/{name}"] for name in names]) / 100
        assert_close(by_class, arrays["class_ap"][index], 1e-9, figure)
        assert_close(metrics[figure] / 100, arrays["mAP"][index], 1e-9, figure)


def test_figures_of_coco(golden, arrays):
    measure = CocoMeasure([str(name) for name in arrays["class_names"]])
    in_order = sorted(pairs(golden, arrays), key=lambda pair: pair.key)
    metrics = measure.summarise([measure.measure(pair) for pair in in_order])
    for figure, expected in zip(STATS, arrays["coco_stats"], strict=False):
        actual = metrics[figure] / 100
        assert_close(-1.0 if np.isnan(actual) else actual, expected, 1e-9, figure)
