"""Artifacts: what a stage writes for each image, ``<image key>.npz`` without pickle.

Only this file knows the format. Boolean stacks ``(K, H, W)`` are kept as COCO run lengths, integers
are deflated, floats are not (that costs time and saves little space). The bytes depend only on the
arrays, so equal results give equal files.
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsis.data.checks import load_json, naming, short, short_name
from wsis.data.files import atomic_write
from wsis.errors import DataError, first_line
from wsis.layers.run_lengths import (
    MAX_STACK_BYTES,
    RLE,
    check_rles,
    decode_rle,
    decode_rles,
    encode_mask,
)
from wsis.reading import open_file

if TYPE_CHECKING:  # it imports torchvision, which a list of stages does without
    from detectron2.structures import Instances

SUMMARY = "summary"
MOST_TOGETHER = 10_000  # artifacts in one folder
_SAFE_KEY = re.compile(r"[\w][\w.+=@ ()-]*")
_RLE, _LENGTHS, _SHAPE = ".rle", ".lengths", ".shape"


def check_key(key: str) -> str:
    """Return ``key`` if it can name a file inside a folder, else raise `DataError`."""
    if not _SAFE_KEY.fullmatch(key):
        raise DataError(
            f"image key {short(key)} cannot name a file: letters, digits and _.-+=@() only"
        )
    with naming("image key"):
        return short_name(key)


def _encode(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    encoded: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        value = np.asarray(value)
        if value.dtype == bool and value.ndim == 3:
            runs = [encode_mask(mask)["counts"].encode() for mask in value]
            encoded[name + _RLE] = np.frombuffer(b"".join(runs), dtype=np.uint8)
            encoded[name + _LENGTHS] = np.array([len(r) for r in runs], dtype=np.int64)
            encoded[name + _SHAPE] = np.array(value.shape, dtype=np.int64)
        else:
            encoded[name] = value
    return encoded


class RunLengths(Sequence[np.ndarray]):
    """A stack of masks as it is kept: an item is decoded, (H, W) bool.

    Attributes:
        rles: COCO run lengths of the masks.
        shape: (K, H, W).
    """

    def __init__(self, rles: list[RLE], shape: tuple[int, int, int]) -> None:
        self.rles, self.shape = rles, shape

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Any) -> Any:
        return decode_rle(self.rles[index])


def _read_masks(runs: np.ndarray, lengths: np.ndarray, shape: np.ndarray, limit: int) -> RunLengths:
    count, height, width = (int(s) for s in shape)
    if min(count, height, width) < 0 or count * height * width > limit:
        raise ValueError(f"mask stack of shape {count, height, width}")
    ends = np.cumsum(lengths)
    if len(lengths) != count or (count and int(ends[-1]) != len(runs)):
        raise ValueError("run lengths do not add up")
    pieces = [runs[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True)]
    size = (height, width)
    rles = check_rles([{"size": size, "counts": counts} for counts in pieces], size)
    return RunLengths(rles, (count, height, width))


def encode_artifact(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an artifact file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in sorted(_encode(arrays).items()):
            if value.dtype.hasobject:
                raise TypeError(f"artifact array {name!r} holds Python objects")
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: equal bytes at any time
            if value.dtype.kind in "biu" and not name.endswith(_RLE):
                entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(value), allow_pickle=False)
    return buffer.getvalue()


def write_artifact(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Write one artifact atomically; returns "bytes", the size of the file, and its "crc32"."""
    data = encode_artifact(arrays)
    with atomic_write(path, sync=False) as stream:
        stream.write(data)
    return {"bytes": len(data), "crc32": zlib.crc32(data)}


