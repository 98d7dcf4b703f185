import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from wsis.config import get_wsis_cfg
from wsis.errors import DataError, UsageError
from wsis.methods.boxcaseg.stages import (
    derive_filled,
    derive_grabcut,
    derive_proxy_masks,
    point_mask_artifact,
)

SIZE = (20, 30)


@pytest.fixture
def case():
    """A large box fully claimed, a small one inside, an empty prediction."""
    boxes = np.array([[2, 2, 22, 18], [4, 4, 10, 10], [24, 2, 29, 8]])
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1} for box in boxes.tolist()
    ]
    annotations.insert(1, annotations[0] | {"iscrowd": 1})
    record = {"image_key": "a", "height": 20, "width": 30, "annotations": annotations}
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, 2:18, 2:22] = masks[1, 4:10, 4:10] = True
    levels = np.zeros((3, 4, 4), dtype=np.uint8)
    levels[:2] = 255
    levels[0, :, 2:] = 100
    product = {
        "boxes": boxes,
        "classes": np.array([1, 1, 1]),
        "scores": np.array([0.5, 0.9, 0.0], dtype=np.float32),
        "masks": masks,
        "levels": levels,
    }
    return record, {"box_masks": product}


def test_merged_masks_with_their_confidence(case):
    cfg = get_wsis_cfg()
    found = derive_proxy_masks(*case, cfg)
    assert found["masks"].sum(axis=(1, 2)).tolist() == [16 * 20 - 36, 36, 0]
    np.testing.assert_array_equal(found["boxes"], case[1]["box_masks"]["boxes"])
    expected = [320 / (17 * 21), 36 / 49, 0]
    np.testing.assert_allclose(found["confidence"], expected)
    assert "ignore" not in found
    cfg.MODEL.BOXCASEG.PROXY.CONFIDENCE = "fair"
    assert derive_proxy_masks(*case, cfg)["confidence"].tolist() == [1, 1, 0]


def test_masks_without_learning(case):
    """They go the same way; boxes are rounded, and GrabCut stays inside."""
    record, _ = case
    image = np.full((*SIZE, 3), 30, dtype=np.uint8)
    image[6:14, 6:18] = (220, 60, 40)
    record["annotations"][0]["bbox"] = [1.6, 2.4, 22.3, 17.8]
    record |= {"pixels": image, "annotations": record["annotations"][:2]}
    cfg = get_wsis_cfg()
    cfg.MODEL.BOXCASEG.GRABCUT_MIN_CONFIDENCE = 0.3
    filled, cut = (derive(record, {}, cfg) for derive in (derive_filled, derive_grabcut))
    assert filled["masks"].sum() == filled["masks"][0, 2:18, 2:22].sum() == 16 * 20
    np.testing.assert_array_equal(cut["masks"][0], image[..., 0] == 220)
    np.testing.assert_allclose(cut["confidence"], [96 / 320])
    for made in (filled, cut):
        assert made["boxes"].tolist() == [[2, 2, 22, 18]]
        assert (made["classes"].tolist(), made["scores"].tolist()) == ([1], [1.0])
    cfg.MODEL.BOXCASEG.PROXY.CONFIDENCE = "fair"
    cfg.MODEL.BOXCASEG.PROXY.IGNORE_CONTESTED = True
    found = derive_proxy_masks(record, {"box_masks": filled}, cfg)
    assert (found["confidence"].tolist(), found["ignore"].any()) == ([1.0], False)
    for key, value in (("IGNORE_BETWEEN", (0.3, 0.7)), ("MERGE", "odds")):
        before, cfg.MODEL.BOXCASEG.PROXY[key] = cfg.MODEL.BOXCASEG.PROXY[key], value
        with pytest.raises(UsageError, match=f"{key} needs the probabilities of .*its default"):
            derive_proxy_masks(record, {"box_masks": cut}, cfg)
        cfg.MODEL.BOXCASEG.PROXY[key] = before


