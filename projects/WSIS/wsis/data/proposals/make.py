"""Proposals of an image of a data set: generated from its pixels, or read from files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsis.data.images import read_dataset_image, read_image_size
from wsis.data.proposals.formats import FORMATS, GENERATE
from wsis.data.proposals.readers import find_proposals, read_proposals
from wsis.data.proposals.store import Proposals, proposals_artifact
from wsis.errors import UsageError
from wsis.layers.segment_proposals import ProposalSettings, propose_segments


@dataclass(frozen=True, kw_only=True)
class ProposalSource:
    """Where proposals come from; called with a dataset dict it returns the artifact of an image.

    Attributes:
        kind: "generate", or a format of `wsis.data.proposals.formats.FORMATS`.
        root: folder of the files; not used by "generate".
        settings: of the generator; its ``max_count`` holds for files too.
    """

    kind: str = GENERATE
    root: str | os.PathLike[str] = ""
    settings: ProposalSettings = field(default_factory=ProposalSettings)

    def __post_init__(self) -> None:
        if self.kind not in (GENERATE, *FORMATS):
            raise UsageError(
                f"WSIS.PROPOSALS.FORMAT is {self.kind!r}; "
                f"it must be one of {', '.join((GENERATE, *FORMATS))}"
            )
        if self.kind != GENERATE and not os.path.isdir(self.root):
            raise UsageError(
                f"WSIS.PROPOSALS.ROOT is {str(self.root)!r}, which is no folder; name the folder "
                f"of the proposal files or set WSIS.PROPOSALS.FORMAT {GENERATE}"
            )

    def proposals(self, dataset_dict: dict[str, Any]) -> Proposals:
        """The proposals of an image.

        Raises:
            DataError: the image or the proposal file is missing, damaged or of another size.
        """
        if self.kind == GENERATE:
            image = read_dataset_image(dataset_dict)
            return Proposals(*propose_segments(image, settings=self.settings))
        name = dataset_dict["file_name"]
        path = find_proposals(self.root, dataset_dict["image_key"], kind=self.kind, file_name=name)
        known = "height" in dataset_dict and "width" in dataset_dict
        size = (dataset_dict["height"], dataset_dict["width"]) if known else read_image_size(name)
        return read_proposals(path, kind=self.kind, size=size, max_count=self.settings.max_count)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, np.ndarray]:
        """The artifact: see `wsis.data.proposals.store.proposals_artifact`."""
        return proposals_artifact(self.proposals(dataset_dict))
