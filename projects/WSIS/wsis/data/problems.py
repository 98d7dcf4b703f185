"""What is wrong with a data set's annotations: collected, so that a person sees all at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from wsis.errors import DataError

logger = logging.getLogger(__name__)

TOLD = 20  # of a message
KEPT = 10_000  # more of them are counted only


class FieldError(ValueError):
    """A ValueError about one field of an entry; its text begins with the field's name."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field} {text}")
        self.field = field


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or odd.

    Attributes:
        level: "error" if something had to be left out that may be missed; else "warning".
        message: what was found and what was done, without the place.
        file: where.
        image: its id or name in the file.
        annotation: its id, else its number in the image from 1.
        field: the key of the annotation, image or category.
    """

    level: str
    message: str
    file: str = ""
    image: int | str | None = None
    annotation: int | str | None = None
    field: str | None = None

    def __str__(self) -> str:
        about = {"image": self.image, "annotation": self.annotation}
        named = ", ".join(f"{what} {which}" for what, which in about.items() if which is not None)
        file = "" if self.file in self.message else self.file
        return ": ".join(part for part in (file, named, self.message) if part)

    def as_dict(self) -> dict[str, Any]:
        """The attributes, as ``tools/check_data.py --json`` writes them."""
        return asdict(self)


ADVICE = "correct them, or set WSIS.ON_ERROR skip to leave them out; tools/check_data.py lists all"


class Problems:
    """Collects the problems of one data set.

    Attributes:
        found: in the order of the files, at most `KEPT`.
        errors, warnings: how many there were.
        left_out: images, annotations and parts of these that are not in what was read.
    """

    def __init__(self, *, strict: bool = False) -> None:
        """With ``strict`` what is odd counts as broken."""
        self.strict = strict
        self.found: list[Problem] = []
        self.errors = self.warnings = self.left_out = 0

    def _add(self, level: str, message: str, place: dict[str, Any]) -> None:
        if len(self.found) < KEPT:
            place["file"] = os.fspath(place.get("file", ""))
            self.found.append(Problem(level, message, **place))

    def error(self, message: str, *, left_out: int = 1, **place: Any) -> None:
        """Something is broken; ``place`` is of `Problem`: file, image, annotation, field."""
        self.errors += 1
        self.left_out += left_out
        self._add("error", message, place)

    def warning(self, message: str, *, left_out: int = 0, **place: Any) -> None:
        """Something is odd, and read all the same or left out because nobody can miss it."""
        if self.strict:
            self.error(message, left_out=left_out, **place)
        else:
            self.warnings += 1
            self.left_out += left_out
            self._add("warning", message, place)

    @contextmanager
    def leaving_out(self, **place: Any) -> Iterator[None]:
        """A ValueError or DataError inside ends the block and becomes an error of ``place``."""
        try:
            yield
        except (ValueError, DataError) as error:
            if isinstance(error, FieldError):
                place = {"field": error.field} | place
            self.error(str(error), **place)

    def take(self, other: Problems) -> None:
        """Add what another one collected, but nothing a second time."""
        known = set(self.found)
        again = [problem.level for problem in other.found if problem in known]
        self.found += [problem for problem in other.found if problem not in known]
        del self.found[KEPT:]
        self.errors += other.errors - again.count("error")
        self.warnings += other.warnings - again.count("warning")
        self.left_out += other.left_out

    def summary(self, level: str) -> str:
        """The first `TOLD` problems of a level, a line each, and how many more there are."""
        count = self.errors if level == "error" else self.warnings
        told = [str(problem) for problem in self.found if problem.level == level][:TOLD]
        more = [f"... and {count - len(told)} more"] if count > len(told) else []
        return "\n".join(told + more)

    def raise_errors(self, advice: str) -> None:
        """Stop with the list of errors, if there are any.

        Raises:
            DataError: a single error is one line; ``advice`` says what to do.
        """
        if self.errors == 1:
            raise DataError(f"{self.summary('error')}; {advice}")
        if self.errors:
            raise DataError(f"{self.errors} problems; {advice}:\n{self.summary('error')}")


@contextmanager
def collecting(problems: Problems | None, advice: str = ADVICE) -> Iterator[Problems]:
    """``problems``, for a reader; without any, what it met is raised or logged at the block's end.

    Raises:
        DataError: as `Problems.raise_errors`.
    """
    found = Problems() if problems is None else problems
    yield found
    if problems is None:
        found.raise_errors(advice)
        if found.warnings:
            logger.warning("warnings: %d:\n%s", found.warnings, found.summary("warning"))
