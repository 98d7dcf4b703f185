"""The errors that a user can cause. The command line prints their message and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class WSISError(Exception):
    """Something outside the code is wrong; the message names the file and the next command."""

    exit_code = 1


class UsageError(WSISError):
    """The command line or the config asks for what cannot be done."""

    exit_code = 2


class DataError(WSISError, ValueError):
    """A file from outside is missing, damaged or contradicts itself."""


_SOURCES = {
    "detectron2": "the section on installing in README.md says where it comes from",
    "cv2": "pip install opencv-python-headless",
}


def first_line(error: BaseException) -> str:
    """What an error says, or its name where it says nothing, for one sentence of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def missing_package(error: ModuleNotFoundError) -> str | None:
    """One sentence about a package that is not installed and where to get it.

    Returns:
        the sentence, or None for a module that no user is asked to install, which is a bug.
    """
    name = (error.name or "").partition(".")[0]
    return f"the package {name} is not installed; {_SOURCES[name]}" if name in _SOURCES else None


def run_command(work: Callable[[], None]) -> int:
    """What every small command does around its work: one sentence instead of a traceback.

    Args:
        work: does it all.

    Returns:
        the exit code: 0, or that of the error, whose message went to stderr.
    """
    try:
        work()
    except WSISError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        said = missing_package(error)
        if said is None:
            raise
        sys.stderr.write(f"error: {said}\n")
        return 1
    except OSError as error:
        said = f"a file cannot be read or written ({error}); correct that and run again"
        sys.stderr.write(f"error: {said}\n")
        return 1
    return 0
