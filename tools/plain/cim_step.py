"""CIM's training step against the number of proposals, and what its mask-guided features cost."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from wsis.config import get_wsis_cfg
from wsis.layers.regions import Regions
from wsis.methods.cim.mappers import clip_boxes
from wsis.methods.cim.overlaps import overlaps_of_regions

from plain import Benchmark, register
from plain.cim import grouped_masks

SIDE = 480  # the smallest scale of training; the picture has 360 x 480 pixels


def sample(count: int) -> dict[str, Any]:
    """One image with ``count`` proposals of grouped superpixels, as the mapper gives it."""
    regions = Regions.from_masks(grouped_masks(count))
    scale = SIDE / max(regions.size)
    height, width = (round(side * scale) for side in regions.size)
    proposals = Instances((height, width))
    boxes = clip_boxes(regions.boxes, regions.size) * np.float32(scale)
    proposals.proposal_boxes = Boxes(torch.from_numpy(boxes))
    proposals.proposal_crops = torch.from_numpy(regions.crops(7))
    proposals.cluster_ids = torch.arange(count) % 7
    proposals.cluster_classes = torch.where(proposals.cluster_ids % 2 == 1, 3, 0)
    picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    found = {"image": picture, "proposals": proposals, "image_labels": [2, 7, 14]}
    return found | {"overlaps": overlaps_of_regions(regions)}


def build_step(count: int, *, masks: bool = True, chunk: int = 0) -> Any:
    """A function that runs forward and backward once, VGG-16 at its full width."""
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "CIM", "CIMROIHeads"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_timm_backbone", 1
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUTPUT_STRIDE = "vgg16", 8
    cfg.MODEL.TIMM.OUT_FEATURES, cfg.MODEL.CIM.IN_FEATURE = ["res4"], "res4"
    cfg.MODEL.CIM.MASK_GUIDED, cfg.MODEL.CIM.PROPOSAL_CHUNK = masks, chunk
    torch.manual_seed(0)
    model, batch = build_model(cfg).train(), [sample(count)]

    def step() -> None:
        model.zero_grad()
        sum(model(batch).values()).backward()

    return step


def build(count: int, *, chunk: int = 0, note: str = "all at once", **plain: Any) -> Benchmark:
    """The whole step in chunks of ``chunk``; ``plain``: what the plain way has otherwise."""
    return Benchmark(
        ours=build_step(count, chunk=chunk),
        plain=build_step(count, **plain) if plain else None,
        note=note,
    )


UNMASKED = "plain: no mask-guided features; the ratio is what is left of its speed"
IN_CHUNKS = "MODEL.CIM.PROPOSAL_CHUNK 100 against all at once: the same losses, less memory"
for number in (100, 250, 500):
    register(f"cim_step/{number}", partial(build, number, masks=False, note=UNMASKED))
for number in (1000, 2000):  # by themselves, which takes long enough
    register(f"cim_step/{number}", partial(build, number))
register("cim_step_chunks/300", partial(build, 300, chunk=100, masks=True, note=IN_CHUNKS))
