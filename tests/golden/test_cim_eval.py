"""Instance AP as CIM reports it (cim_eval.npz)."""

import numpy as np
from wsis.evaluation.coco import CocoMeasure
from wsis.evaluation.predictions import InstancePair, InstancePrediction, ProtocolOptions
from wsis.evaluation.truth import load_truth
from wsis.layers.run_lengths import check_rle, decode_rle

from tests.golden.conftest import assert_close

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # COCO's first six figures


def decoded(annotations, size):
    masks = [decode_rle(check_rle(a["segmentation"], size)) for a in annotations]
    return np.array(masks, dtype=bool).reshape(-1, *size)


def pairs(golden, arrays):
    """Images by key, with what the data layer would make of their annotations."""
    truth, found = golden.text(arrays["gt_json"]), golden.text(arrays["pred_json"])
    categories = sorted(category["id"] for category in truth["categories"])
    for image in sorted(truth["images"], key=lambda image: image["id"]):
        size = (image["height"], image["width"])
        own = [
            {**a, "category_id": categories.index(a["category_id"])}
            for a in truth["annotations"]
            if a["image_id"] == image["id"]
        ]
        for annotation in own:
            annotation["segmentation"] = check_rle(annotation["segmentation"], size)
        record = {"file_name": image["file_name"], "image_id": image["id"], "annotations": own}
        predicted = [a for a in found if a["image_id"] == image["id"]]
        yield InstancePair(
            f"{image['id']:012d}",
            InstancePrediction(
                np.array([categories.index(a["category_id"]) for a in predicted], dtype=np.int64),
                np.array([a["score"] for a in predicted]),
                decoded(predicted, size),
            ),
            load_truth(record | {"height": size[0], "width": size[1], "image_labels": []}),
        )


def metrics_of(golden, arrays, measure):
    return measure.summarise([measure.measure(pair) for pair in pairs(golden, arrays)])


def test_average_precision(golden, arrays):
    names = [str(name) for name in arrays["class_names"]]
    measure = CocoMeasure(names, options=ProtocolOptions(absent_is_zero=True))
    assert measure.protocol == "coco, absent classes 0"
    metrics = metrics_of(golden, arrays, measure)
    for index, threshold in enumerate(arrays["thresholds"]):
        figure = f"AP{round(100 * float(threshold))}"
        by_class = np.array([metrics[f"{figure}/{name}"] for name in names]) / 100
        assert_close(by_class, arrays["class_ap"][index], 1e-9, figure)
        assert_close(metrics[figure] / 100, arrays["mAP"][index], 1e-9, figure)


def test_figures_of_coco(golden, arrays):
    measure = CocoMeasure([str(name) for name in arrays["class_names"]])
    metrics = metrics_of(golden, arrays, measure)
    for figure, expected in zip(STATS, arrays["coco_stats"], strict=False):
        actual = metrics[figure] / 100
        assert_close(-1.0 if np.isnan(actual) else actual, expected, 1e-9, figure)
