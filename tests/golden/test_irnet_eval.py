"""Mask AP (VOC style) and mIoU as chainercv computes them (irnet_eval.npz)."""

import re

import numpy as np
from wsis.evaluation.predictions import InstancePair, InstancePrediction, ProtocolOptions
from wsis.evaluation.semantic import confusion_matrix, iou_of_classes
from wsis.evaluation.streaming import mean_of_defined
from wsis.evaluation.voc import Matches, VocMeasure

from tests.evaluation.cases import truth
from tests.golden.conftest import assert_close


def unpack(packed, width):
    return np.unpackbits(packed, axis=-1, count=width).astype(bool)


def pairs(arrays):
    height, width = (int(side) for side in arrays["image_size"])
    gt, pred = unpack(arrays["gt_masks"], width), unpack(arrays["pred_masks"], width)
    gt_ends, pred_ends = arrays["gt_offsets"], arrays["pred_offsets"]
    for image in range(len(gt_ends) - 1):
        true, found = slice(*gt_ends[image : image + 2]), slice(*pred_ends[image : image + 2])
        yield InstancePair(
            f"{image:06d}",
            InstancePrediction(
                arrays["pred_labels"][found], arrays["pred_scores"][found], pred[found]
            ),
            truth(gt[true], arrays["gt_labels"][true], size=(height, width)),
        )


def assert_same_nan(actual, expected, what):
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), err_msg=what)
    defined = ~np.isnan(expected)
    assert_close(actual[defined], expected[defined], 1e-9, what)


def test_average_precision(arrays):
    names = [m for m in map(re.compile(r"ap(07)?_(\d+)p(\d+)_64").fullmatch, arrays) if m]
    assert names
    for name in names:
        expected = arrays[name[0]]
        threshold = float(f"{name[2]}.{name[3]}")
        number = max(len(expected), int(arrays["pred_labels"].max(initial=0)) + 1)
        measure = VocMeasure(
            [str(i) for i in range(number)], options=ProtocolOptions(eleven_point=bool(name[1]))
        )
        records = [measure.measure(pair) for pair in pairs(arrays)]
        actual = measure.average_precisions(Matches.join(records), threshold)
        assert_same_nan(actual[: len(expected)], expected, name[0])
        mean = f"map_{name[2]}p{name[3]}_64"
        if not name[1] and mean in arrays:
            assert_close(mean_of_defined(actual), arrays[mean], 1e-9, mean)


def test_semantic_iou(arrays):
    number = len(arrays["iou_64"])
    total = np.zeros((number, number), dtype=np.int64)
    for gt, pred in zip(arrays["sem_gt"], arrays["sem_pred"], strict=True):
        label = np.where(gt < 0, 255, gt.astype(np.int64))
        total += confusion_matrix(label, pred, num_labels=number)
    np.testing.assert_array_equal(total, arrays["confusion"])
    shares = iou_of_classes(total)
    assert_same_nan(shares, arrays["iou_64"], "iou")
    assert_close(mean_of_defined(shares), arrays["miou_64"], 1e-9, "miou")
