"""Whole images for peak response maps, with their segment proposals (`methods/prm.md` 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable

from wsis.data.artifacts import ProductReader
from wsis.data.mapper_base import (
    MAPPER_REGISTRY,
    base_output,
    image_format_of,
    read_model_image,
    to_tensor,
)
from wsis.data.proposals.store import proposals_from_artifact
from wsis.data.supervision import restrict_supervision
from wsis.data.transforms import Sizing
from wsis.errors import DataError


@MAPPER_REGISTRY.register()
class PeakImageMapper:
    """Images at their working size: ``image``, and ``image_labels`` where the data set has tags.

    Where the stage consumes segment proposals, also ``proposals``, a `wsis.layers.regions.Regions`
    at the size of the file, best first.

    Args:
        image_format: channel order.
        sizing: of whole images.
        proposals: reader of the proposals; None for none.
    """

    @configurable
    def __init__(
        self,
        *,
        image_format: str,
        sizing: Sizing,
        proposals: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        self.image_format = image_format
        self.sizing = sizing
        self.proposals = proposals

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, is_train: bool, products: Mapping[str, ProductReader]
    ) -> dict[str, Any]:
        """Arguments from ``INPUT``."""
        return {
            "image_format": image_format_of(cfg),
            "sizing": Sizing.from_config(cfg),
            "proposals": products.get("proposals"),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = restrict_supervision(dataset_dict, "image")
        image = read_model_image(dataset_dict, self.image_format)
        output = base_output(dataset_dict, image)
        if "image_labels" in dataset_dict:
            output["image_labels"] = list(dataset_dict["image_labels"])
        if self.proposals is not None:
            key = dataset_dict["image_key"]
            try:
                found = proposals_from_artifact(self.proposals[key], size=image.shape[:2])
            except ValueError as error:
                raise DataError(
                    f"image {key}: {error}; run --from-stage proposals --force"
                ) from error
            output["proposals"] = found.regions
        return output | {"image": to_tensor(self.sizing.apply(image))}
