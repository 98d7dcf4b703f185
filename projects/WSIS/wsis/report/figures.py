"""The figures of a run: the headline, the table, the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wsis.evaluation.results import MAIN_METRICS
from wsis.report.page import definitions, escape, table
from wsis.report.runs import RunFolder

Entry = Mapping[str, Any]
MAIN_PROTOCOL = "voc"
_KINDS = {
    "train": "trains a network",
    "infer": "runs a network over the images",
    "derive": "computes from files",
    "export": "writes one file",
}


def number_of(entry: Entry, metric: str) -> float | None:
    """A finite figure of an entry of ``metrics.json``, else None."""
    value = entry.get("metrics", {}).get(metric)
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else None


def is_baseline(entry: Entry) -> bool:
    """Whether an entry measures the components of the CAMs."""
    return ", baseline " in str(entry.get("protocol", ""))


def _with_metric(entries: Sequence[Entry], metric: str, protocol: str) -> list[Entry]:
    return [
        e
        for e in entries
        if str(e.get("protocol", "")).startswith(protocol) and number_of(e, metric) is not None
    ]


def best_baseline(entries: Sequence[Entry]) -> Entry | None:
    """The threshold at which the components of the CAMs do best, None if they were not measured."""
    found = list(filter(is_baseline, _with_metric(entries, "AP50", MAIN_PROTOCOL)))
    return max(found, key=lambda e: number_of(e, "AP50") or 0.0, default=None)


def instance_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Protocol ``voc`` of every stage that makes instances, with AP50."""
    found = _with_metric(entries, "AP50", MAIN_PROTOCOL)
    return [e for e in found if not is_baseline(e)]


def _tile(value: float, what: str, note: str) -> str:
    return (
        f'<div class="tile"><b>{value:.1f}%</b><span class="what">{escape(what)}</span>'
        f'<div class="note">{escape(note)}</div></div>'
    )


def headline(entries: Sequence[Entry], runs: Sequence[RunFolder]) -> str:
    """What matters most, as large numbers; empty where nothing was evaluated."""
    tiles = []
    for entry in _with_metric(entries, "mIoU", "semantic")[:1]:
        tiles.append(_tile(number_of(entry, "mIoU"), "mIoU of the CAMs", _where(entry)))
    baseline = best_baseline(entries)
    floor = number_of(baseline, "AP50") if baseline else None
    if baseline:
        note = f"components of thresholded CAMs · {_where(baseline)}"
        tiles.append(_tile(floor, "baseline AP50", note))
    trained = {run.name for run in runs if run.manifest.kind == "train"}
    seen = set()
    for entry in instance_entries(entries):
        value, stage = number_of(entry, "AP50"), str(entry["stage"])
        what = stage if stage in trained else "pseudo masks"
        if (what, entry["dataset"]) in seen:
            continue
        seen.add((what, entry["dataset"]))
        note = _where(entry)
        if what == "pseudo masks" and floor:
            note = f"{value / floor:.1f} times the baseline · {note}"
        tiles.append(_tile(value, f"{what.replace('_', ' ')} AP50", note))
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _where(entry: Entry) -> str:
    return f"protocol {entry['protocol']} on {entry['dataset']}"


_EXPLAINED = {
    "voc": "Mask AP with VOC's matching (a prediction may take only the object it overlaps most); "
    "ABO is the mean best overlap of the objects.",
    "coco": "Mask AP with pycocotools' matching; AP is the mean over IoU 0.50 to 0.95.",
    "coco_bbox": "The same for boxes.",
    "quality": "Pseudo labels without a ranking: precision and recall at IoU 0.5, mIoU of their "
    "union; merged and split are shares of the true objects.",
    "classification": "Mean average precision of the image classifier over classes.",
    "semantic": "mIoU of a label map over background and classes.",
    "inter-pixel label": "Share of unknown pixels, and how much of the rest is right.",
}


def figure_table(entries: Sequence[Entry]) -> str:
    """Every entry of ``metrics.json`` with its protocol; baselines are set off."""
    if not entries:
        return ""
    ranked = [e for e in entries if "AP50" in e.get("metrics", {})]
    others = [e for e in entries if "AP50" not in e.get("metrics", {})]
    html = (
        '<p class="soft">All figures in per cent. Published tables mix protocols, so each figure '
        "stands beside its own. Rows in yellow are the baseline: components of thresholded "
        "CAMs.</p>"
    )
    if ranked:
        shown = [m for m in MAIN_METRICS if any(m in e["metrics"] for e in ranked)]
        rows = [[*_source_cells(e), *(_per_cent(e, m) for m in shown)] for e in ranked]
        headers = ("stage", "data set", "protocol", *shown)
        marked = [is_baseline(e) for e in ranked]
        html += "<h3>Instances</h3>" + table(headers, rows, numbers=len(shown), marked=marked)
    if others:
        rows = [[*_source_cells(e), _named_figures(e)] for e in others]
        html += "<h3>Other products</h3>"
        html += table(("stage", "data set", "protocol", "figures"), rows)
    present = {str(e.get("protocol", "")).split(",")[0] for e in entries}
    return html + definitions({k: v for k, v in _EXPLAINED.items() if k in present})


def _source_cells(entry: Entry) -> list[str]:
    return [escape(str(entry.get(key, ""))) for key in ("stage", "dataset", "protocol")]


def _per_cent(entry: Entry, metric: str) -> str:
    value = number_of(entry, metric)
    if value is None:
        return "–" if metric in entry.get("metrics", {}) else ""
    return f"{value:.1f}"


def _named_figures(entry: Entry) -> str:
    metrics = [m for m in MAIN_METRICS if m in entry.get("metrics", {})]
    return " · ".join(
        f"{escape(m.replace('_', ' '))} <b>{_per_cent(entry, m)}</b>" for m in metrics
    )


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{value:.1f} s"


def stage_table(runs: Sequence[RunFolder]) -> str:
    """The stages in order: state, counts, time, main settings; all settings behind a click."""
    rows = []
    for run in runs:
        manifest = run.manifest
        counts = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in manifest.counts.items())
        if manifest.skipped:
            counts += f"; {len(manifest.skipped)} skipped"
        settings = " · ".join(f"{k} {v}" for k, v in run.highlights.items())
        data = run.dataset_names("DATASETS.TRAIN" if manifest.kind == "train" else "WSIS.IMAGES")
        full = "<br>".join(
            f"<code>{escape(k)} = {escape(v)}</code>" for k, v in sorted(manifest.config.items())
        )
        rows.append(
            (
                f"<code>{escape(run.folder.name)}</code>",
                escape(_KINDS.get(manifest.kind, manifest.kind)),
                escape(manifest.status),
                escape(", ".join(data)),
                escape(counts),
                escape(settings)
                + f"<details><summary>{len(manifest.config)} settings</summary>{full}</details>",
                _seconds(manifest.seconds) if manifest.seconds else "",
            )
        )
    headers = ("run folder", "what it does", "state", "images of", "result", "settings", "time")
    total = sum(run.manifest.seconds for run in runs)
    skipped = "".join(
        f"<li><code>{escape(run.name)}</code> {escape(key)}: {escape(reason)}</li>"
        for run in runs
        for key, reason in list(run.manifest.skipped.items())[:20]
    )
    skipped = f"<h3>Images left out</h3><ul>{skipped}</ul>" if skipped else ""
    return (
        f'<p class="soft">{len(runs)} stages, {_seconds(total)} of work in all.</p>'
        + table(headers, rows, numbers=1)
        + skipped
    )
