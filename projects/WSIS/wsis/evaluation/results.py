"""``metrics.json`` and the tables that the terminal shows."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tabulate import tabulate

from wsis.data.files import write_json
from wsis.errors import UsageError
from wsis.evaluation.streaming import Metrics
from wsis.stage import Stage, get_stage

# Shown in tables, in this order; per-class entries (with a slash) stay in metrics.json.
MAIN_METRICS = (
    "mAP",
    "mIoU",
    "mIoU*",
    "IoU@50",
    "IoU@75",
    "AP",
    "AP25",
    "AP50",
    "AP70",
    "AP75",
    "ABO",
    "precision50",
    "recall50",
    "merged",
    "split",
    "unknown",
    "foreground_precision",
    "background_precision",
)

_BASELINE = "baseline "  # in the protocol: "baseline filled box", "voc, baseline CAM > 0.4"
_COMPARED = ("AP50", "mIoU")  # masks with their baseline
_MAIN = {  # in the table that ends a run: protocol to metric
    "classification": "mAP",
    "semantic": "mIoU",
    "box masks": "mIoU",
    "voc": "AP50",
    "quality": "mIoU",
    "coco": "AP",
    "coco_bbox": "AP",
}
_ADVICE = "docs/photographs.md says what helps"


def stage_result(
    stage: str,
    dataset: str,
    protocol: str,
    metrics: Metrics,
    *,
    skipped: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One entry of ``metrics.json``; ``skipped`` are images that count as missed, and why."""
    entry = {"stage": stage, "dataset": dataset, "protocol": protocol, "metrics": metrics}
    return {**entry, "skipped": dict(skipped)} if skipped else entry


def are_results(found: Any) -> bool:
    """Whether what a file holds is a list of entries of `stage_result`."""

    def has_texts(value: Any, *names: str) -> bool:
        return isinstance(value, dict) and all(isinstance(value.get(n), str) for n in names)

    return isinstance(found, list) and all(
        has_texts(entry, "stage", "dataset", "protocol")
        and isinstance(entry.get("metrics"), dict)
        and ("weights" not in entry or has_texts(entry["weights"], "file", "digest"))
        for entry in found
    )


def stage_title(entry: Mapping[str, Any]) -> str:
    """The stage of an entry, with the checkpoint if it was another than the run's own."""
    stage, weights = str(entry.get("stage", "")), entry.get("weights")
    return f"{stage}, weights {weights['file']}" if weights else stage


def number_of(entry: Mapping[str, Any], metric: str) -> float | None:
    """A finite figure of an entry of ``metrics.json``, else None."""
    value = entry.get("metrics", {}).get(metric)
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else None


def is_baseline(entry: Mapping[str, Any]) -> bool:
    """Whether an entry measures what masks have to beat: filled boxes, components of CAMs."""
    return _BASELINE in str(entry.get("protocol", ""))


def _is_baseline_of(one: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a baseline of another: on the same data set, of the same checkpoint.

    ``"voc, baseline ..."`` is one of all masks measured by ``voc``, ``"baseline ..."`` one of those
    of its own stage.
    """
    if is_baseline(entry) or not is_baseline(one):
        return False
    protocol = str(one["protocol"]).partition(_BASELINE)[0].rstrip(", ")
    alike = ["dataset", "weights"] if protocol else ["dataset", "weights", "stage"]
    same = all(one.get(key) == entry.get(key) for key in alike)
    return same and protocol in ("", entry.get("protocol"))


def _best_baseline(
    entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], metric: str
) -> tuple[float, str] | None:
    """The highest figure among an entry's baselines, and the protocol that gave it."""
    rivals = [one for one in entries if _is_baseline_of(one, entry)] if metric in _COMPARED else []
    floors = [(number_of(one, metric), str(one["protocol"])) for one in rivals]
    return max(((floor, p) for floor, p in floors if floor is not None), default=None)


def _stage_of(entry: Mapping[str, Any]) -> Stage:
    """The stage of an entry, with no declaration if its method is not installed here."""
    with suppress(UsageError):
        return get_stage(entry["stage"])
    return Stage(name="", title="")


def _refined(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], metric: str) -> float:
    """The figure of what a stage made of the masks that an entry measures; 0 if none did."""
    same = ("dataset", "weights")
    found = (
        number_of(one, metric) or 0.0
        for one in entries
        if one["protocol"] == _stage_of(one).refines.get(entry["protocol"])
        and all(one.get(key) == entry.get(key) for key in same)
    )
    return max(found, default=0.0)


