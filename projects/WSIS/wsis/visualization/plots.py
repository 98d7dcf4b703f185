"""Plots of figures as SVG text that fits into an HTML page, light or dark.

Lines and letters have the page's own colour (``currentColor``); no file, no font, no address.
Every plot has a ``name`` that is unique on the page. Most have a ``title`` above them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SERIES = ("#3d85c6", "#e0812b", "#2aa876", "#b565c9", "#c94f5d", "#8a8f3c", "#6f7ea8")
_INK = "#0a0b0c"  # replaced by currentColor
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


def _axes(*size: float) -> Axes:
    """Axes of a plot of a given size, in inches of 72 points, on a transparent ground."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for background in (figure.patch, axes.patch):
        background.set_visible(False)
    return axes


def _svg(axes: Axes, name: str) -> str:
    """The ``<svg>`` element of a plot."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):  # which keeps the ids of plots apart
        axes.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text, count=2)
    return text.replace(_INK, "currentColor").replace("<svg ", '<svg role="img" ', 1)


@mpl.rc_context(_STYLE)
def loss_plot(losses: Mapping[str, Sequence[tuple[float, float]]], *, name: str, title: str) -> str:
    """Losses, name to (iteration, value) pairs; ``total_loss`` is thick."""
    axes = _axes(4.4, 2.9)
    parts = [key for key in losses if key != "total_loss"]
    for index, key in enumerate(parts):
        label = key.removeprefix("loss_").replace("_", " ")
        color = SERIES[(index + 1) % len(SERIES)]
        axes.plot(*zip(*losses[key], strict=True), color=color, linewidth=1.0, label=label)
    if "total_loss" in losses:
        points = zip(*losses["total_loss"], strict=True)
        axes.plot(*points, color=SERIES[0], linewidth=2.2, label="total")
    axes.set(title=title, xlabel="iteration", ylabel="loss")
    axes.set_ylim(bottom=0 if min(v for s in losses.values() for _, v in s) >= 0 else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.grid(axis="y")
    axes.legend(ncols=2 if len(losses) > 3 else 1)
    return _svg(axes, name)


@mpl.rc_context(_STYLE)
def class_bars(series: Mapping[str, Mapping[str, float | None]], *, name: str, label: str) -> str:
    """Figures of classes as horizontal bars, one colour for each series; ``label`` is the axis'.

    A series is {class: per cent, None where undefined}, by its entry in the legend.
    """
    classes = list(dict.fromkeys(c for values in series.values() for c in values))
    number = max(len(series), 1)
    thickness = 0.8 / number
    axes = _axes(6.0, 0.6 + 0.2 * len(series) + len(classes) * (0.12 + 0.17 * number))
    for index, (entry, values) in enumerate(series.items()):
        places = np.arange(len(classes)) + (index - (len(series) - 1) / 2) * thickness
        shown = [values.get(c) for c in classes]
        widths, color = [v or 0.0 for v in shown], SERIES[index % len(SERIES)]
        bars = axes.barh(places, widths, height=0.9 * thickness, color=color, label=entry)
        texts = ["–" if v is None else f"{v:.1f}" for v in shown]
        axes.bar_label(bars, texts, padding=2, fontsize=7)
    axes.set_yticks(range(len(classes)), classes)
    axes.invert_yaxis()
    axes.set(xlim=(0, 108), xlabel=label)
    axes.set_xticks(range(0, 101, 25))
    axes.grid(axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
    return _svg(axes, name)


@mpl.rc_context(_STYLE)
def calibration_plot(
    scores: np.ndarray, ious: np.ndarray, true: np.ndarray, *, name: str, title: str
) -> str:
    """Mean IoU and precision at IoU 0.5 of instances by score, in bins of a tenth.

    Args are (n,): scores in 0..1 (values outside count in the nearest bin), the IoU with the
    best object of the same class, and whether one was found.
    """
    bins = np.clip((np.asarray(scores) * 10).astype(np.int64), 0, 9)
    counts, centres = np.bincount(bins, minlength=10), (np.arange(10) + 0.5) / 10
    filled = counts > 0
    axes = _axes(4.4, 3.1)
    shares = counts / max(counts.sum(), 1)
    axes.bar(centres, shares, 0.09, color=_INK, alpha=0.12, label="share of all")
    axes.plot([0, 1], [0, 1], color=_INK, alpha=0.35, linewidth=0.8, linestyle="--")
    for values, style, color, label in (
        (true, "o-", SERIES[0], "precision at 0.5"),
        (ious, "s-", SERIES[1], "mean IoU"),
    ):
        sums = np.bincount(bins, weights=np.asarray(values, dtype=np.float64), minlength=10)
        means = sums[filled] / counts[filled]
        axes.plot(centres[filled], means, style, color=color, markersize=4, label=label)
    axes.set(title=title, xlabel="score", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(axis="y")
    axes.legend(loc="upper left")
    return _svg(axes, name)


@mpl.rc_context(_STYLE)
def size_histogram(series: Mapping[str, np.ndarray], *, name: str, title: str) -> str:
    """Numbers of masks by size, on a logarithmic axis; areas (n,) are pixels, at least 1."""
    sides = {entry: np.sqrt(np.maximum(areas, 1)) for entry, areas in series.items()}
    together = np.concatenate([*sides.values()])
    longest = max(together.max(initial=1.0), 2.0)
    shortest = min(together.min(initial=np.inf), longest / 2)
    edges = np.geomspace(shortest, longest * 1.001, 19)
    axes = _axes(4.4, 3.1)
    for index, (entry, values) in enumerate(sides.items()):
        label, color = f"{entry} ({len(values)})", SERIES[index % len(SERIES)]
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts, edges, color=color, fill=True, alpha=0.18)
        axes.stairs(counts, edges, color=color, linewidth=1.6, label=label)
    axes.set_xscale("log")
    ticks = [2**power for power in range(11) if edges[0] <= 2**power <= edges[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(title=title, xlabel="square root of the area, pixels", ylabel="masks")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend()
    return _svg(axes, name)
