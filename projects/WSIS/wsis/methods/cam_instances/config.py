"""Config keys of CAM instances; importing this module registers its stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.cam_instances import stages  # noqa: F401  (registers them)


def add_cam_instances_config(cfg: CfgNode) -> None:
    """Add ``MODEL.CAM_INSTANCES.*``, in place."""
    cfg.MODEL.CAM_INSTANCES = keys = CfgNode()
    # A pixel belongs to a tag where the tag's map, whose maximum is 1, is above this. 0: above
    # Otsu's threshold of each map, which needs no choice.
    keys.THRESHOLD = 0.0
    # Components below this share of the image are left out, except the largest of a tag.
    keys.MIN_AREA = 0.01
    # One mask for each tag, its largest component.
    keys.LARGEST_ONLY = False
