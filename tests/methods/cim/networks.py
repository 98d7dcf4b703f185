"""A small CIM and samples for it."""

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from wsis.layers.regions import Regions
from wsis.methods.cim.mappers import clip_boxes, flip_boxes
from wsis.methods.cim.overlaps import overlaps_of_regions

from tests.modeling.test_image_classifier import image, tiny_camnet_cfg


def tiny_cim_cfg():
    cfg = tiny_camnet_cfg()
    cfg.MODEL.META_ARCHITECTURE = "CIM"
    cfg.MODEL.ROI_HEADS.NAME = "CIMROIHeads"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.CIM.IN_FEATURE = "res3"
    cfg.MODEL.CIM.HEAD_DIM = 32
    cfg.MODEL.CIM.CROP_SIZE = 3
    cfg.MODEL.CIM.NUM_CLASSES = 3
    return cfg


def boxes_as_masks(count, size, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks:
        y0, x0 = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        mask[y0 : y0 + rng.integers(4, size[0]), x0 : x0 + rng.integers(4, size[1])] = True
    return masks


def proposals_of(regions, crop_size=3):
    found = Instances(regions.size)
    boxes = clip_boxes(regions.boxes, regions.size)
    found.proposal_boxes = Boxes(torch.from_numpy(boxes))
    found.proposal_crops = torch.from_numpy(regions.crops(crop_size))
    count = len(regions)
    found.cluster_ids = torch.arange(count) % 3
    found.cluster_classes = torch.where(found.cluster_ids == 1, 2, 0)
    return found


def training_sample(height, width, labels, *, count=12, seed=0):
    regions = Regions.from_masks(boxes_as_masks(count, (height, width), seed))
    return {
        "image": image(height, width, seed),
        "image_labels": labels,
        "proposals": proposals_of(regions),
        "overlaps": overlaps_of_regions(regions),
    }


def serving_sample(height, width, labels=None, *, count=12, seed=0):
    regions = Regions.from_masks(boxes_as_masks(count, (height, width), seed))
    picture = image(height, width, seed)
    found, mirrored = proposals_of(regions), proposals_of(regions)
    boxes = flip_boxes(found.proposal_boxes.tensor.numpy(), width)
    mirrored.proposal_boxes = Boxes(torch.from_numpy(boxes))
    mirrored.proposal_crops = found.proposal_crops.flip(2)
    sample = {
        "views": [(picture, found), (picture.flip(2), mirrored)],
        "height": height,
        "width": width,
        "proposals": found,
        "regions": regions,
    }
    return sample if labels is None else sample | {"image_labels": labels}
