"""Images with their segment proposals, from which training targets are drawn (spec 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.mappers import MAPPER_REGISTRY, PeakImageMapper, wants_flips
from wsis.data.transforms import draw_flip
from wsis.layers.retrieval import prepare_proposals


@MAPPER_REGISTRY.register()
class FillingMapper(PeakImageMapper):
    """Whole images at their working size, half of them mirrored, with proposals of that size.

    Adds ``image``, ``image_labels`` where the data set has tags, and ``proposals``, a
    `wsis.layers.retrieval.PreparedProposals`.
    """

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        self.keys, self.flip = cfg.MODEL.IAM.SAMPLER, wants_flips(cfg) and self.is_train

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        found = super().model_inputs(dataset_dict, image)
        regions, size = found["proposals"], tuple(found["image"].shape[1:])
        if self.keys.PROPOSAL_COUNT:
            regions = regions[: self.keys.PROPOSAL_COUNT]
        # A mask that covers the whole file does not count, see prepare_proposals: before resizing.
        regions = regions[np.flatnonzero(regions.areas < regions.labels.size)]
        regions = regions.shrink_to(size) if self.keys.SHRINK else regions.resize(size)
        if self.flip and draw_flip():
            found["image"], regions = found["image"].flip(-1), regions.flip()
            if "points" in found:
                found["points"][:, 2] = 1 - found["points"][:, 2]
        width, limits = self.keys.CONTOUR_WIDTH, self.keys.SIZE_LIMITS
        prepared = prepare_proposals(regions, size, contour_width=width, size_limits=limits)
        return found | {"proposals": prepared}


@MAPPER_REGISTRY.register()
class PointFillingMapper(FillingMapper):
    """The same with ``points``, see `PeakImageMapper`."""

    supervision = "point"
