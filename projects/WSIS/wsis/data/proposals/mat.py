"""Proposals in MATLAB files: MCG's and COB's superpixels with lists, and stacks of masks.

A MATLAB file says how large its variables are; these numbers are checked before it is unpacked.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.io

from wsis.data.proposals.store import Proposals, by_rank, check_count, check_size
from wsis.layers.regions import Regions
from wsis.reading import open_file

MAX_MAT_BYTES = 1 << 30  # of the variables of one file, unpacked
_HEADER, _MATRIX, _COMPRESSED = 128, 14, 15
_KINDS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, _MATRIX, 16, 17, 18}  # of elements, in MATLAB's format
_PIECE = 1 << 20


class _Elements:
    """Looks at the kinds of all elements of a variable, given piece by piece.

    SciPy takes a kind as a place in a table, and crashes beyond its end. A matrix is its elements
    one after another, so a matrix in a matrix needs nothing of its own.
    """

    def __init__(self, order: str) -> None:
        self._order, self._skip, self._tag, self._unknown = order, 0, b"", 0

    def feed(self, data: bytes) -> None:
        """Look at the next piece."""
        place = 0
        while place < len(data) and not self._unknown:
            if self._skip:
                step = min(self._skip, len(data) - place)
                self._skip -= step
            else:
                step = min(8 - len(self._tag), len(data) - place)
                self._tag += data[place : place + step]
                if len(self._tag) == 8:
                    self._take(*struct.unpack(self._order + "II", self._tag))
                    self._tag = b""
            place += step

    def close(self) -> None:
        """ValueError: an element is of no known kind or reaches beyond the end.

        There, padding may be missing.
        """
        if self._unknown:
            raise ValueError(f"an element is of the unknown kind {self._unknown - 1}")
        if self._skip > 7 or self._tag:
            raise ValueError("an element reaches beyond the end of its variable")

    def _take(self, kind: int, length: int) -> None:
        small = kind >> 16  # up to 4 bytes lie in the tag itself
        if (kind & 0xFFFF) not in _KINDS:
            self._unknown = 1 + (kind & 0xFFFF)
        if not small and kind != _MATRIX:
            self._skip = -(-length // 8) * 8


def _check_unpacked_size(path: Path, limit: int) -> None:
    """Refuse a file of more bytes, packed or really unpacked, than ``limit``."""
    with open_file(path, limit=limit) as stream:
        header = stream.read(_HEADER)
        if len(header) < _HEADER or header[126:128] not in (b"IM", b"MI"):
            raise ValueError("it is not a MATLAB 5 file (save with -v7)")
        if header[:10] == b"MATLAB 7.3":
            raise ValueError("it is a MATLAB 7.3 file; save it again with -v7")
        order = "<" if header[126:128] == b"IM" else ">"
        total, end = 0, os.fstat(stream.fileno()).st_size
        while len(tag := stream.read(8)) == 8:
            kind, length = struct.unpack(order + "II", tag)
            if stream.tell() + length > end:
                raise ValueError(f"a variable of {length} bytes reaches beyond the end")
            if kind == _COMPRESSED:
                total += _unpacked_size(stream, length, order, limit - total)
            else:
                total += length
                elements = _Elements(order)
                elements.feed(tag)
                for start in range(0, length, _PIECE):
                    elements.feed(stream.read(min(_PIECE, length - start)))
                elements.close()
        if total > limit:
            raise ValueError(f"its variables claim {total} bytes; {limit} are the limit")


def _unpacked_size(stream: BinaryIO, length: int, order: str, limit: int) -> int:
    """How many bytes come out of the next ``length``, or should by the file, if that is more.

    Counting stops beyond ``limit``.

    Raises:
        ValueError, zlib.error: damaged; zlib compares checksums.
    """
    unpacker, elements, count, start = zlib.decompressobj(), _Elements(order), 0, b""
    while length > 0 and (count <= limit or len(start) < 8):
        piece = stream.read(min(length, _PIECE))
        length -= len(piece)
        while piece and (count <= limit or len(start) < 8):
            found = unpacker.decompress(piece, _PIECE)
            elements.feed(found)
            count, start, piece = count + len(found), start + found[:8], unpacker.unconsumed_tail
    if count <= limit:
        rest = unpacker.flush()  # what zlib still held when the last byte had gone in
        elements.feed(rest)
        count += len(rest)
        if not unpacker.eof:
            raise ValueError("a packed variable ends too early")
    stream.seek(length, os.SEEK_CUR)
    size = max(count, struct.unpack(order + "II", start[:8])[1])
    if size <= limit:
        elements.close()
    return size


def load_mat(path: Path, names: Sequence[str], *, limit: int = MAX_MAT_BYTES) -> dict[str, Any]:
    """The variables ``names`` of a MATLAB 5 file, as far as it has them.

    ``limit`` is of bytes, packed and unpacked.

    Raises:
        ValueError: damaged or too large.
    """
    try:
        _check_unpacked_size(path, limit)
        return scipy.io.loadmat(path, variable_names=names)
    except Exception as error:  # SciPy's parser raises nearly anything on damaged files
        raise ValueError(f"no readable MATLAB file ({type(error).__name__}: {error})") from error


def read_mat(path: Path, *, size: tuple[int, int] | None = None, count: int = 0) -> Proposals:
    """Read a MATLAB file of proposals, for `wsis.data.proposals.readers.read_proposals`.

    Either ``superpixels`` (H, W) and ``labels``, a cell array of lists of superpixels (MCG, COB;
    ``scores`` is kept if there), or ``maskmat``, a cell array of masks (H, W) or one array
    (R, H, W), as CIM uses COB. The order of the file holds.

    Raises:
        ValueError: damaged, without these variables, empty, or of another size.
    """
    arrays = load_mat(path, ("superpixels", "labels", "scores", "maskmat"))
    for name, value in arrays.items():
        if not (name.startswith("__") or isinstance(value, np.ndarray)):
            raise ValueError(f"{name} is a {type(value).__name__}, not an array")
    if "maskmat" in arrays:
        return _from_masks(arrays["maskmat"], size, count)
    if "superpixels" in arrays and "labels" in arrays:
        return _from_superpixels(arrays, size, count)
    names = ", ".join(sorted(n for n in arrays if not n.startswith("__"))) or "neither"
    raise ValueError(f"it has {names}; expected superpixels and labels (MCG, COB) or maskmat (CIM)")


def _binary(mask: Any) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype.kind not in "biu" or (mask.size and (mask.min() < 0 or mask.max() > 1)):
        raise ValueError(f"a mask holds {mask.dtype} beyond 0 and 1")
    return mask.astype(bool)


def _from_masks(stored: np.ndarray, size: tuple[int, int] | None, count: int) -> Proposals:
    cells = stored.dtype == object
    stack = stored.ravel() if cells else stored
    if not cells and stack.ndim != 3:
        raise ValueError(f"maskmat has the shape {stored.shape}, not (R, H, W)")
    check_count(len(stack))
    stack = stack[:count] if count > 0 else stack
    for mask in stack:
        check_size("a mask of maskmat", np.shape(mask), size)
        size = np.shape(mask)
    return by_rank(Regions.from_masks([_binary(mask) for mask in stack]))


def _from_superpixels(
    arrays: dict[str, np.ndarray], size: tuple[int, int] | None, count: int
) -> Proposals:
    labels, lists = arrays["superpixels"], arrays["labels"].ravel()
    if labels.dtype.kind == "f" and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)
    if lists.dtype != object:
        raise ValueError(f"labels is an array of {lists.dtype}, not a cell array")
    check_count(len(lists))
    check_size("superpixels", labels.shape, size)
    chosen = [np.asarray(ids) for ids in (lists[:count] if count > 0 else lists)]
    for ids in chosen:
        if ids.dtype.kind not in "iuf":
            raise ValueError(f"labels has a cell of {ids.dtype}")
    regions = Regions.from_superpixels(labels, [ids.astype(np.int64) for ids in chosen])
    if "scores" not in arrays or arrays["scores"].size == 0:
        return by_rank(regions)
    scores = np.asarray(arrays["scores"], dtype=np.float64).ravel()
    if len(scores) != len(lists) or not np.isfinite(scores).all():
        raise ValueError(f"{len(scores)} scores (all finite?) for {len(lists)} proposals")
    return Proposals(regions, scores[: len(regions)].astype(np.float32))
