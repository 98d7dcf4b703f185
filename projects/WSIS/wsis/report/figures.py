"""The figures of a run: the headline, the table, the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wsis.evaluation.results import MAIN_METRICS
from wsis.report.page import Section
from wsis.report.run_folders import RunFolder

Entry = Mapping[str, Any]
MAIN_PROTOCOL = "voc"
_KINDS = {
    "train": "trains a network",
    "infer": "runs a network over the images",
    "derive": "computes from files",
    "export": "writes one file",
}
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


def _tiles(entries: Sequence[Entry], folders: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """What matters most, as large numbers: ``value``, ``what``, ``note``."""
    tiles: dict[tuple[str, str], dict[str, Any]] = {}

    def add(what: str, entry: Entry, metric: str, note: str = "") -> None:
        where = f"protocol {entry['protocol']} on {entry['dataset']}"
        note = f"{note} · {where}" if note else where
        tile = {"value": number_of(entry, metric), "what": what, "note": note}
        tiles.setdefault((what, entry["dataset"]), tile)

    for entry in _with_metric(entries, "mIoU", "semantic")[:1]:
        add("mIoU of the CAMs", entry, "mIoU")
    baseline = best_baseline(entries)
    floor = number_of(baseline, "AP50") if baseline else None
    if baseline:
        add("baseline AP50", baseline, "AP50", "components of thresholded CAMs")
    trained = {folder.name for folder in folders if folder.manifest.kind == "train"}
    for entry in instance_entries(entries):
        if str(entry["stage"]) in trained:
            add(f"{entry['stage']} AP50".replace("_", " "), entry, "AP50")
        else:
            value = number_of(entry, "AP50") or 0.0
            add(
                "pseudo masks AP50",
                entry,
                "AP50",
                f"{value / floor:.1f} times the baseline" if floor else "",
            )
    return list(tiles.values())


def figures_section(entries: Sequence[Entry], folders: Sequence[RunFolder]) -> Section:
    """Every entry of ``metrics.json`` with its protocol; baselines are set off."""
    ranked = [e for e in entries if "AP50" in e.get("metrics", {})]
    others = [e for e in entries if "AP50" not in e.get("metrics", {})]
    metrics = [m for m in MAIN_METRICS if any(m in e["metrics"] for e in ranked)]
    present = {str(e.get("protocol", "")).split(",")[0] for e in entries}
    return {
        "id": "figures",
        "title": "Figures",
        "template": "figures.html",
        "tiles": _tiles(entries, folders),
        "metrics": metrics,
        "rows": [
            {
                "source": _source(entry),
                "is_baseline": is_baseline(entry),
                "figures": [_per_cent(entry, metric) for metric in metrics],
            }
            for entry in ranked
        ],
        "others": [{"source": _source(entry), "named": _named(entry)} for entry in others],
        "explained": {k: v for k, v in _EXPLAINED.items() if k in present},
    }


def _source(entry: Entry) -> list[str]:
    return [str(entry.get(key, "")) for key in ("stage", "dataset", "protocol")]


def _named(entry: Entry) -> list[tuple[str, str]]:
    known = [metric for metric in MAIN_METRICS if metric in entry.get("metrics", {})]
    return [(metric.replace("_", " "), _per_cent(entry, metric)) for metric in known]


def _per_cent(entry: Entry, metric: str) -> str:
    value = number_of(entry, metric)
    if value is None:
        return "–" if metric in entry.get("metrics", {}) else ""
    return f"{value:.1f}"


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{value:.1f} s"


def _stage_row(folder: RunFolder) -> dict[str, Any]:
    manifest = folder.manifest
    result = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in manifest.counts.items())
    if manifest.skipped:
        result += f"; {len(manifest.skipped)} skipped"
    data = folder.dataset_names("DATASETS.TRAIN" if manifest.kind == "train" else "WSIS.IMAGES")
    return {
        "folder": folder.folder.name,
        "kind": _KINDS.get(manifest.kind, manifest.kind),
        "state": manifest.status,
        "images": ", ".join(data),
        "result": result,
        "highlights": " · ".join(f"{k} {v}" for k, v in folder.highlights.items()),
        "settings": sorted(manifest.config.items()),
        "time": _seconds(manifest.seconds) if manifest.seconds else "",
    }


def stages_section(folders: Sequence[RunFolder]) -> Section:
    """The stages in order: state, counts, time, main settings; all settings behind a click."""
    return {
        "id": "stages",
        "title": "Stages",
        "template": "stages.html",
        "time": _seconds(sum(folder.manifest.seconds for folder in folders)),
        "rows": [_stage_row(folder) for folder in folders],
        "skipped": [
            (folder.name, key, reason)
            for folder in folders
            for key, reason in list(folder.manifest.skipped.items())[:20]
        ],
    }
