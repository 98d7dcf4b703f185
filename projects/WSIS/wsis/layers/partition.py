"""The largest parts of an image that no mask divides (atoms), found from the masks' runs."""

from __future__ import annotations

import numpy as np

MAX_MEMBERSHIPS = 1 << 28  # a GiB of them; 2000 proposals of a photograph have some millions
MAX_STEPS = 1 << 33  # regions times pieces of the image: ten seconds


def segments(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximal runs of equal values of a flat array: (S + 1,) bounds and (S,) values."""
    inner = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    cuts = np.concatenate([[0], inner, [len(flat)]])
    return cuts, flat[cuts[:-1]]


def check_runs(
    first: np.ndarray, stop: np.ndarray, owners: np.ndarray, count: int, total: int
) -> None:
    """Refuse runs outside the image, overlapping or out of order (ValueError)."""
    if len(first) == 0:
        return
    if first.min() < 0 or stop.max() > total:
        raise ValueError(f"runs reach from {first.min()} to {stop.max()} of {total} pixels")
    if owners.min() < 0 or owners.max() >= count or (np.diff(owners) < 0).any():
        raise ValueError(f"runs must belong to regions 0 to {count - 1} in order")
    if ((first[1:] < stop[:-1]) & (owners[1:] == owners[:-1])).any():
        raise ValueError("runs of a region overlap or do not ascend")


def partition(
    first: np.ndarray, stop: np.ndarray, owners: np.ndarray, count: int, total: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Divide ``total`` pixels into atoms: pixels that belong to the same regions form one.

    Run t covers pixels ``first[t]`` to ``stop[t]`` (exclusive) of region ``owners[t]``; owners
    ascend. All are (T,) int64; there are R = ``count`` regions.

    Each region gets a random 64-bit number; pixels with the same sum of numbers belong to the same
    regions. Two sums could be equal by chance: then the areas are wrong, and other numbers are
    drawn. Raises ValueError where that would take absurdly long.

    Returns:
        labels (total,) int32, the atom of each pixel; starts (R + 1,) int64 and atoms (M,) int32,
        the atoms of each region (see `wsis.layers.regions.Regions`); the number of atoms.
    """
    cut = np.zeros(total + 1, dtype=bool)
    cut[0] = cut[first] = cut[stop] = cut[total] = True
    cuts = np.flatnonzero(cut)
    place = np.cumsum(cut) - 1  # of a position among the cuts
    begin, end = place[first], place[stop]
    lengths = np.diff(cuts)
    if count * len(lengths) > MAX_STEPS:
        raise ValueError(
            f"{count} regions cut the image into {len(lengths)} pieces; use fewer regions"
        )
    areas = np.bincount(owners, weights=stop - first, minlength=count).astype(np.int64)
    bounds = np.searchsorted(owners, np.arange(count + 1))
    for attempt in range(8):
        generator = np.random.default_rng(attempt)
        numbers = generator.integers(0, 1 << 64, size=count, dtype=np.uint64)
        change = np.zeros(len(cuts), dtype=np.uint64)
        np.add.at(change, begin, numbers[owners])
        np.subtract.at(change, end, numbers[owners])
        _, example, atom = np.unique(
            np.cumsum(change[:-1], dtype=np.uint64), return_index=True, return_inverse=True
        )
        order = np.argsort(example)  # atoms in the order of their first pixel
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        atom, example = rank[atom], example[order]
        starts, atoms = _members(begin, end, bounds, example, len(lengths))
        sizes = np.bincount(atom, weights=lengths, minlength=len(order)).astype(np.int64)
        found = np.zeros(count, dtype=np.int64)
        filled = np.flatnonzero(np.diff(starts))
        if len(filled):
            found[filled] = np.add.reduceat(sizes[atoms], starts[filled])
        if np.array_equal(found, areas):
            return np.repeat(atom.astype(np.int32), lengths), starts, atoms, len(order)
    raise AssertionError("eight draws of random numbers collided")


def _members(
    begin: np.ndarray, end: np.ndarray, bounds: np.ndarray, example: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which atoms (one example segment each) the runs ``bounds[r]:bounds[r + 1]`` cover."""
    lists, lengths, total = [np.zeros(0, dtype=np.int32)], [0], 0
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        change = np.zeros(count + 1, dtype=np.int8)
        change[begin[low:high]] += 1
        change[end[low:high]] -= 1  # a run may end where the next one begins
        inside = np.cumsum(change, dtype=np.int8)[example]
        lists.append(np.flatnonzero(inside).astype(np.int32))
        lengths.append(len(lists[-1]))
        total += lengths[-1]
        if total > MAX_MEMBERSHIPS:
            raise ValueError(
                f"the first {len(lengths) - 1} of {len(bounds) - 1} regions cover more than "
                f"{MAX_MEMBERSHIPS} atoms together; use fewer regions"
            )
    return np.cumsum(lengths).astype(np.int64), np.concatenate(lists)
