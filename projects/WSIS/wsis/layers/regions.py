"""Many masks of one image, kept as a partition of the image and as lists of its parts.

R regions over an image of H x W pixels. An *atom* is a set of pixels that no region divides: a
region has all of it or nothing. Each pixel has an atom number 0..A-1. A region is a list of atom
numbers. So 2000 proposals of a photograph take a few MiB, and overlaps, sums over masks and
resizing work on atoms, not on pixels. Everything here is exact: the masks that went in come out
again.

Boxes are (x0, y0, x1, y1) with x1 and y1 exclusive, sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from wsis.layers.partition import check_runs, partition, segments

if TYPE_CHECKING:
    from scipy import sparse


def nearest_indices(length: int, target: int) -> np.ndarray:
    """Source index of each of ``target`` cells when Pillow resizes ``length`` cells with NEAREST.

    (target,) int64 in [0, length). Pillow starts at half a step, adds a step for each cell, in
    double precision, and truncates. The formula ``(i + 0.5) * step`` rounds differently at exact
    ties, which many sizes have.

    Raises:
        ValueError: a length below 1.
    """
    if length < 1 or target < 1:
        raise ValueError(f"cannot resize {length} to {target} cells")
    steps = np.full(target, length / target)
    steps[0] *= 0.5
    return np.minimum(np.add.accumulate(steps).astype(np.int64), length - 1)


@dataclass(frozen=True)
class Regions:
    """R masks of one image, as the module describes; build one with a ``from_`` function.

    Attributes:
        labels: (H, W) int32, the atom of each pixel, in [0, A). An atom may have no pixels.
        starts: (R + 1,) int64, region r has the atoms ``atoms[starts[r]:starts[r + 1]]``.
        atoms: (M,) int32, without repetition within a region, ascending there.
        num_atoms: A.
    """

    labels: np.ndarray
    starts: np.ndarray
    atoms: np.ndarray
    num_atoms: int

    @staticmethod
    def from_masks(masks: np.ndarray | Sequence[np.ndarray]) -> Regions:
        """From masks (R, H, W) bool, or a list of at least one (H, W) bool.

        Raises:
            ValueError: anything else.
        """
        if isinstance(masks, np.ndarray):
            shapes = {(masks.shape[1:], masks.dtype)}
        else:
            shapes = {(np.shape(mask), np.asarray(mask).dtype) for mask in masks}
        size, kind = shapes.pop() if len(shapes) == 1 else ((), None)
        if len(size) != 2 or kind != np.dtype(bool) or 0 in size:
            raise ValueError(f"masks must be bool of one size (H, W), got {kind} {tuple(size)}")
        area = size[0] * size[1]
        bounds = [np.zeros(0, dtype=np.int64)]
        for mask in masks:
            flat = mask.ravel()
            inner = np.flatnonzero(flat[1:] != flat[:-1]) + 1
            edges = [0] if flat[0] else [], inner, [area] if flat[-1] else []
            bounds.append(np.concatenate(edges).astype(np.int64))
        owners = np.repeat(np.arange(len(masks)), [len(b) // 2 for b in bounds[1:]])
        ends = np.concatenate(bounds)
        return Regions.from_runs(ends[::2], ends[1::2], owners, len(masks), size)

    @staticmethod
    def from_runs(
        first: np.ndarray,
        stop: np.ndarray,
        owners: np.ndarray,
        count: int,
        size: tuple[int, int],
        *,
        column_major: bool = False,
    ) -> Regions:
        """From run lengths, without decoding a mask.

        Args:
            first: (T,) int, where a run of ones starts in the flattened image.
            stop: (T,) int, where it ends, exclusive.
            owners: (T,) int, the region it belongs to, not descending; runs of a region ascend.
            count: R.
            size: (H, W).
            column_major: the image is flattened column by column, as COCO does.

        Raises:
            ValueError: runs outside the image, overlapping or out of order.
        """
        total = size[0] * size[1]
        first, stop, owners = (np.asarray(v, dtype=np.int64) for v in (first, stop, owners))
        full = stop > first
        first, stop, owners = first[full], stop[full], owners[full]
        check_runs(first, stop, owners, count, total)
        flat, starts, atoms, number = partition(first, stop, owners, count, total)
        labels = flat.reshape(size[::-1]).T if column_major else flat.reshape(size)
        return Regions(np.ascontiguousarray(labels), starts, atoms, number)

    @staticmethod
    def from_superpixels(labels: np.ndarray, members: Sequence[np.ndarray]) -> Regions:
        """From labels (H, W), any integers, and for each region the labels that it is made of.

        Repetitions, and labels without pixels, are ignored.

        Raises:
            ValueError: ``labels`` is no integer image.
        """
        labels = _label_image(labels)
        values, flat = np.unique(labels.ravel(), return_inverse=True)
        lists = []
        for ids in members:
            ids = np.unique(np.asarray(ids).ravel())
            place = np.minimum(np.searchsorted(values, ids), len(values) - 1)
            lists.append(place[values[place] == ids].astype(np.int32))
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])]).astype(np.int64)
        atoms = np.concatenate([np.zeros(0, dtype=np.int32), *lists])
        return Regions(flat.reshape(labels.shape).astype(np.int32), starts, atoms, len(values))

    @staticmethod
    def from_membership(labels: np.ndarray, membership: np.ndarray) -> Regions:
        """From ``labels`` (H, W), the atom of each pixel in [0, A).

        ``membership`` (R, A) bool says which region has which atom.

        Raises:
            ValueError: shapes or values that do not fit.
        """
        labels, membership = _label_image(labels), np.asarray(membership)
        if membership.ndim != 2 or membership.dtype != bool:
            raise ValueError(
                f"membership must be bool (R, A), got {membership.dtype} {membership.shape}"
            )
        if labels.min() < 0 or labels.max() >= membership.shape[1]:
            raise ValueError(
                f"labels reach from {labels.min()} to {labels.max()}, there are "
                f"{membership.shape[1]} atoms"
            )
        owners, atoms = np.nonzero(membership)
        starts = np.searchsorted(owners, np.arange(len(membership) + 1))
        return Regions(labels.astype(np.int32), starts, atoms.astype(np.int32), membership.shape[1])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.labels.shape

    @cached_property
    def atom_areas(self) -> np.ndarray:
        """(A,) int64, pixels of each atom."""
        return np.bincount(self.labels.ravel(), minlength=self.num_atoms)

    @cached_property
    def membership(self) -> sparse.csr_matrix:
        """(R, A) sparse float64 of ones and zeros: products with it sum over atoms."""
        from scipy import sparse

        values = np.ones(len(self.atoms))
        return sparse.csr_matrix(
            (values, self.atoms, self.starts), shape=(len(self), self.num_atoms)
        )

    def member_table(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """(K, A) bool: which atoms the chosen regions (default all) have."""
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        table = np.zeros((len(chosen), self.num_atoms), dtype=bool)
        for row, index in enumerate(chosen):
            table[row, self.atoms[self.starts[index] : self.starts[index + 1]]] = True
        return table

    @cached_property
    def areas(self) -> np.ndarray:
        """(R,) int64, pixels of each region."""
        return self._over_regions(np.add, self.atom_areas, 0)

    @cached_property
    def boxes(self) -> np.ndarray:
        """(R, 4) int64, tightest boxes (x0, y0, x1, y1), x1 and y1 exclusive; 0 if empty."""
        extents = part_boxes(self.labels, self.num_atoms)
        height, width = self.size
        operations = (np.minimum, width), (np.minimum, height), (np.maximum, 0), (np.maximum, 0)
        sides = zip(extents.T, operations, strict=True)
        limits = [self._over_regions(reduce, values, empty) for values, (reduce, empty) in sides]
        return np.stack(limits, axis=1) * (self.areas > 0)[:, None]

    def _over_regions(self, operation: np.ufunc, values: np.ndarray, empty: int) -> np.ndarray:
        """(R,) ``operation`` on the ``values`` (A,) of a region's atoms; ``empty`` without any."""
        result = np.full(len(self), empty, dtype=np.int64)
        filled = np.flatnonzero(np.diff(self.starts))
        if len(filled):
            result[filled] = operation.reduceat(values[self.atoms], self.starts[filled])
        return result

    def sums(self, maps: np.ndarray) -> np.ndarray:
        """(R, P) float64: sum of each map (P, H, W), in float64, over each region."""
        cuts, atoms = segments(self.labels.ravel())
        totals = np.zeros((self.num_atoms, len(maps)))
        for column, values in enumerate(maps):
            runs = np.add.reduceat(values.ravel(), cuts[:-1], dtype=np.float64)
            totals[:, column] = np.bincount(atoms, weights=runs, minlength=self.num_atoms)
        return np.asarray(self.membership @ totals)

    def decode(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """(K, H, W) bool, the masks of the chosen regions (default all), in the order asked."""
        table, flat = self.member_table(indices), self.labels.ravel().astype(np.intp)
        masks = np.empty((len(table), *self.size), dtype=bool)
        for members, mask in zip(table, masks, strict=True):
            np.take(members, flat, out=mask.reshape(-1), mode="clip")
        return masks

    def decode_box(self, index: int, box: Sequence[int]) -> np.ndarray:
        """(y1 - y0, x1 - x0) bool: the mask of a region within a box (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = (int(v) for v in box)
        return np.take(self.member_table([index])[0], self.labels[y0:y1, x0:x1])

    def crops(self, size: int) -> np.ndarray:
        """(R, size, size) bool: masks cropped to their boxes and resized as Pillow's NEAREST does.

        Empty masks give empty crops.
        """
        result = np.zeros((len(self), size, size), dtype=bool)
        for index, (x0, y0, x1, y1) in enumerate(self.boxes.tolist()):
            if x1 == 0:
                continue
            rows = y0 + nearest_indices(y1 - y0, size)
            columns = x0 + nearest_indices(x1 - x0, size)
            result[index] = self.member_table([index])[0, self.labels[np.ix_(rows, columns)]]
        return result

    def __getitem__(self, indices: Sequence[int] | np.ndarray | slice) -> Regions:
        """The chosen regions (integers, booleans or a slice) over the same atoms."""
        chosen = np.arange(len(self))[indices]
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        place = np.repeat(self.starts[chosen] - starts[:-1], counts) + np.arange(starts[-1])
        return Regions(self.labels, starts, self.atoms[place], self.num_atoms)

    def resize(self, size: tuple[int, int]) -> Regions:
        """Every mask resized to (height, width) as Pillow does with NEAREST; same regions."""
        rows = nearest_indices(self.size[0], size[0])
        columns = nearest_indices(self.size[1], size[1])
        labels = self.labels if size == self.size else self.labels[np.ix_(rows, columns)]
        return Regions(labels, self.starts, self.atoms, self.num_atoms)

    def shrink_to(self, size: tuple[int, int]) -> Regions:
        """Every mask resized to (height, width) without its soft border.

        A mask of 0 and 255 is resized by Pillow (bilinear, smoothed when it gets smaller); pixels
        that are still 255 are kept (iam spec 4).
        """
        masks = np.empty((len(self), *size), dtype=bool)
        for mask, region in zip(masks, range(len(self)), strict=True):
            picture = Image.fromarray(self.decode([region])[0].astype(np.uint8) * 255)
            mask[:] = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)) == 255
        return Regions.from_masks(masks)

    def flip(self) -> Regions:
        """Every mask mirrored left to right."""
        labels = np.ascontiguousarray(self.labels[:, ::-1])
        return Regions(labels, self.starts, self.atoms, self.num_atoms)


def _label_image(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or labels.size == 0:
        raise ValueError(f"labels must be integers (H, W), got {labels.dtype} {labels.shape}")
    return labels


def part_boxes(labels: np.ndarray, number: int) -> np.ndarray:
    """(A, 4) int64 boxes of the labels 0 to A - 1, A = ``number``; (W, H, 0, 0) without pixels."""
    height, width = labels.shape
    flat = labels.ravel()
    cut = np.empty(flat.shape, dtype=bool)  # where a run of one atom within a row starts
    np.not_equal(flat[1:], flat[:-1], out=cut[1:])
    cut[::width] = True
    begins = np.flatnonzero(cut)
    atoms, (rows, left) = flat[begins], np.divmod(begins, width)
    right = np.append(begins[1:], flat.size) - rows * width
    boxes = np.tile([width, height, 0, 0], (number, 1))
    np.minimum.at(boxes[:, 0], atoms, left)
    np.minimum.at(boxes[:, 1], atoms, rows)
    np.maximum.at(boxes[:, 2], atoms, right)
    np.maximum.at(boxes[:, 3], atoms, rows + 1)
    return boxes