def lost_to_baselines(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Stages whose masks do not beat the best baseline on a data set, each with a sentence.

    Masks may lose where what a later stage makes of them wins (`wsis.stage.Stage.refines`).

    Keys are `stage_title` and data set. A sentence ends with what to do, which the stage declares
    (`wsis.stage.Stage.advice`).
    """
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        for metric in _COMPARED:
            value, best = number_of(entry, metric), _best_baseline(entry, entries, metric)
            if value is None or best is None:
                continue
            floor, protocol = best
            if max(value, _refined(entry, entries, metric)) > floor:
                continue
            title = stage_title(entry), entry["dataset"]
            found.setdefault(
                title,
                f"the masks of {' on '.join(title)} do not beat their baseline: {metric} "
                f"{value:.1f} ({entry['protocol']}) against {floor:.1f} ({protocol}); "
                + (_stage_of(entry).advice or _ADVICE),
            )
    return found


def json_results(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries as JSON takes them: plain numbers, None where undefined. Idempotent."""

    def plain(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return value if isinstance(value, int) else float(value)

    return [
        {**entry, "metrics": {name: plain(value) for name, value in entry["metrics"].items()}}
        for entry in stages
    ]


def write_metrics(
    path: str | os.PathLike[str],
    stages: Sequence[Mapping[str, Any]],
    *,
    versions: Mapping[str, str],
    config: str,
) -> None:
    """Write ``metrics.json`` atomically: entries of `stage_result`, package versions, a digest."""
    entries = json_results(stages)
    write_json(path, {"stages": entries, "versions": dict(versions), "config": config})


def is_defined(metrics: Metrics) -> bool:
    """Whether any main figure is: none is where there was nothing to measure against."""
    return any(number_of({"metrics": metrics}, name) is not None for name in MAIN_METRICS)


def main_figures(entries: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """What a person came for: few entries, each with its metric, baselines left out.

    Of a classifier mAP, of masks inside boxes mIoU, of pseudo labels AP50 and mIoU, of a detector
    AP and AP50 of its masks, else AP of its boxes.
    """
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for entry in entries:
        base = str(entry["protocol"]).partition(",")[0]
        if not is_baseline(entry) and (base != "semantic" or base == entry["protocol"]):  # no CAMs
            groups.setdefault((stage_title(entry), entry["dataset"]), {}).setdefault(base, entry)
    found = []
    for group in groups.values():
        own = dict.fromkeys(_stage_of(next(iter(group.values()))).refines.values(), "mIoU")
        names = {name: metric for name, metric in (own | _MAIN).items() if name in group}
        if "quality" in group:  # what is measured so are labels, not a detector
            names.pop("coco", None)
        if {"voc", "coco"} & names.keys():
            names.pop("coco_bbox", None)
        if own.keys() & names.keys():  # as of the masks before them
            names.pop("quality", None)
        found += [(group[name], metric) for name, metric in names.items()]
    return [(entry, metric) for entry, metric in found if number_of(entry, metric) is not None]


def format_table(
    entries: Sequence[Mapping[str, Any]], among: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The `main_figures` of entries as text, in per cent, with the best baseline beside each.

    Baselines are looked for in ``among``, and in the entries themselves where that is empty.
    """
    rows = []
    for entry, metric in main_figures(entries):
        best = _best_baseline(entry, among or entries, metric)
        floor = "" if best is None else f"{best[0]:.2f}  {best[1].partition(_BASELINE)[2]}"
        where = stage_title(entry), entry["dataset"], entry["protocol"], metric
        rows.append((*where, f"{number_of(entry, metric):.2f}", floor))
    headers = ["stage", "data set", "protocol", "metric", "per cent", "best baseline"]
    columns = 6 if any(row[-1] for row in rows) else 5
    return tabulate(
        [row[:columns] for row in rows],
        headers=headers[:columns],
        colalign=[*["left"] * 4, "right", "left"][:columns],
        disable_numparse=True,
    )


def format_figures(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The main metrics of entries as text, in per cent: a line for each, "-" where undefined.

    ``names`` are the keys of an entry that the line begins with.
    """
    shown = [m for m in MAIN_METRICS if any(m in entry["metrics"] for entry in entries)]
    rows = []
    for entry in entries:
        values = [(m in entry["metrics"], number_of(entry, m)) for m in shown]
        cells = ["" if not there else "-" if v is None else f"{v:.2f}" for there, v in values]
        rows.append([*(str(entry[name]) for name in names), *cells])
    alignment = ["left"] * len(names) + ["right"] * len(shown)
    return tabulate(
        rows, headers=[*names, *shown], colalign=alignment if rows else None, disable_numparse=True
    )
