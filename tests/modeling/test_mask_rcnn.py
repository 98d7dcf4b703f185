"""Detectron2's Mask R-CNN on our backbones."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.instance_mapper import masks_to_annotations
from wsis.data.mappers import build_mapper
from wsis.engine.optimizer import build_optimizer


def tiny_cfg(backbone):
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [127.5] * 3
    cfg.INPUT.FORMAT, cfg.INPUT.MASK_FORMAT = "RGB", "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 16
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 1, 16
    cfg.SOLVER.BASE_LR = 1e-3
    return cfg


@pytest.fixture
def samples(tmp_path):
    """An image with two objects, and one without any."""
    found = []
    for index in range(2):
        path = tmp_path / f"{index}.png"
        pixels = np.random.default_rng(index).integers(0, 256, (48, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        masks = np.zeros((2, 48, 60), dtype=bool)
        masks[0, 5:25, 5:25] = masks[1, 20:45, 30:55] = index == 0
        sample = {"file_name": str(path), "image_id": index, "image_key": str(index)}
        sample |= {"height": 48, "width": 60, "image_labels": [0, 2] if index == 0 else []}
        found.append(sample | {"annotations": masks_to_annotations(masks, np.array([0, 2]))})
    return found


@pytest.mark.parametrize("backbone", ["build_wsis_resnet_fpn_backbone", "build_timm_fpn_backbone"])
def test_two_iterations_and_inference(samples, backbone):
    cfg = tiny_cfg(backbone)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    mapper = build_mapper(cfg, "InstanceMapper", is_train=True, products={})
    optimizer = build_optimizer(cfg, model)
    for _ in range(2):
        with EventStorage():
            losses = model([mapper(sample) for sample in samples])
        assert "loss_mask" in losses
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    model.eval()
    mapper = build_mapper(cfg, "InstanceMapper", is_train=False, products={})
    with torch.no_grad():
        found = model([mapper(sample) for sample in samples])
    assert [f["instances"].image_size for f in found] == [(48, 60)] * 2
