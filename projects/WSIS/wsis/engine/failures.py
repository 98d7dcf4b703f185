"""What a run says when it fails: one sentence where the user can help, a traceback elsewhere."""

from __future__ import annotations

import errno

import torch

from wsis.errors import WSISError, first_line, missing_package

_NEXT = "then run the same command again; it goes on where it stopped"
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose another OUTPUT_DIR",
    errno.EACCES: "correct its permissions or choose another OUTPUT_DIR",
    errno.EPERM: "correct its permissions or choose another OUTPUT_DIR",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network drive",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the limit on open files (ulimit -n)",
}


def explain(error: BaseException) -> tuple[str, int] | None:
    """A sentence for an error that comes from outside the code, and the exit code that fits.

    Returns:
        ``(message, exit code)``, or None where the error must be a bug.
    """
    if isinstance(error, WSISError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError):
        said = missing_package(error)
        return (said, 1) if said else None
    if isinstance(error, OSError) and error.errno in _ADVICE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; {_ADVICE[error.errno]}, {_NEXT}", 1
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return (
            f"out of GPU memory ({first_line(error)}); lower SOLVER.IMS_PER_BATCH or the sizes in "
            "INPUT, or use a GPU with more memory",
            1,
        )
    return None
