"""boxcaseg_proxy: merging by area and the confidence, on two JSON files."""

import numpy as np
import pytest
import torch
from wsis.layers.masks import mask_boxes
from wsis.layers.run_lengths import decode_rle
from wsis.methods.boxcaseg.proxy_masks import merge_masks, original_confidence, painting_order

from tests.golden.conftest import assert_close


@pytest.mark.parametrize("name", ["pascal", "coco"])
def test_proxy_masks(golden, arrays, name):
    given, predicted = golden.text(arrays[f"{name}_gt"]), golden.text(arrays[f"{name}_seg"])
    expected = {a["id"]: a for a in golden.text(arrays[f"{name}_out"])["annotations"]}
    assert len(given["annotations"]) == len(expected)
    order = []
    for image in given["images"]:
        pairs = [
            (a, p)
            for a, p in zip(given["annotations"], predicted, strict=True)
            if a["image_id"] == image["id"]
        ]
        if not pairs:
            continue
        masks = np.stack([decode_rle(p["segmentation"]) for _, p in pairs])
        areas = np.array([a["bbox"][2] * a["bbox"][3] for a, _ in pairs])
        merged = merge_masks(masks, areas=areas)
        boxes = mask_boxes(torch.from_numpy(merged)).numpy()
        corners = [[int(v) for v in a["bbox"]] for a, _ in pairs]
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in corners])
        confidence = original_confidence(boxes, corners)
        for index, (annotation, _) in enumerate(pairs):
            wanted = expected[annotation["id"]]
            order.append(annotation["id"])
            np.testing.assert_array_equal(merged[index], decode_rle(wanted["segmentation"]))
            assert_close(confidence[index], wanted["confidence"], 1e-12, "confidence")
    assert sorted(order) == sorted(expected)


def test_confidence_alone(arrays):
    mask_boxes = arrays["conf_mask_box"] + [0, 0, 1, 1]  # far edges inside, and ours outside
    found = original_confidence(mask_boxes, arrays["conf_gt_box"])
    assert_close(found, arrays["conf"], 1e-12, "conf")


def test_painting_order(arrays):
    np.testing.assert_array_equal(painting_order(arrays["area_few"]), arrays["order_few"])
