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
    """One entry of ``metrics.json``.

    Metrics are in per cent (counts as they are), NaN where undefined; the protocol's name has its
    options. ``skipped`` is image key to reason, of images that count as missed.
    """
    entry = {"stage": stage, "dataset": dataset, "protocol": protocol, "metrics": metrics}
    return {**entry, "skipped": dict(skipped)} if skipped else entry


def _json_number(value: float | None) -> float | int | None:
    if value is None or isinstance(value, bool) or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, int) else float(value)


def json_results(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries as JSON takes them: plain numbers, None where undefined. Idempotent."""
    return [
        {**entry, "metrics": {name: _json_number(v) for name, v in entry["metrics"].items()}}
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
    for entry in stages:
        metrics = entry["metrics"]
        shown = {name: metrics[name] for name in MAIN_METRICS if name in metrics}
        for name, value in shown.items():
            undefined = value is None or not math.isfinite(value)
            number = "-" if undefined else f"{value:.2f}"
            rows.append((entry["stage"], entry["dataset"], entry["protocol"], name, number))
    headers = ("stage", "data set", "protocol", "metric", "per cent")
    return tabulate(
        rows, headers=headers, colalign=("left",) * 4 + ("right",), disable_numparse=True
    )
