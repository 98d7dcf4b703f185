"""One HTML page, without any reference to anything outside it, from ``templates/``."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from wsis.visualization.canvas import Picture

_JPEG_QUALITY = 84
_FLAT = 4096  # colours; a picture of no more may be smaller as PNG, which takes long to find out
Section = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A picture as it stands in the page, encoded, since many of them do not fit into memory.

    Attributes:
        title: what it is.
        note: what else there is to say of this one.
        width: pixels.
        height: pixels.
        source: ``data:`` address.
    """

    title: str
    note: str
    width: int
    height: int
    source: str


def section(name: str, title: str, **shown: Any) -> Section:
    """A section of the page.

    Args:
        name: its id, and that of its template, ``<name>.html``.
        title: headline.
        **shown: what the template shows; ``id`` where that is not ``name``.
    """
    return {"id": name, "title": title, "template": f"{name}.html", **shown}


def encode(pictures: Iterable[Picture]) -> list[Figure]:
    """Pictures for the page."""
    return [Figure(p.title, p.note, *p.panel.shape[1::-1], data_uri(p.panel)) for p in pictures]


def data_uri(picture: np.ndarray) -> str:
    """A picture as ``data:`` address: PNG or JPEG, whichever is smaller.

    Args:
        picture: (P, Q, 3) uint8 RGB.
    """
    image = Image.fromarray(picture)
    options: dict[str, dict[str, int | bool]] = {"JPEG": {"quality": _JPEG_QUALITY}}
    if image.getcolors(_FLAT) is not None:
        options["PNG"] = {"optimize": True}
    encoded = {}
    for kind, settings in options.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **settings)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda name: len(encoded[name]))
    text = base64.b64encode(encoded[kind]).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"


def render(
    title: str, *, facts: Iterable[str], problems: Iterable[str], sections: Iterable[Section]
) -> str:
    """The whole document.

    Args:
        title: headline.
        facts: below it, in one line.
        problems: sentences about what could not be shown.
        sections: in order.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html")
    sections = list(sections)
    return page.render(title=title, facts=facts, problems=problems, sections=sections)
