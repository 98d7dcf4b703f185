"""Masks of given boxes by a trained Mask R-CNN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from wsis.data.mappers import build_mapper
from wsis.errors import DataError
from wsis.methods.boxinst.stages import boxed_images, given_box_artifact

from tests.methods.boxinst.test_roi_heads import cfg_of
from tests.modeling.test_image_classifier import image

BOXES = [[3.0, 4.0, 20.5, 30.0], [0.0, 0.0, 60.0, 48.0], [30.0, 10.0, 41.0, 45.0]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model(cfg_of(MODEL__META_ARCHITECTURE="GivenBoxRCNN")).eval()
    torch.nn.init.constant_(model.roi_heads.mask_head.predictor.bias, 9.0)  # 1 everywhere
    return model


def sample(boxes, size=(48, 60)):
    """An image of 64 x 80 pixels of a picture of ``size``, in which the boxes are."""
    proposals = Instances(size)
    proposals.proposal_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    proposals.gt_classes = torch.arange(len(boxes)) % 3
    return {"image": image(64, 80), "height": size[0], "width": size[1], "proposals": proposals}


@torch.no_grad()
def test_every_box_has_its_mask(model):
    (found,) = model([sample(BOXES)])
    instances = found["instances"]
    assert instances.image_size == (48, 60)
    assert instances.pred_boxes.tensor.tolist() == BOXES
    assert instances.pred_classes.tolist() == [0, 1, 2]
    assert (instances.pred_masks.dtype, instances.pred_masks.shape) == (torch.bool, (3, 48, 60))
    assert ((instances.scores > 0.5) & (instances.scores <= 1)).all()
    for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, BOXES, strict=True):
        inside = torch.zeros(48, 60, dtype=torch.bool)
        inside[int(y0) : int(y1), int(x0) : int(x1)] = True
        assert torch.equal(mask, inside)
    kept = given_box_artifact(found)
    assert kept["boxes"].tolist() == [[3, 4, 21, 30], [0, 0, 60, 48], [30, 10, 41, 45]]
    assert {name: array.dtype for name, array in kept.items()} == {
        "boxes": np.int64,
        "classes": np.int64,
        "scores": np.float32,
        "masks": bool,
    }


@torch.no_grad()
def test_order_and_company_change_nothing(model):
    (alone,) = model([sample(BOXES[2:])])
    first, second = model([sample([]), sample(BOXES)])
    assert len(first["instances"]) == 0
    assert first["instances"].pred_masks.shape == (0, 48, 60)
    kept = alone["instances"], second["instances"][2:]
    assert torch.equal(*(found.pred_masks for found in kept))


@torch.no_grad()
def test_an_empty_mask_scores_nothing(model):
    torch.nn.init.constant_(model.roi_heads.mask_head.predictor.bias, -9.0)
    found = model([sample(BOXES)])[0]["instances"]
    assert not found.pred_masks.any()
    assert found.scores.tolist() == [0, 0, 0]


def record(path, *boxes, **more):
    annotations = [
        {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 0} | more
        for box in boxes
    ]
    size = {"height": 48, "width": 60, "image_id": 1, "image_key": "1"}
    return size | {"file_name": str(path), "annotations": annotations}


def test_the_mapper_gives_all_boxes_and_no_mask(tmp_path):
    path = tmp_path / "1.png"
    Image.fromarray(np.zeros((48, 60, 3), dtype=np.uint8)).save(path)
    given = record(path, [3.5, 4, 20, 30.25], [10, 5, 10, 9], segmentation=[[1, 2, 3, 4, 5, 6]])
    given["annotations"].append(record(path, [0, 0, 60, 48], iscrowd=1)["annotations"][0])
    mapper = build_mapper(cfg_of(), "GivenBoxMapper", is_train=False, products={})
    found = mapper(given)
    assert found["image"].shape == (3, 64, 80)
    assert found.keys() == {
        *("image", "proposals", "image_id", "image_key", "file_name", "height", "width")
    }
    # the flat box of COCO in whole pixels
    assert found["proposals"].proposal_boxes.tensor.tolist() == [
        [3.5, 4, 20, 30.25],
        [10, 5, 11, 9],
    ]
    assert found["proposals"].gt_classes.tolist() == [1, 1]


def test_images_without_a_box_are_left_out():
    cfg = cfg_of()
    boxed, crowd = record("1.png", [1, 2, 3, 4]), record("2.png", [1, 2, 3, 4], iscrowd=1)
    empty = record("3.png")
    found, order = boxed_images([boxed, crowd, empty], cfg)
    assert ([*found], order) == ([boxed], None)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    found, order = boxed_images([boxed, crowd, empty], cfg)
    assert ([*found], order) == ([boxed, crowd, empty], None)
    with pytest.raises(DataError, match="no box to train on"):
        boxed_images([crowd, empty], cfg)
