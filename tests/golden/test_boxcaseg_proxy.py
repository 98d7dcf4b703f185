"""boxcaseg_proxy: merging by area and the confidence, on two JSON files."""

import numpy as np
import pytest
from wsis.data.rle import decode_rle
from wsis.methods.boxcaseg.proxy_masks import (
    full_masks,
    merge_masks,
    original_confidence,
    painting_order,
    parts_of,
    tight_boxes,
)

from tests.golden.conftest import assert_close


@pytest.fixture(scope="module")
def arrays(golden):
    return golden.load("boxcaseg_proxy")


@pytest.mark.parametrize("name", ["pascal", "coco"])
def test_proxy_masks(golden, arrays, name):
    given, predicted = golden.text(arrays[f"{name}_gt"]), golden.text(arrays[f"{name}_seg"])
    expected = {a["id"]: a for a in golden.text(arrays[f"{name}_out"])["annotations"]}
    assert len(given["annotations"]) == len(expected)
    order = []
    for image in given["images"]:
        size = (image["height"], image["width"])
        pairs = [
            (a, p)
            for a, p in zip(given["annotations"], predicted, strict=True)
            if a["image_id"] == image["id"]
        ]
        if not pairs:
            continue
        masks = np.stack([decode_rle(p["segmentation"]) for _, p in pairs])
        whole = np.tile([0, 0, size[1], size[0]], (len(pairs), 1))
        areas = np.array([a["bbox"][2] * a["bbox"][3] for a, _ in pairs])
        merged = merge_masks(parts_of(masks, whole), whole, size, areas=areas)
        boxes = tight_boxes(merged, whole)
        corners = [[int(v) for v in a["bbox"]] for a, _ in pairs]
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in corners])
        confidence = original_confidence(boxes, corners)
        for index, (annotation, _) in enumerate(pairs):
            wanted = expected[annotation["id"]]
            order.append(annotation["id"])
            mask = full_masks(merged, whole, size)[index]
            np.testing.assert_array_equal(mask, decode_rle(wanted["segmentation"]))
            assert_close(confidence[index], wanted["confidence"], 1e-12, "confidence")
    assert sorted(order) == sorted(expected)


def test_confidence_alone(arrays):
    found = original_confidence(arrays["conf_mask_box"], arrays["conf_gt_box"])
    assert_close(found, arrays["conf"], 1e-12, "conf")


def test_painting_order(arrays):
    np.testing.assert_array_equal(painting_order(arrays["area_few"]), arrays["order_few"])
