"""boxcaseg_mask: from logits to masks in the image, and the two quality metrics."""

import numpy as np
import pytest
import torch
from wsis.evaluation.box_masks import IOU_LEVELS, class_mean_iou, paired_iou
from wsis.layers.run_lengths import decode_rle, encode_mask, polygons_to_rle
from wsis.methods.boxcaseg.proxy_masks import (
    masks_in_boxes,
    normalize_maps,
    quantize_maps,
    resize_map,
)

from tests.golden.conftest import assert_close


def expected_masks(arrays):
    width = int(arrays["image_hw"][1])
    return np.unpackbits(arrays["masks"], axis=-1)[..., :width].astype(bool)


def test_normalised_and_quantised(arrays):
    found = normalize_maps(torch.from_numpy(arrays["logits"]).sigmoid())
    assert_close(found, arrays["normalised"], 1e-6, "normalised")
    off = np.abs(quantize_maps(found).astype(int) - arrays["quantised"])
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-3


def test_maps_and_masks(golden, arrays):
    boxes, size = arrays["boxes_xyxy"], tuple(arrays["image_hw"].tolist())
    for name in arrays:
        if name.startswith("map_"):
            x0, y0, x1, y1 = boxes[int(name[4:])].tolist()
            found = resize_map(arrays["quantised"][int(name[4:])], (y1 - y0, x1 - x0))
            np.testing.assert_array_equal(found, arrays[name])
    masks = masks_in_boxes(arrays["quantised"], boxes, size)
    np.testing.assert_array_equal(masks, expected_masks(arrays))
    assert [encode_mask(mask) for mask in masks] == golden.text(arrays["rle"])


def test_a_constant_map_makes_an_empty_mask():
    levels = quantize_maps(normalize_maps(torch.full((1, 4, 4), 0.3)))
    assert not levels.any()


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_metrics(golden, arrays, name):
    masks, classes = expected_masks(arrays), arrays["metric_cls"]
    size, count = tuple(arrays["image_hw"].tolist()), len(arrays["metric_cls"])
    if name == "voc":  # all but the last in image a, where object n is pixel value n; then b
        masks = np.concatenate([masks[: count - 1], masks[:1]])
        truths = [arrays["metric_gt_a"] == number for number in range(1, count)]
        truths, divisor = [*truths, arrays["metric_gt_b"] == 1], 20
    else:
        masks = np.concatenate([masks[: count - 1], masks[:1]])
        given = [one["segmentation"] for one in golden.text(arrays["coco_gt_json"])]
        rles = [polygons_to_rle(one, size) if isinstance(one, list) else one for one in given]
        truths, divisor = [decode_rle(rle) for rle in rles], 80
    ious = paired_iou(masks, np.stack(truths))
    slots = len(arrays[f"{name}_per_class"])
    means, mean = class_mean_iou(ious, classes - 1, num_classes=slots)
    assert_close(means, arrays[f"{name}_per_class"], 1e-7, "per class")
    found = [mean * slots / divisor, *((ious >= level).mean() for level in IOU_LEVELS)]
    assert_close(found, arrays[f"{name}_metrics"], 1e-7, "metrics")