def _check_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuse an array that claims more bytes than its entry has, before memory is allocated."""
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{entry.filename} has the format {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} claims the shape {shape}")


def read_artifact(
    path: str | os.PathLike[str], *, limit: int = MAX_STACK_BYTES, names: Collection[str] = ()
) -> dict[str, Any]:
    """Read what `write_artifact` wrote; ``limit`` is of its bytes, unpacked and decoded.

    With ``names`` only these arrays are read, and masks stay `RunLengths`.

    Raises:
        DataError: the file is missing, damaged, or claims an absurd size.
    """
    path = Path(path)
    try:
        with open_file(path, limit=limit) as stream:
            with zipfile.ZipFile(stream) as archive:
                total = sum(entry.file_size for entry in archive.infolist())
                if total > limit:
                    raise ValueError(f"it claims {total} bytes")
                for entry in archive.infolist():
                    _check_header(archive, entry)
                stream.seek(-12 - len(archive.comment), os.SEEK_END)  # zipfile does not count
                if int.from_bytes(stream.read(2), "little") != len(archive.infolist()):
                    raise ValueError("arrays are missing in its list")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as stored:
                asked = {name + end for name in names for end in ("", _RLE, _LENGTHS, _SHAPE)}
                raw = {name: stored[name] for name in stored.files if name in asked or not names}
        decoded: dict[str, Any] = {}
        for name, value in raw.items():
            if name.endswith(_RLE):
                stem = name.removesuffix(_RLE)
                about = (raw[stem + _LENGTHS], raw[stem + _SHAPE])
                masks = _read_masks(value, *about, limit)
                decoded[stem] = masks if names else decode_rles(masks.rles, masks.shape[1:])
                limit -= math.prod(masks.shape)
            elif not name.endswith((_LENGTHS, _SHAPE)):
                decoded[name] = value
        return decoded
    except FileNotFoundError:
        raise DataError(f"no artifact {path.name} in {path.parent}") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged or encrypted archive raises nearly anything
        raise DataError(
            f"{path} is not a readable artifact ({first_line(error)}); delete it and rerun"
        ) from error


def instance_arrays(found: Instances) -> dict[str, np.ndarray]:
    """What every product of instances holds of an image, from predicted Instances with masks.

    ``classes`` (n,) int64, ``scores`` (n,) float32, ``masks`` (n, H, W) bool, in the given order.
    """
    return {
        "classes": found.pred_classes.cpu().numpy().astype(np.int64),
        "scores": found.scores.cpu().numpy().astype(np.float32),
        "masks": found.pred_masks.cpu().numpy(),
    }


class ArtifactFolder:
    """Reads the artifacts ``<image key>.npz`` of a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = self.artifacts = Path(folder)

    def path(self, key: str) -> Path:
        """Where the artifact of image ``key`` lies."""
        return self.artifacts / f"{check_key(key)}.npz"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        return read_artifact(self.path(key))

    def keys(self) -> Iterator[str]:
        """Image keys that have an artifact, in ascending order."""
        return iter(sorted(path.stem for path in self.artifacts.glob("*.npz")))


class ProductReader(ArtifactFolder):
    """Reads the product of a finished stage from its run folder.

    Of many images they are spread over 256 folders, ``artifacts/<00 to ff>``, by a checksum
    of the key: some file systems get slow where one holds a hundred thousand files.
    """

    def __init__(self, folder: str | os.PathLike[str], stage: str) -> None:
        super().__init__(folder)
        self.artifacts = self.folder / "artifacts"
        self.stage = stage
        self._spread = False

    def spread(self, images: int) -> None:
        """Make the folders, where no artifact is there yet and there are many images."""
        self._spread = False
        if images > MOST_TOGETHER and next(self.files(), None) is None:
            for number in range(256):
                (self.artifacts / f"{number:02x}").mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where the artifact of image ``key`` lies."""
        if not self._spread:  # yet: another process may have made the folders
            self._spread = (self.artifacts / "00").is_dir()
        name = f"{check_key(key)}.npz"
        if not self._spread:
            return self.artifacts / name
        return self.artifacts / f"{zlib.crc32(key.encode()) & 255:02x}" / name

    def files(self) -> Iterator[os.DirEntry[str]]:
        """All files where the artifacts are, also half-written ones."""
        folders: list[str | Path] = [self.artifacts]
        for folder in folders:
            with suppress(FileNotFoundError, NotADirectoryError):
                for entry in os.scandir(folder):
                    if entry.is_dir():
                        folders.append(entry.path)
                    else:
                        yield entry

    def keys(self) -> Iterator[str]:
        """Image keys that have an artifact, in ascending order."""
        return iter(sorted(f.name[:-4] for f in self.files() if f.name.endswith(".npz")))

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        return self.read(key)

    def read(self, key: str, names: Collection[str] = ()) -> dict[str, Any]:
        """The artifact of an image, or ``names`` of it as `read_artifact` gives them."""
        if key not in self:
            manifest = self.folder / "manifest.json"
            if manifest.is_file() and key in load_json(manifest).get("skipped", ()):
                raise DataError(f"{self.stage} has skipped it, as WSIS.ON_ERROR skip wants")
            raise DataError(
                f"no {self.stage} artifact for image {key} in {self.artifacts}; "
                f"run --stage {self.stage} first"
            )
        return read_artifact(self.path(key), names=names)

    @property
    def summary(self) -> dict[str, np.ndarray]:
        """What the stage's ``reduce`` computed over all images."""
        return read_artifact(self.folder / f"{SUMMARY}.npz")

    @property
    def weights(self) -> Path:
        """The checkpoint of a training stage."""
        return self.folder / "model_final.pth"