def test_the_box_is_filled_where_grabcut_contradicts_it(case):
    """A bright spot in a large box; nothing to be seen in the other. Neither teaches a mask."""
    record, _ = case
    image = np.full((*SIZE, 3), 30, dtype=np.uint8)
    image[6:10, 6:10] = (220, 60, 40)
    record |= {"pixels": image, "annotations": [record["annotations"][i] for i in (0, 3)]}
    cfg = get_wsis_cfg()
    found = derive_grabcut(record, {}, cfg)
    assert found["masks"].sum(axis=(1, 2)).tolist() == [16 * 20, 5 * 6]
    np.testing.assert_allclose(found["confidence"], [16 / 320, 0])
    proxy = derive_proxy_masks(record, {"box_masks": found}, cfg)
    np.testing.assert_allclose(proxy["confidence"], [16 / 320, 0])
    cfg.MODEL.BOXCASEG.GRABCUT_MIN_CONFIDENCE = 0.0
    assert derive_grabcut(record, {}, cfg)["masks"].sum(axis=(1, 2)).tolist() == [16, 5 * 6]


def test_ignored_pixels(case):
    cfg = get_wsis_cfg()
    cfg.MODEL.BOXCASEG.PROXY.IGNORE_CONTESTED = True
    ignore = derive_proxy_masks(*case, cfg)["ignore"]
    assert ignore.sum(axis=(1, 2)).tolist() == [36, 0, 0]
    assert ignore[0, 4:10, 4:10].all()
    cfg.MODEL.BOXCASEG.PROXY.IGNORE_CONTESTED = False
    cfg.MODEL.BOXCASEG.PROXY.IGNORE_BETWEEN = (0.3, 0.5)
    ignore = derive_proxy_masks(*case, cfg)["ignore"]
    assert ignore[0, 2:18, 17:22].all()
    assert not ignore[0, :, :10].any()
    assert not ignore[1:].any()


def test_boxes_without_area(case):
    """COCO has two; their mask was looked for in the pixels that they touch."""
    record, products = case
    flat = record["annotations"][-1] | {"bbox": [24.5, 2.0, 29.5, 2.0]}
    record = record | {"annotations": [*record["annotations"][:-1], flat]}
    cfg = get_wsis_cfg()
    for kind in ("original", "fair"):
        cfg.MODEL.BOXCASEG.PROXY.CONFIDENCE = kind
        found = derive_proxy_masks(record, products, cfg)
        assert found["boxes"][2].tolist() == [24, 2, 29, 8]
        assert np.isfinite(found["confidence"]).all()


def test_an_image_without_boxes(case):
    record, products = case
    for derive in (derive_filled, derive_grabcut):
        made = derive(
            record | {"annotations": [], "pixels": np.zeros((*SIZE, 3), np.uint8)},
            {},
            get_wsis_cfg(),
        )
        assert made["masks"].shape == (0, *SIZE)
        assert made["boxes"].shape == (0, 4)
    nothing = {k: v[:0] for k, v in products["box_masks"].items()}
    found = derive_proxy_masks(record | {"annotations": []}, {"box_masks": nothing}, get_wsis_cfg())
    assert found["masks"].shape == (0, *SIZE)
    assert found["confidence"].shape == (0,)


def test_mistakes(case):
    record, products = case
    with pytest.raises(DataError, match="has 1 boxes, its masks were made for 3"):
        derive_proxy_masks(
            record | {"annotations": record["annotations"][:1]}, products, get_wsis_cfg()
        )
    cfg = get_wsis_cfg()
    cfg.MODEL.BOXCASEG.PROXY.CONFIDENCE = "soft"
    with pytest.raises(UsageError, match="'soft'; it must be original or fair"):
        derive_proxy_masks(*case, cfg)
    cfg = get_wsis_cfg()
    cfg.MODEL.BOXCASEG.PROXY.IGNORE_BETWEEN = (0.5, 0.3)
    with pytest.raises(UsageError, match="two rising numbers"):
        derive_proxy_masks(*case, cfg)


def test_masks_of_points_share_no_pixel():
    """Of two equally sure boxes the smaller one gets what both claim."""
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 4.0, 8.0, 8.0]])
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[0, :8, :8] = masks[1, 4:8, 4:8] = True
    found = Instances((10, 10), pred_boxes=Boxes(boxes), pred_masks=masks)
    found.pred_classes, found.scores = torch.tensor([3, 0]), torch.tensor([0.5, 0.25])
    levels = torch.full((2, 4, 4), 200, dtype=torch.uint8)
    kept = point_mask_artifact({"instances": found, "levels": levels})
    assert sorted(kept) == ["classes", "masks", "scores"]
    assert kept["classes"].tolist() == [3, 0]
    assert kept["scores"].tolist() == [0.5, 0.25]
    assert kept["masks"].sum(axis=(1, 2)).tolist() == [48, 16]
    assert kept["masks"][1, 4:8, 4:8].all()
