"""One run at a time in one output folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsis.errors import WSISError

LOCK_FILE = ".lock"


@contextmanager
def output_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder`` inside the block.

    The kernel releases the lock when its process ends, however it ends, so a killed run leaves
    nothing to clean up. It is a POSIX record lock: forked data-loading workers do not inherit it,
    and it works on network file systems.

    Raises:
        WSISError: another run holds it (its host and process id are named), or the folder cannot
            be written.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+")  # noqa: SIM115  (open as long as the lock is held)
    except OSError as error:
        raise WSISError(
            f"cannot write to the output folder {folder} ({error.strerror}); set OUTPUT_DIR"
        ) from None
    with stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WSISError(f"{folder} is in use by another run{_owner(path)}") from None
        stream.truncate(0)
        stream.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        stream.flush()
        yield


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f": process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
