"""Images with their segment proposals, ready to be sampled from (`methods/iam.md` 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable

from wsis.data.artifacts import ProductReader
from wsis.data.mapper_base import MAPPER_REGISTRY
from wsis.data.peak_mapper import PeakImageMapper
from wsis.data.transforms import draw_flip
from wsis.errors import UsageError
from wsis.layers.retrieval import prepare_proposals


@MAPPER_REGISTRY.register()
class FillingMapper:
    """Whole images at their working size, half of them mirrored, with proposals of that size.

    Adds ``image``, ``image_labels`` where the data set has tags, and ``proposals``, a
    `wsis.layers.retrieval.PreparedProposals`.

    Args:
        images: gives the image, its tags and its proposals.
        flip: flip half of the images.
        count: so many proposals are looked at; 0 for all.
        shrink: lose the soft border of resized masks, as simple-IAM.
        contour_width: see `wsis.layers.retrieval.prepare_proposals`.
        size_limits: likewise.
    """

    @configurable
    def __init__(
        self,
        *,
        images: PeakImageMapper,
        flip: bool,
        count: int = 100,
        shrink: bool = False,
        contour_width: int = 5,
        size_limits: tuple[float, float] = (0.00002, 0.85),
    ) -> None:
        self.images = images
        self.flip = flip
        self.count = count
        self.shrink = shrink
        self.preparation = {"contour_width": contour_width, "size_limits": size_limits}

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, is_train: bool, products: Mapping[str, ProductReader]
    ) -> dict[str, Any]:
        """Arguments from ``INPUT`` and ``MODEL.IAM.SAMPLER``."""
        if cfg.INPUT.RANDOM_FLIP not in ("horizontal", "none"):
            raise UsageError(f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP!r}: use horizontal or none")
        keys = cfg.MODEL.IAM.SAMPLER
        return {
            "images": PeakImageMapper(cfg, is_train=is_train, products=products),
            "flip": is_train and cfg.INPUT.RANDOM_FLIP == "horizontal",
            "count": keys.PROPOSAL_COUNT,
            "shrink": keys.SHRINK,
            "contour_width": keys.CONTOUR_WIDTH,
            "size_limits": tuple(keys.SIZE_LIMITS),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        output = self.images(dataset_dict)
        regions, size = output["proposals"], tuple(output["image"].shape[1:])
        if self.count:
            regions = regions[: self.count]
        # A mask of the whole image is none before it is resized, see prepare_proposals.
        regions = regions[np.flatnonzero(regions.areas < regions.labels.size)]
        regions = regions.shrink_to(size) if self.shrink else regions.resize(size)
        if self.flip and draw_flip():
            output["image"], regions = output["image"].flip(-1), regions.flip()
        output["proposals"] = prepare_proposals(regions, size, **self.preparation)
        return output
