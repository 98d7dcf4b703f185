"""One run at a time in one output folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from detectron2.utils import comm

from wsis.data.checks import load_json
from wsis.engine.launch import started_by_torchrun
from wsis.errors import WSISError

LOCK_FILE = ".lock"
_PATIENCE_S = 60.0  # a network drive may show a new file this late


@contextmanager
def output_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder`` inside the block.

    The kernel releases the lock when its process ends, in whatever way, so a killed run leaves
    nothing to clean up. It is a POSIX record lock: forked data-loading workers do not inherit it,
    and it works on network file systems. Each further process of the run holds a part of it
    (`rank_lock`), so the folder stays locked until the last of them has ended. A folder that is
    left with nothing but the lock, by a run that failed before its first stage, goes with it.

    Raises:
        WSISError: another run holds it (its host and process id are named), the file system has no
            locks, ``.lock`` is no plain file, or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise WSISError(f"{path} is no plain file; remove it and run the same command again")
        # A link that somebody puts there in this moment must not have its target overwritten.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        stream = open(os.open(path, flags, 0o666), "r+")  # noqa: SIM115  (as long as it is held)
    except OSError as error:
        raise WSISError(
            f"cannot write to the output folder {folder} ({error.strerror}); set OUTPUT_DIR"
        ) from None
    with stream:
        _take(stream, path)
        fcntl.lockf(stream, fcntl.LOCK_UN, 0, 1)  # bytes 1, 2, ... are for processes 0, 1, ...
        stream.truncate(0)
        stream.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        stream.flush()
        try:
            yield
        finally:
            with suppress(OSError, WSISError):  # a process of this run lives, or it holds more
                _take(stream, path)
                if os.listdir(folder) == [LOCK_FILE]:
                    path.unlink()
                    for one in made:
                        one.rmdir()


@contextmanager
def rank_lock(folder: Path) -> Iterator[None]:
    """Hold this process's part of the lock inside the block; every process of a run calls this.

    Raises:
        WSISError: the run that this process belongs to has lost the folder to another one.
    """
    if comm.get_world_size() == 1 or (started_by_torchrun() and comm.is_main_process()):
        yield  # it holds the lock itself, and would lose that with the first stream that it closes
        return
    path = folder / LOCK_FILE
    with open(path, "r+") as stream:
        _take(stream, path, 1, 1 + comm.get_rank())
        yield


def check_shared(folder: Path, *, patience: float = _PATIENCE_S) -> None:
    """Make sure that all processes of a run see the same ``folder``; every process calls this.

    Args:
        folder: the output folder.
        patience: seconds that a process waits for what the main process wrote.

    Raises:
        WSISError: some process sees another folder, as on machines without a common drive.
    """
    if comm.get_world_size() == 1:
        return
    token = folder / f".shared.{comm.all_gather(uuid.uuid4().hex)[0]}"
    if comm.is_main_process():
        token.touch()
    comm.synchronize()
    deadline = time.monotonic() + patience
    while not token.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    seen = comm.all_gather((socket.gethostname(), token.exists()))
    if comm.is_main_process():
        token.unlink()
    blind = sorted({host for host, sees in seen if not sees})
    if blind:
        raise WSISError(
            f"{folder} on {', '.join(blind)} is not the folder that {seen[0][0]} writes to; set "
            "OUTPUT_DIR to a folder on a drive that all machines share"
        )


def _take(stream: IO[str], path: Path, length: int = 0, start: int = 0) -> None:
    """Lock bytes of a file: ``length`` of them from ``start`` on; all that there can be for 0."""
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        if not os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            raise BlockingIOError(errno.EAGAIN, "the run that held this file has taken it away")
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.ENOENT):
            raise WSISError(f"{path.parent} is in use by another run{_owner(path)}") from None
        raise WSISError(
            f"the file system of {path.parent} has no locks ({error.strerror}), so two runs could "
            "write there at once; set OUTPUT_DIR to a folder on another drive"
        ) from None


def _owner(path: Path) -> str:
    try:
        owner = load_json(path)
        return f": process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return ""
