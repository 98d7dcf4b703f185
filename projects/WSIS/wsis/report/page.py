"""One HTML page, without any reference to anything outside it, from ``templates/``."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from wsis.visualization.canvas import Picture

_JPEG_QUALITY = 84
_FLAT = 4096  # colours; a picture with more is not tried as PNG, which takes long
Section = dict[str, Any]


def section(name: str, title: str, **shown: Any) -> Section:
    """A section of the page with its headline: ``<name>.html`` shows what is given.

    Its id is the name, too, unless another ``id`` is among ``shown``.
    """
    return {"id": name, "title": title, "template": f"{name}.html", **shown}


def encode(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Pictures as they stand in the page: encoded, since many of them do not fit into memory."""
    return [
        {**vars(picture), "size": picture.panel.shape[1::-1], "panel": _address(picture.panel)}
        for picture in pictures
    ]


def _address(picture: np.ndarray) -> str:
    """A picture (P, Q, 3) as ``data:`` address: PNG or JPEG, whichever is smaller."""
    image, addresses = Image.fromarray(picture), []
    for kind in ("jpeg", "png") if image.getcolors(_FLAT) is not None else ("jpeg",):
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=_JPEG_QUALITY, optimize=kind == "png")
        text = base64.b64encode(buffer.getvalue()).decode("ascii")
        addresses.append(f"data:image/{kind};base64,{text}")
    return min(addresses, key=len)


def render(
    title: str, *, facts: Iterable[str], problems: Iterable[str], sections: Iterable[Section]
) -> str:
    """The whole document: the title, the facts in one line below it, then the problems."""
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
