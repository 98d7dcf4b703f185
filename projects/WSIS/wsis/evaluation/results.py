"""``metrics.json`` and the table that the terminal shows."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from wsis.data.files import write_json
from wsis.evaluation.streaming import Metrics

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
        where, metrics = (entry["stage"], entry["dataset"], entry["protocol"]), entry["metrics"]
        for name in filter(metrics.__contains__, MAIN_METRICS):
            value = metrics[name]
            rows.append((*where, name, "-" if value is None else f"{value:.2f}"))
    headers = ("stage", "data set", "protocol", "metric", "per cent")
    return tabulate(
        rows, headers=headers, colalign=("left",) * 4 + ("right",), disable_numparse=True
    )
