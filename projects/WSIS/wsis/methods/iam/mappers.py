"""Images with their segment proposals, ready to be sampled from (`methods/iam.md` 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.mappers import PeakImageMapper, Products, register_mapper, wants_flips
from wsis.data.transforms import draw_flip
from wsis.layers.retrieval import prepare_proposals
from wsis.modeling.network import options_of


@register_mapper
class FillingMapper(PeakImageMapper):
    """Whole images at their working size, half of them mirrored, with proposals of that size.

    Adds ``image``, ``image_labels`` where the data set has tags, and ``proposals``, a
    `wsis.layers.retrieval.PreparedProposals`.

    Its options are the keys of ``MODEL.IAM.SAMPLER``, in lower case, and these.

    Attributes:
        flip: flip half of the images.
    """

    flip: bool
    proposal_count: int = 100
    shrink: bool = False
    contour_width: int = 5
    size_limits: tuple[float, float] = (0.00002, 0.85)

    @classmethod
    def from_config(cls, cfg: CfgNode, *, is_train: bool, products: Products) -> dict[str, Any]:
        """Arguments from ``INPUT`` and ``MODEL.IAM.SAMPLER``."""
        keys = cfg.MODEL.IAM.SAMPLER
        shared = super().from_config(cfg, is_train=is_train, products=products)
        return shared | options_of(cls, keys) | {"flip": wants_flips(cfg) and is_train}

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        found = super().model_inputs(dataset_dict, image)
        regions, size = found["proposals"], tuple(found["image"].shape[1:])
        if self.proposal_count:
            regions = regions[: self.proposal_count]
        # A mask of the whole image is none before it is resized, see prepare_proposals.
        regions = regions[np.flatnonzero(regions.areas < regions.labels.size)]
        regions = regions.shrink_to(size) if self.shrink else regions.resize(size)
        if self.flip and draw_flip():
            found["image"], regions = found["image"].flip(-1), regions.flip()
        prepared = prepare_proposals(
            regions, size, contour_width=self.contour_width, size_limits=self.size_limits
        )
        return found | {"proposals": prepared}
