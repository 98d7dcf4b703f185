"""Images with segment proposals that are ready for the retrieval (spec 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode

from wsis.data.mappers import MAPPER_REGISTRY, PeakImageMapper
from wsis.errors import UsageError
from wsis.layers.retrieval import prepare_proposals


@MAPPER_REGISTRY.register()
class RetrievalMapper(PeakImageMapper):
    """Adds ``prepared``, a `wsis.layers.retrieval.PreparedProposals` at the size of ``image``.

    So the greater half of a retrieval is done by data-loading processes, beside the network: 18 of
    31 ms an image on one core.
    """

    def __init__(self, cfg: CfgNode, **context: Any) -> None:
        super().__init__(cfg, **context)
        keys = cfg.MODEL.PRM
        self.count = keys.PROPOSAL_COUNT or None
        self.options = {"contour_width": keys.CONTOUR_WIDTH, "size_limits": keys.SIZE_LIMITS}
        if keys.CONTOUR_WIDTH < 1:
            raise UsageError(
                f"MODEL.PRM.CONTOUR_WIDTH is {keys.CONTOUR_WIDTH}; it must be 1 or more"
            )

    def model_inputs(self, dataset_dict: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """See the class."""
        found = super().model_inputs(dataset_dict, image)
        size, regions = tuple(found["image"].shape[1:]), found["proposals"][: self.count]
        return found | {"prepared": prepare_proposals(regions, size, **self.options)}


@MAPPER_REGISTRY.register()
class PointRetrievalMapper(RetrievalMapper):
    """The same with ``points``, see `PeakImageMapper`."""

    supervision = "point"
