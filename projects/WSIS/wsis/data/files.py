"""Writes files so that they appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_TEMPORARY = ".tmp"


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


_UMASK = _read_umask()  # read once: setting and restoring it is not safe while threads write


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], mode: str = "wb", *, sync: bool = True
) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` and rename it over ``path`` when the block succeeds.

    Args:
        path: the final file; its folder is created.
        mode: "wb" or "w" (UTF-8 text).
        sync: also survive a power cut. Artifacts do without, since there are tens of thousands and
            they can be made again; a killed process cannot harm a renamed file in any case.

    Raises:
        OSError: as the file system says (full disk, no permission), naming ``path``, which is then
            untouched.
    """
    path, temporary = Path(path), ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(_TEMPORARY, f".{path.name[:50]}.", path.parent)
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename or _TEMPORARY).endswith(_TEMPORARY):
            error.filename = str(path)  # a failed write names no file, a failed open an odd one
        raise


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, atomically. NaN must have been replaced by None before."""
    with atomic_write(path, "w") as stream:
        json.dump(value, stream, indent=indent, allow_nan=False)
        stream.write("\n")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write text lines, atomically."""
    with atomic_write(path, "w") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of a file's content, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
