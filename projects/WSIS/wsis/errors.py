"""The errors that a user can cause. The command line prints their message and no traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from wsis.stopping import Terminated, exit_code, raising


class WSISError(Exception):
    """Something outside the code is wrong; the message names the file and the next command."""

    exit_code = 1


class UsageError(WSISError):
    """The command line or the config asks for what cannot be done."""

    exit_code = 2


class DataError(WSISError, ValueError):
    """A file from outside is missing, damaged or contradicts itself."""


class MachineError(WSISError):
    """Neither config nor data are wrong: memory or room is short, or a process was ended."""


_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose another folder",
    errno.EACCES: "correct its permissions, or choose another folder,",
    errno.EPERM: "correct its permissions, or choose another folder,",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network drive",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the limit on open files (ulimit -n)",
}
LOST_PEER = "another process of the run has ended, and its own message says why"
NEEDS_LESS = (
    "work at smaller sizes (INPUT) or with fewer DATALOADER.NUM_WORKERS; in training take the "
    "batch in parts (WSIS.SOLVER.ACCUMULATE 2), or lower SOLVER.IMS_PER_BATCH, the total over all "
    "processes: half of it wants half of SOLVER.BASE_LR and twice SOLVER.MAX_ITER and SOLVER.STEPS"
)
_NO_MEMORY = re.compile(
    "can't allocate memory|not enough memory|Insufficient memory|out of memory|ALLOC_FAILED"
)
# What torch says of its processes, and what we say.
_PROCESSES = {
    r"^DataLoader worker": "a data-loading process was ended, perhaps for lack of memory "
    f"({{}}); {NEEDS_LESS}",
    r"(closed|reset) by peer|remote process exited": LOST_PEER,
    r"items of ancdata": "too many files are open; raise the limit (ulimit -n)",
}
_SOURCES = {
    "detectron2": "the section on installing in README.md says where it comes from",
    "cv2": "pip install opencv-python-headless",
    "transformers": "pip install transformers",
}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name if it has none, for our sentences."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known word most like it, or ""."""
    return _nearest(word, tuple(known))


@lru_cache(maxsize=256)  # every annotation of a file may have the same wrong class
def _nearest(word: str, known: tuple[str, ...]) -> str:
    same = {name.lower(): name for name in known if name != word}
    close = get_close_matches(word.lower(), same, n=1)
    return f"; did you mean {same[close[0]]}?" if close else ""


def known_words(word: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known ones, and the one most like it."""
    known = list(known)
    return ", ".join(known) + did_you_mean(str(word), known)


def near_file(path: str | Path, suffixes: tuple[str, ...] = ("",)) -> str:
    """The end of a sentence about a path that does not exist: what has a name like the first part
    of it that is not there, and ends with one of the ``suffixes``; or ""."""
    path = Path(path)
    with suppress(OSError):  # a folder that may not be read, a name that is too long
        while not path.parent.is_dir():
            path = path.parent
        beside = os.listdir(path.parent)
        return did_you_mean(path.name, [name for name in beside if name.endswith(suffixes)])
    return ""


def missing_package(error: ModuleNotFoundError) -> str | None:
    """One sentence about a package that is not installed and where to get it.

    Returns:
        the sentence, or None for a module that no user is asked to install, which is a bug.
    """
    name = (error.name or "").partition(".")[0]
    return f"the package {name} is not installed; {_SOURCES[name]}" if name in _SOURCES else None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy, torch, OpenCV or the system says that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    told = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return of_memory or (told and bool(_NO_MEMORY.search(str(error))))


@contextmanager
def about(
    what: str | Callable[[], str], when: Callable[[Exception], bool] = bool
) -> Iterator[None]:
    """Put ``what`` (a stage, an image) before the sentence of an error that is the machine's.

    Raises:
        MachineError: in place of an error that can be explained, and of which ``when`` is true.
    """
    try:
        yield
    except Exception as error:
        ours = isinstance(error, WSISError) and not isinstance(error, MachineError)
        explained = None if ours or not when(error) else explain(error)
        if explained is None:
            raise
        raise MachineError(f"{what() if callable(what) else what}: {explained[0]}") from error


def explain(error: BaseException) -> tuple[str, int] | None:
    """A sentence for an error that the user can mend, or for Ctrl-C, and the exit code that fits.

    Returns:
        ``(message, exit code)``, or None where the error must be a bug.
    """
    if isinstance(error, WSISError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        ended = "ended by SIGTERM" if isinstance(error, Terminated) else "interrupted"
        return f"{ended}; run the same command again to go on", exit_code(error)
    if isinstance(error, ModuleNotFoundError):
        said = missing_package(error)
        return (said, 1) if said else None
    if out_of_memory(error):
        return f"out of memory ({first_line(error)[:200]}); {NEEDS_LESS}", 1
    if isinstance(error, OSError) and (error.filename or error.errno in _ADVICE):
        what = f"{error.strerror}: {error.filename!r}" if error.filename else str(error)
        advice = _ADVICE.get(error.errno or 0, "correct that")
        said = f"a file cannot be read or written ({what}); {advice} and run the same command again"
        return said, 1
    for text, said in _PROCESSES.items() if isinstance(error, RuntimeError) else ():
        if re.search(text, str(error)):
            return said.format(first_line(error)), 1
    return None


def run_command(work: Callable[[], object]) -> int:
    """Run the work of a command: an error becomes one sentence instead of a traceback.

    Args:
        work: does it all.

    Returns:
        the exit code: 0, or that of the error; its message went to stderr.
    """
    try:
        with raising():
            work()
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None:
            raise
        sys.stdout.flush()
        kind = "" if isinstance(error, KeyboardInterrupt) else "error: "
        sys.stderr.write(f"{kind}{explained[0]}\n")
        return explained[1]
    return 0
