"""Proposals of an image: generated from its pixels, or read from files of any format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.artifacts import check_key, read_artifact
from wsis.data.images import read_dataset_image, read_image_size
from wsis.data.proposals import FORMATS, GENERATE
from wsis.data.proposals.json_files import read_json_proposals
from wsis.data.proposals.mat import read_mat
from wsis.data.proposals.store import Proposals, proposals_artifact, proposals_from_artifact
from wsis.data.working_size import file_size
from wsis.errors import DataError, UsageError, known_words
from wsis.layers.segment_proposals import ProposalSettings, propose_segments

# Beginnings that the names of a collection's files may have before the image key.
_PREFIXES = ("", "COCO_train2014_", "COCO_val2014_")

_MAX_NPZ_BYTES = 1 << 30


def _read_npz(path: Path, *, size: tuple[int, int] | None, count: int) -> Proposals:
    return proposals_from_artifact(read_artifact(path, limit=_MAX_NPZ_BYTES), size=size).first(
        count
    )


_READERS: dict[str, dict[str, Callable[..., Proposals]]] = {  # by kind and suffix
    "auto": {".npz": _read_npz, ".mat": read_mat, ".json": read_json_proposals},
    "npz": {".npz": _read_npz},
    "mat": {".mat": read_mat},
    "prm": {".json": partial(read_json_proposals, kind="prm")},
    "rle": {".json": partial(read_json_proposals, kind="rle")},
}


def _readers(kind: str) -> dict[str, Callable[..., Proposals]]:
    if kind not in _READERS:
        known = known_words(kind, FORMATS)
        raise UsageError(f"there is no proposal format {kind!r}; known are {known}")
    return _READERS[kind]


def read_proposals(
    path: str | os.PathLike[str],
    *,
    kind: str = "auto",
    size: tuple[int, int] | None = None,
    max_count: int = 0,
) -> Proposals:
    """Read the proposals of one image.

    Args:
        path: a file of one of the formats below.
        kind: "npz" (this toolbox's own), "mat" (MCG, COB, CIM's mask stacks), "prm" (JSON of PRM's
            demo), "rle" (JSON list of COCO RLEs, or Segment Anything's file), or "auto", by suffix
            and content.
        size: (H, W) of the image; a file of another size is refused.
        max_count: only the first (with scores in a list of RLEs: the best) so many; 0 takes all.

    Returns:
        At least one proposal, best first.

    Raises:
        UsageError: no such format.
        DataError: missing, damaged, empty, of unknown suffix or of another size; nothing is
            allocated for masks before these checks.
    """
    path, readers = Path(path), _readers(kind)
    reader = readers.get(path.suffix.lower()) if kind == "auto" else next(iter(readers.values()))
    if reader is None:
        raise DataError(
            f"{path} has no known suffix ({', '.join(readers)}); set WSIS.PROPOSALS.FORMAT"
        )
    if not path.is_file():
        raise DataError(f"proposals {path} do not exist; set WSIS.PROPOSALS.ROOT to their folder")
    try:
        return reader(path, size=size, count=max_count)
    except DataError:
        raise
    except (ValueError, TypeError, IndexError) as error:  # MATLAB files nest anything
        raise DataError(f"{path}: {error}") from error


def find_proposals(
    root: str | os.PathLike[str], image_key: str, *, kind: str = "auto", file_name: str = ""
) -> Path:
    """The proposal file of an image in a folder.

    It is called as the image's key, perhaps with COCO 2014's prefix before, or as the image's file;
    ``kind``, as of `read_proposals`, decides which suffixes are looked for.

    Raises:
        UsageError: no such format.
        DataError: no such file; names the first that was looked for.
    """
    suffixes = tuple(_readers(kind))
    stems = dict.fromkeys([check_key(image_key), *([Path(file_name).stem] if file_name else [])])
    looked = [
        Path(root) / f"{prefix}{stem}{suffix}"
        for stem in stems
        for prefix in _PREFIXES
        for suffix in suffixes
    ]
    for path in looked:
        if path.is_file():
            return path
    raise DataError(
        f"no proposals for image {image_key} in {root} (looked for {looked[0].name} and "
        f"{len(looked) - 1} other names); see WSIS.PROPOSALS.ROOT and FORMAT"
    )


@dataclass(frozen=True, kw_only=True)
class ProposalSource:
    """Where proposals come from; called with a dataset dict it returns the artifact of an image.

    Attributes:
        kind: "generate", or a format of `wsis.data.proposals.FORMATS`.
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

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, np.ndarray]:
        """The artifact of an image: see `wsis.data.proposals.store.proposals_artifact`.

        Raises:
            DataError: the image or the proposal file is missing, damaged or of another size.
        """
        if self.kind == GENERATE:
            image = read_dataset_image(dataset_dict)
            return proposals_artifact(Proposals(*propose_segments(image, settings=self.settings)))
        name, key = dataset_dict["file_name"], dataset_dict["image_key"]
        path = find_proposals(self.root, key, kind=self.kind, file_name=name)
        known = "height" in dataset_dict and "width" in dataset_dict
        size = file_size(dataset_dict) if known else read_image_size(name)
        count = self.settings.max_count
        found = read_proposals(path, kind=self.kind, size=size, max_count=count)
        if "file_size" in dataset_dict:
            regions = found.regions.resize((dataset_dict["height"], dataset_dict["width"]))
            found = Proposals(regions, found.scores)
        return proposals_artifact(found)
