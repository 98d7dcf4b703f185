"""What several golden tests of CIM need."""

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from wsis.config import get_wsis_cfg
from wsis.data.mappers import build_mapper
from wsis.methods.cim.convert import convert_cim
from wsis.methods.cim.heads import MaskGuidedHead, ScoreHead
from wsis.methods.cim.mining import Assignment
from wsis.methods.cim.overlaps import Overlaps
from wsis.methods.cim.roi_heads import CIMROIHeads

from tests.golden import fill


def mapper_of(sides, *, is_train=True, crop_size=7, **products):
    """The mapper of CIM with these lengths of the longer side, and mirrored views."""
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT, cfg.MODEL.CIM.CROP_SIZE = "RGB", crop_size
    cfg.INPUT.LONGER_SIDES_TRAIN = cfg.INPUT.LONGER_SIDES_TEST = sides
    cfg.INPUT.FLIP_TEST = True
    return build_mapper(cfg, "ProposalBagMapper", is_train=is_train, products=products)


def masks_of(arrays, prefix=""):
    height, width = (int(side) for side in arrays[f"{prefix}hw"])
    packed = np.unpackbits(arrays[f"{prefix}masks_packed"], axis=1)[:, : height * width]
    return packed.reshape(-1, height, width).astype(bool)


def overlaps_of(arrays):
    iou, containment = (torch.from_numpy(arrays[name]) for name in ("iou", "asy_iou"))
    return Overlaps(iou, containment)


def assignment_of(labels, integrity, weights):
    """`Assignment` of a golden file's label rows, targets and weights."""
    labels = torch.from_numpy(labels)
    ids = torch.where(labels.any(dim=1), labels.argmax(dim=1), -1)
    return Assignment(ids, torch.from_numpy(weights), torch.from_numpy(integrity) > 0)


def clusters_of(matrix):
    """Cluster ids (N,) and classes (N,), 0 background, of a matrix (N, C + 1) of the original."""
    matrix = torch.from_numpy(matrix)
    return matrix.amax(dim=1).long(), matrix.argmax(dim=1)


def instances_of(size, boxes, crops, matrix=None):
    found = Instances(size)
    found.proposal_boxes = Boxes(torch.from_numpy(np.array(boxes, dtype=np.float32)))
    found.proposal_crops = torch.from_numpy(np.array(crops)).bool()
    if matrix is not None:
        found.cluster_ids, found.cluster_classes = clusters_of(matrix)
    return found


def heads_of(shapes, shape: ShapeSpec):
    """`CIMROIHeads` of the sizes in a file's ``state_shapes``."""
    dim, flat = shapes["Box_Head.seg_fc.0.weight"]
    width = shapes["cls_iou_model.classifier.weight"][0]
    branches = sum(k.startswith("cls_iou_model.refine_cls.") for k in shapes) // 2
    resolution = round((flat / shape.channels) ** 0.5)
    return CIMROIHeads(
        pooler=ROIPooler(resolution, (1 / shape.stride,), 0, "ROIAlignV2"),
        head=MaskGuidedHead(shape.channels, resolution, dim),
        scorer=ScoreHead(dim, width - 1, num_branches=branches),
    ).eval()


def weights_of(golden, arrays):
    """The original's state dict; a multiplier holds for every floating entry that contains it."""
    names = golden.text(arrays["state_shapes"])
    state = fill.state_dict(names, golden.prefix)
    for part, factor in golden.text(arrays["multipliers"]).items():
        for name, value in state.items():
            if part in name and value.is_floating_point():
                value *= factor
    return state


def network_of(golden, arrays):
    """`CIM` with a file's weights, on the backbone that their names tell; in eval mode."""
    shapes = golden.text(arrays["state_shapes"])
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "meta"  # no memory for initial values
    cfg.MODEL.META_ARCHITECTURE = "CIM"
    cfg.MODEL.ROI_HEADS.NAME = "CIMROIHeads"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.CIM.HEAD_DIM = shapes["Box_Head.seg_fc.0.weight"][0]
    cfg.MODEL.CIM.NUM_CLASSES = shapes["cls_iou_model.classifier.weight"][0] - 1
    if "Conv_Body.res1.0.weight" in shapes:
        cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
        cfg.MODEL.RESNETS.NORM = "RunningStatsBN"
        cfg.MODEL.RESNETS.OUT_FEATURES = [cfg.MODEL.CIM.IN_FEATURE]
    else:
        cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
        cfg.MODEL.BACKBONE.FREEZE_AT = 1
        cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUTPUT_STRIDE = "vgg16", 8
        cfg.MODEL.TIMM.OUT_FEATURES, cfg.MODEL.CIM.IN_FEATURE = ["res4"], "res4"
    with torch.device("meta"):
        model = build_model(cfg)
    state = convert_cim(weights_of(golden, arrays))
    found = model.load_state_dict(state, strict=False, assign=True)
    assert not found.unexpected_keys
    assert all(name.startswith("backbone.res5.") for name in found.missing_keys), found
    model.pixel_mean, model.pixel_std = (
        torch.tensor(value).view(-1, 1, 1) for value in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    return model.eval()


def original_names(model, shapes):
    """Trainable parameters of a model by the names that the original gives them."""
    theirs = {name: original for original, name in names_of(shapes).items()}
    return {theirs[name]: p for name, p in model.named_parameters() if p.requires_grad}


def names_of(shapes):
    """Original name to ours, of every entry of a state dict that has one."""
    tagged = {name: torch.tensor(place) for place, name in enumerate(shapes)}
    originals = list(shapes)
    return {originals[int(tag)]: name for name, tag in convert_cim(tagged).items()}
