"""One HTML page without any reference to anything outside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--soft:#5b6673;--line:#dfe3e8;--card:#f6f7f9;
--accent:#0f6fb8;--mark:#fff4d6}
@media(prefers-color-scheme:dark){:root{--bg:#14171c;--fg:#e4e7eb;--soft:#9aa5b1;--line:#2d343d;
--card:#1c2128;--accent:#6cb6ff;--mark:#3a3115}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,nav{max-width:1320px;margin:0 auto;padding:0 28px}
header{padding-top:36px}header p{max-width:none}
h1{font-size:30px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:21px;margin:52px 0 8px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:26px 0 6px}
p{margin:6px 0 12px;max-width:96ch}
.soft{color:var(--soft)}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
nav ol{display:flex;flex-wrap:wrap;gap:4px 22px;list-style:none;margin:16px 0 0;padding:10px 0;
border-block:1px solid var(--line);counter-reset:toc}
nav li{counter-increment:toc}nav li::before{content:counter(toc) ".";color:var(--soft);
margin-right:5px}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:14px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.tile b{display:block;font-size:30px;line-height:1.15;font-variant-numeric:tabular-nums}
.tile .what{font-weight:600}.tile .note{color:var(--soft);font-size:13px;line-height:1.4}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px;margin:10px 0 14px;
font-variant-numeric:tabular-nums}
th,td{padding:5px 12px 5px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);white-space:nowrap}
td.n,th.n{text-align:right;padding-right:14px;white-space:nowrap}
td.s{white-space:nowrap}
tr.mark td{background:var(--mark)}
.chip{display:inline-block;padding:0 9px;border-radius:99px;font-size:12.5px;line-height:20px;
background:var(--card);border:1px solid var(--line);margin:0 5px 3px 0;white-space:nowrap}
.chip i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.row{border:1px solid var(--line);border-radius:10px;padding:12px 14px 4px;margin:14px 0;
background:var(--card);break-inside:avoid}
.row>.head{display:flex;flex-wrap:wrap;align-items:center;gap:2px 10px;margin-bottom:8px}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(228px,1fr));gap:12px}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(400px,1fr));gap:14px}
.pairs .row{margin:0}.pairs .panels{grid-template-columns:repeat(auto-fit,minmax(130px,1fr))}
.pairs.wide{grid-template-columns:repeat(auto-fill,minmax(560px,1fr))}
figure{margin:0 0 8px}
figure img{display:block;width:100%;height:auto;border-radius:5px;background:#8884}
figcaption{font-size:12.5px;line-height:1.35;margin-top:5px;color:var(--soft)}
figcaption b{color:var(--fg);font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:18px 26px;
margin:14px 0}
.plots.wide{grid-template-columns:minmax(300px,640px)}
.plots svg{width:100%;height:auto}
dl.how{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;font-size:13.5px;
margin:12px 0;max-width:110ch}
dl.how dt{font-weight:600}dl.how dd{margin:0;color:var(--soft)}
details{margin:4px 0}summary{cursor:pointer;color:var(--accent);font-size:13px}
.problem{border-left:4px solid #d98a00;background:var(--card);padding:8px 14px;margin:10px 0;
border-radius:0 8px 8px 0;font-size:14px}
footer{max-width:1320px;margin:50px auto 30px;padding:14px 28px 0;color:var(--soft);font-size:13px}
@media print{.row,figure{break-inside:avoid}}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_JPEG_QUALITY = 84
_FLAT = 4096  # colours; a picture of no more may be smaller as PNG, which takes long to find out


def escape(text: object) -> str:
    """Text as it may stand in HTML, in attributes too."""
    return html.escape(str(text), quote=True)


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


def figure(picture: np.ndarray, title: str, note: str = "") -> str:
    """A picture with a caption.

    Args:
        picture: (P, Q, 3) uint8 RGB.
        title: what it is.
        note: what else there is to say of this one.
    """
    caption = f"<b>{escape(title)}</b>" + (f" {escape(note)}" if note else "")
    return (
        f'<figure><img loading="lazy" width="{picture.shape[1]}" height="{picture.shape[0]}" '
        f'alt="{escape(title)}" src="{data_uri(picture)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def chip(text: str, color: Sequence[int] | None = None) -> str:
    """A small label, with a swatch of a colour (RGB, 0..255) if one is given."""
    swatch = "" if color is None else f'<i style="background:rgb({",".join(map(str, color))})"></i>'
    return f'<span class="chip">{swatch}{escape(text)}</span>'


def card(head: str, figures: Sequence[str]) -> str:
    """Figures of one image under one headline (HTML)."""
    return (
        f'<div class="row"><div class="head">{head}</div>'
        f'<div class="panels">{"".join(figures)}</div></div>'
    )


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: int = 0,
    marked: Sequence[bool] = (),
) -> str:
    """A table of HTML cells.

    Args:
        headers: plain text.
        rows: cells, already HTML.
        numbers: how many of the last columns are numbers, aligned to the right.
        marked: rows to set off.
    """
    first = len(headers) - numbers

    def cells(values: Sequence[str], tag: str) -> str:
        kinds = ["" if i < first else ' class="n"' for i in range(len(values))]
        return "".join(f"<{tag}{k}>{v}</{tag}>" for k, v in zip(kinds, values, strict=True))

    body = ""
    for index, row in enumerate(rows):
        mark = ' class="mark"' if index < len(marked) and marked[index] else ""
        body += f"<tr{mark}>{cells(row, 'td')}</tr>"
    head = cells([escape(h) for h in headers], "th")
    content = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{content}</table></div>'


def definitions(entries: Mapping[str, str]) -> str:
    """Names and one sentence for each."""
    return (
        '<dl class="how">'
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries.items())
        + "</dl>"
    )


def problem(text: str) -> str:
    """A sentence about something that could not be shown."""
    return f'<div class="problem">{escape(text)}</div>'


@dataclass
class Page:
    """The sections of a report.

    Attributes:
        title: headline.
        subtitle: HTML below it.
        footer: HTML at the end.
        sections: (id, title, HTML), in order.
    """

    title: str
    subtitle: str = ""
    footer: str = ""
    sections: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, name: str, title: str, content: str) -> None:
        """Append a section, unless it is empty."""
        if content:
            self.sections.append((name, title, content))

    def render(self) -> str:
        """The whole document."""
        contents = "".join(
            f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, _ in self.sections
        )
        body = "".join(
            f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>\n'
            for name, title, content in self.sections
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head><body>\n"
            f"<header><h1>{escape(self.title)}</h1>{self.subtitle}</header>\n"
            f"<nav><ol>{contents}</ol></nav>\n<main>{body}</main>\n"
            f"<footer>{self.footer}</footer>\n</body></html>\n"
        )
