"""Code that the command lines of ``tools/`` and ``datasets/`` share.

Nothing heavy (torch, Detectron2, matplotlib) is imported here. A script imports it only after its
command line is parsed, so that ``--help`` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any, NoReturn

from wsis.errors import UsageError, WSISError, did_you_mean, run_command


class _Pipe(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)


def let_output_vanish() -> None:
    """Let output that nobody reads (``| head``, ``>&-``) vanish instead of raising errors."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (until the process ends)
        elif stream is getattr(sys, f"__{name}__"):
            pipe = _Pipe(stream.fileno(), "w", closefd=False)
            buffer = pipe if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(pipe)
            options = ("encoding", "errors", "line_buffering", "write_through")
            how = {option: getattr(stream, option) for option in options}
            setattr(sys, name, io.TextIOWrapper(buffer, **how))


class _Parser(argparse.ArgumentParser):
    """Says which option a mistyped one is like."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = sys.argv[1:] if args is None else args
        for word in self._words:  # of a page that made one dash of two hyphens
            name = "--" + word.lstrip("-–—−").partition("=")[0]
            if word[:1] in ("–", "—", "−") and name in self._option_string_actions:
                self.error(f"there is no {word}; did you mean {name}, with two hyphens?")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        known = self._option_string_actions
        words = [word.partition("=")[0] for word in self._words if word.startswith("-")]
        hints = {word: did_you_mean(word, known) for word in words if word not in known}
        for word, hint in hints.items():
            message += hint if message.endswith(word) or not hint else f"; there is no {word}{hint}"
        super().error(message)


def make_parser(description: str | None, **settings: Any) -> argparse.ArgumentParser:
    """A parser that prints texts as they are written, and takes no abbreviated options."""
    return _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **settings,
    )


def command(
    parse: Callable[[list[str] | None], argparse.Namespace],
    work: Callable[[argparse.Namespace], object] | str,
) -> Callable[[list[str] | None], int]:
    """The ``main`` of a script: command line in, exit code out, errors as sentences on stderr.

    Args:
        parse: reads the command line; it gets None for the command line of the process.
        work: does the work with the parsed options; text ``module:function`` is imported after
            parsing.
    """

    def main(arguments: list[str] | None = None) -> int:
        let_output_vanish()
        options = parse(arguments)
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        return run_command(lambda: (resolve_name(work) if isinstance(work, str) else work)(options))

    return main


def whole(text: str) -> int:
    """A whole number from 0, for ``type=`` of an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0, for ``type=`` of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def finite(text: str) -> float:
    """A finite number, for ``type=`` of an option."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return value


def not_negative(text: str) -> float:
    """A finite number of at least 0, for ``type=`` of an option."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1, for ``type=`` of an option."""
    value = not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is above 1")
    return value


def add_pipeline(
    parser: argparse.ArgumentParser,
    help_text: str,
    overrides: str = "config overrides, as for train_net.py",
) -> None:
    """Add the arguments that name a pipeline: its file, and overrides at the end of the line."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help=help_text)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help=overrides)


def check_output(option: str, path: Any, *inputs: Any, what: str = "a JSON file") -> None:
    """Refuse as the file to write a folder, or one of the files that are read; None is no path.

    ``what`` is written, in words.

    Raises:
        UsageError: with what to choose.
    """
    if path is not None and os.path.isdir(path):
        raise UsageError(f"{option} {path} is a folder; name {what} in it")
    files = [os.path.realpath(one) for one in (path, *inputs) if one and os.path.isfile(one)]
    if path is not None and files.count(os.path.realpath(path)) > 1:
        raise UsageError(f"{option} {path} is what is read; choose another file")


@contextmanager
def writing(path: str | os.PathLike[str], option: str) -> Iterator[None]:
    """Turn a failure to write a file into a sentence, which says to choose ``option``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise WSISError(f"cannot write {path} ({reason}); choose {option}") from None
