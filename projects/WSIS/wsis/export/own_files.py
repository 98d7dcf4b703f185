"""Knows which files of a folder an export wrote, so that it never replaces those of a person."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from wsis.commands import writing
from wsis.data.checks import load_json
from wsis.data.files import sha256_of_file, write_json
from wsis.errors import DataError, UsageError

WRITTEN = ".wsis_export"  # in the folder: sha256 by path of each file as it was written


def refuse_existing(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Raise `UsageError` if one of the files is there already and may not be overwritten."""
    found = None if overwrite else next((path for path in paths if path.exists()), None)
    if found is not None:
        raise UsageError(f"{found} exists; choose another --output, or say --overwrite")


@contextmanager
def own_files(folder: Path, targets: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    """Write the files ``targets`` in the block; afterwards a hidden list in ``folder`` has them.

    Raises:
        UsageError: one of them is there and is not as an export wrote it, or ``overwrite`` is not
            given.
    """
    known = {}
    with suppress(DataError):
        content = load_json(folder / WRITTEN)
        known = content if isinstance(content, dict) else {}
    names = {path: os.path.relpath(path, folder).replace(os.sep, "/") for path in targets}
    there = [path for path in targets if path.exists()]
    for path in there:
        digest = known.get(names[path])
        if digest is None or not path.is_file() or digest != sha256_of_file(path):
            raise UsageError(
                f"{path} exists and is not as an export left it, so it may be yours; give "
                "--output a folder of its own"
            )
    refuse_existing(there, overwrite=overwrite)
    try:
        yield
    finally:
        with writing(folder, "--output"):
            now = {name: sha256_of_file(path) for path, name in names.items() if path.exists()}
            if now:
                write_json(folder / WRITTEN, known | now)
