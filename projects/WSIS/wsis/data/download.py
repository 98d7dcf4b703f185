"""Archives of data sets: downloads that resume, checksums, extraction inside a folder.

Nothing heavy is imported here: scripts import it before they parse their arguments.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from wsis.data.checks import inside
from wsis.data.files import atomic_write
from wsis.data.root import datasets_root
from wsis.errors import DataError

_CHUNK = 1 << 20
_TIMEOUT_S = 60


def verify_md5(path: str | os.PathLike[str], md5: str) -> None:
    """Raise `DataError` unless the file has this MD5, as the data sets' authors publish it."""
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} has MD5 {found}, not {md5}: it is incomplete or another file; delete it and "
            "download it again"
        )


def _fetch(url: str, part: Path) -> None:
    """Append the missing rest of ``url`` to ``part``; write all if the server cannot resume."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        resumed = response.status == 206
        done = done if resumed else 0
        length = int(response.headers.get("Content-Length") or 0)
        options = {"total": done + length if length else None, "initial": done, "desc": part.stem}
        with (
            open(part, "ab" if resumed else "wb") as stream,
            tqdm.wrapattr(stream, "write", **options) as counted,
        ):
            shutil.copyfileobj(response, counted, _CHUNK)
    if length and part.stat().st_size < done + length:
        raise OSError(f"the connection ended after {part.stat().st_size} of {done + length} bytes")


def download(url: str, path: str | os.PathLike[str], *, md5: str) -> None:
    """Download a file over http(s) unless it exists; goes on where an earlier attempt stopped.

    Until the file is complete and has this MD5 it is called ``<path>.part``.

    Raises:
        DataError: the server cannot be reached or refuses, or the checksum is wrong. The part
            stays for the next attempt, unless its checksum is wrong.
    """
    path = Path(path)
    if path.is_file():
        verify_md5(path, md5)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _fetch(url, part)
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "code", None) != 416:  # nothing is left to fetch; the checksum decides
            raise DataError(f"{url} cannot be downloaded ({error}); run again to go on") from error
    try:
        verify_md5(part, md5)
    except DataError:
        part.unlink()
        raise DataError(
            f"{url} gave a file with another MD5 than {md5}; it was removed, try again"
        ) from None
    part.rename(path)


def _target(name: str, folder: Path, strip: int) -> Path | None:
    """Where to extract an archive's entry; None if ``strip`` leaves nothing of its name.

    The standard library's ``filter="data"`` is no help here: it takes ``/x`` for ``x`` and refuses
    folders that are links to another drive.
    """
    try:
        parts = PurePosixPath(inside(name).replace("\\", "/")).parts[strip:]
    except ValueError as error:
        raise DataError(f"the archive's entry {error}; it was not extracted") from None
    return folder.joinpath(*parts) if parts else None


def extract_tar(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    strip: int = 0,
    wanted: Callable[[str], bool] = lambda name: True,
) -> int:
    """Extract the plain files of a tar archive, each whole or not at all; returns how many.

    Existing files of the right size are kept, so an interrupted extraction can go on. Links,
    devices and modes are ignored. ``strip`` leading folders are cut off each name; ``wanted`` gets
    the full name.

    Raises:
        DataError: not an archive, damaged, or an entry that would land outside the folder.
    """
    count = 0
    try:
        with tarfile.open(archive) as stored:
            for entry in tqdm(stored, desc="extracting"):
                target = _target(entry.name, Path(folder), strip) if entry.isreg() else None
                if target is None or not wanted(entry.name):
                    continue
                if target.is_file() and target.stat().st_size == entry.size:
                    continue
                content = stored.extractfile(entry)
                assert content is not None  # a regular file has some
                with atomic_write(target, sync=False) as stream:
                    shutil.copyfileobj(content, stream, _CHUNK)
                count += 1
    except FileNotFoundError:
        raise DataError(f"{archive} does not exist") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is not a sound archive ({error})") from error
    return count


def add_archive_options(parser: argparse.ArgumentParser, url: str) -> None:
    """Add what `ensure_extracted` reads: ``--root``, ``--archive``, ``--download``, ``--url``."""
    add, name = parser.add_argument, url.rpartition("/")[2]
    add("--root", type=Path, default=datasets_root(), help="default: DETECTRON2_DATASETS")
    add("--archive", type=Path, help=f"where {name} lies already")
    add("--download", action="store_true", help="download the archive if needed")
    add("--url", default=url, help="default: %(default)s")


def ensure_extracted(
    options: argparse.Namespace,
    missing: Callable[[], list[str]],
    *,
    archive: str,
    md5: str,
    folder: Path,
    advice: str,
    wanted: Callable[[str], bool] = lambda name: True,
) -> None:
    """Extract an archive if a tree is not complete; downloads it first if asked to.

    ``missing`` says what the tree lacks, as sentences. ``archive`` names the file below ``--root``;
    its files go below ``folder``, without their first folder. ``advice`` is the next step if there
    is no archive.

    Raises:
        DataError: there is no archive, or as `download` and `extract_tar`, or it does not help.
    """
    problems = missing()
    if not problems:
        return
    path = options.archive or options.root / archive
    if options.download and not path.is_file():
        download(options.url, path, md5=md5)
    if not path.is_file():
        raise DataError(f"{problems[0]} and there is no {path}; {advice}")
    verify_md5(path, md5)
    extract_tar(path, folder, strip=1, wanted=wanted)
    if problems := missing():
        raise DataError(f"after extracting {path}, {'; '.join(problems)}")
