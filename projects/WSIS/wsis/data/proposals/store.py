"""Segment proposals of one image, and how an artifact keeps them.

R proposals, A atoms, H x W pixels; see `wsis.layers.regions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsis.data.images import MOST_PIXELS
from wsis.errors import DataError
from wsis.layers.regions import Regions

MAX_PROPOSALS = 1 << 16  # of one image; no method makes nearly as many
MAX_MEMBERSHIPS = 1 << 29  # proposals times atoms: bytes of a table; 2000 proposals have 1 << 25


@dataclass(frozen=True)
class Proposals:
    """Masks that may be objects, best first.

    Attributes:
        regions: R masks over the image.
        scores: (R,) float32, larger is better; only their order means anything. The proposals need
            not be sorted by them if a file has an order of its own.
    """

    regions: Regions
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.regions)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.regions.size

    def first(self, count: int) -> Proposals:
        """The first ``count`` proposals; all where ``count`` is 0 or more than there are."""
        if count <= 0 or count >= len(self):
            return self
        return Proposals(self.regions[:count], self.scores[:count])


def by_rank(regions: Regions) -> Proposals:
    """Proposals from a file with an order but no scores: scores fall evenly from 1 to 1 / R."""
    count = len(regions)
    scores = np.arange(count, 0, -1, dtype=np.float32) / max(count, 1)
    return Proposals(regions, scores)


def check_count(count: int) -> None:
    """Refuse (ValueError) a file that lists no proposals, or too many."""
    if count == 0:
        raise ValueError("it lists no proposals; make it again or leave the image out")
    if count > MAX_PROPOSALS:
        raise ValueError(f"it lists {count} proposals; {MAX_PROPOSALS} are the limit")


def check_size(what: str, size: tuple[int, ...], wanted: tuple[int, int] | None) -> None:
    """Refuse (ValueError, naming ``what``) a size that is no (H, W), absurd, or not ``wanted``."""
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"{what} is {tuple(size)}, which is no size of an image")
    if wanted is not None and tuple(size) != tuple(wanted):
        raise ValueError(f"{what} is {tuple(size)}, the image is {tuple(wanted)} (height, width)")


def proposals_artifact(proposals: Proposals) -> dict[str, np.ndarray]:
    """What an artifact keeps of proposals.

    Returns:
        ``labels`` (H, W), the atom of each pixel, in the smallest unsigned type; ``members``
        (R, ceil(A / 8)) uint8, a bit for each atom; ``num_atoms`` (1,) int64; ``scores`` (R,)
        float32.
    """
    regions = proposals.regions
    kind = np.min_scalar_type(max(regions.num_atoms - 1, 0))
    return {
        "labels": regions.labels.astype(kind),
        "members": np.packbits(regions.member_table(), axis=1),
        "num_atoms": np.array([regions.num_atoms], dtype=np.int64),
        "scores": proposals.scores.astype(np.float32),
    }


def proposals_from_artifact(
    arrays: Mapping[str, np.ndarray], *, size: tuple[int, int] | None = None
) -> Proposals:
    """The proposals in an artifact of an image of ``size`` (H, W), if that is known.

    Raises:
        ValueError: arrays are missing, or do not fit together or the image.
    """
    try:
        labels, members = arrays["labels"], arrays["members"]
        number, scores = int(arrays["num_atoms"].item()), arrays["scores"]
    except KeyError as error:
        raise ValueError(f"proposals without {error}") from None
    count = len(members) if members.ndim == 2 else -1
    if labels.dtype.kind not in "iu" or members.dtype != np.uint8:
        raise ValueError(f"proposals with labels {labels.dtype} and members {members.dtype}")
    if scores.shape != (count,) or scores.dtype.kind != "f":
        raise ValueError(f"proposals with members {members.shape} and scores {scores.shape}")
    check_size("labels", labels.shape, size)
    sound = 1 <= number <= labels.size and count * number <= MAX_MEMBERSHIPS
    if not sound or count > MAX_PROPOSALS or members.shape[1] != -(-number // 8):
        raise ValueError(f"proposals with members {members.shape} of {number} atoms")
    table = np.unpackbits(members, axis=1, count=number).view(bool)
    return Proposals(Regions.from_membership(labels, table), scores.astype(np.float32))


def proposals_of_image(
    arrays: Mapping[str, np.ndarray], key: str, *, size: tuple[int, int] | None
) -> Proposals:
    """`proposals_from_artifact`; a DataError names the image ``key`` and the next command."""
    try:
        return proposals_from_artifact(arrays, size=size)
    except ValueError as error:
        raise DataError(f"image {key}: {error}; run --from-stage proposals --force") from error
