"""``metrics.json`` and the table that the terminal shows."""

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
from wsis.stage import get_stage

# Shown in the table, in this order; per-class entries (with a slash) stay in metrics.json.
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


def lost_to_baselines(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Stages whose masks do not beat the best baseline on a data set, each with a sentence.

    Keys are `stage_title` and data set. A sentence ends with what to do, which the stage declares
    (`wsis.stage.Stage.advice`).
    """
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        rivals = [one for one in entries if _is_baseline_of(one, entry)]
        for metric in _COMPARED:
            value = number_of(entry, metric)
            floors = [
                (floor, one["protocol"])
                for one in rivals
                if (floor := number_of(one, metric)) is not None
            ]
            if value is None or not floors or value > max(floors)[0]:
                continue
            (floor, protocol), advice = max(floors), ""
            with suppress(UsageError):  # a stage of a method that is not installed here
                advice = get_stage(entry["stage"]).advice
            title = stage_title(entry), entry["dataset"]
            found.setdefault(
                title,
                f"the masks of {' on '.join(title)} do not beat their baseline: {metric} "
                f"{value:.1f} ({entry['protocol']}) against {floor:.1f} ({protocol}); "
                + (advice or _ADVICE),
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


def format_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """The main metrics of entries as text, in per cent; "-" where undefined."""
    rows = []
    for entry in json_results(stages):
        where, metrics = [stage_title(entry), entry["dataset"], entry["protocol"]], entry["metrics"]
        for name in filter(metrics.__contains__, MAIN_METRICS):
            value = metrics[name]
            rows.append((*where, name, "-" if value is None else f"{value:.2f}"))
    headers = ("stage", "data set", "protocol", "metric", "per cent")
    return tabulate(
        rows, headers=headers, colalign=("left",) * 4 + ("right",), disable_numparse=True
    )
