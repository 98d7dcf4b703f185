"""A process that ends with the one that started it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from threading import Thread

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux (sys/prctl.h)


def end_with_parent() -> None:
    """Have this process killed when the one that started it has ended, in whatever way.

    Linux does that at once. Elsewhere, or if that one has ended already, a thread that looks every
    second does it.
    """
    with suppress(OSError, AttributeError, TypeError):  # no Linux
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    starter = multiprocessing.parent_process()
    while os.getppid() == parent and (starter is None or starter.is_alive()):
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
