"""Ctrl-C and SIGTERM: both end a command in the same way, and neither is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was told to end, by SIGTERM."""


def stop_by(number: int) -> KeyboardInterrupt:
    """The exception for a signal."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def exit_code(stop: KeyboardInterrupt) -> int:
    """What shells expect of a command that a signal ended: 128 and the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside the block ``handler`` gets Ctrl-C and SIGTERM, unless they are ignored (``nohup``).

    Does nothing in other threads than the main one: Python handles signals there alone.
    """
    before: dict[int, Any] = {}
    owner = os.getpid()

    def here(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        else:  # a forked process, which is to end as if nobody had set a handler
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, here)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def raising() -> Iterator[None]:
    """Inside the block SIGTERM is raised as Ctrl-C is, and no Ctrl-C is lost.

    Python drops exceptions in finalizers; a Ctrl-C that comes in one is sent again a little later.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise stop_by(number)

    def send_again(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            hook(dropped)
            return
        number = exit_code(dropped.exc_value) - 128
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    hook = sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        with handling(stop):
            yield
    finally:
        sys.unraisablehook = hook


class Postponed:
    """Inside the block a Ctrl-C or SIGTERM is only noted; the second of its kind is raised at once.

    The end of the block raises what was noted.

    Args:
        said: written to stderr when the first one comes.
        following: errors that after a signal are those of processes that it ended, too. Others are
            raised all the same: a full disk, say.

    Attributes:
        number: the signal that came, 0 if none did.
    """

    def __init__(
        self, said: str = "", following: tuple[type[Exception], ...] = (RuntimeError,)
    ) -> None:
        self.number, self._said, self._seen = 0, said, set[int]()
        self._following = following
        self._handling = handling(self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number in self._seen:
            raise stop_by(number)
        if not self._seen and self._said and sys.__stderr__:
            with suppress(OSError, ValueError):  # nobody may read it: Ctrl-C ends "| tee" as well
                # the buffered stream may be in use right now
                os.write(sys.__stderr__.fileno(), f"\n{self._said}\n".encode())
        self._seen.add(number)
        self.number = self.number or number

    def __enter__(self) -> Postponed:
        self._handling.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handling.__exit__(None, None, None)
        if self.number and (kind is None or issubclass(kind, self._following)):
            raise stop_by(self.number)
