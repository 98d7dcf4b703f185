"""Config keys of prompted masks; importing this module registers its stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.prompted_masks import stages  # noqa: F401  (registers them)


def add_prompted_masks_config(cfg: CfgNode) -> None:
    """Add ``MODEL.PROMPTED_MASKS.*``, in place."""
    cfg.MODEL.PROMPTED_MASKS = keys = CfgNode()
    # The Segment Anything model: a folder that transformers has saved, or a name on the hub
    # ("facebook/sam-vit-base") that was downloaded before (docs/methods/prompted_masks.md).
    keys.MODEL = "datasets/weights/sam-vit-base"
    # What the prompts are: "boxes", "points" or "peaks". The stages set it.
    keys.PROMPTS = "boxes"
    # Prompts that go through the mask decoder together: memory grows with it.
    keys.PROMPTS_AT_ONCE = 16
    # Of peaks: a mask whose IoU with a better one reaches this is dropped, since an object may have
    # several peaks; above 1: never.
    keys.NMS_THRESHOLD = 0.5
