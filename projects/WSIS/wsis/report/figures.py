"""The figures of a run: the headline, the table, the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsis.evaluation.results import MAIN_METRICS, is_baseline, is_defined, number_of, stage_title
from wsis.report.page import Section, section
from wsis.report.run_folders import RunFolder

Entry = Mapping[str, Any]
MAIN_PROTOCOL = "voc"


def _with_metric(entries: Sequence[Entry], metric: str, protocol: str) -> list[Entry]:
    """The run's own entries of a protocol that have a metric."""
    own = [e for e in entries if not e.get("weights") and number_of(e, metric) is not None]
    return [e for e in own if str(e.get("protocol", "")).startswith(protocol)]


def best_baseline(entries: Sequence[Entry]) -> Entry | None:
    """The threshold at which the components of the CAMs do best, None if they were not measured."""
    found = filter(is_baseline, _with_metric(entries, "AP50", MAIN_PROTOCOL))
    return max(found, key=lambda e: number_of(e, "AP50") or 0.0, default=None)


def instance_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Protocol ``voc`` of every stage that makes instances, with AP50."""
    return [e for e in _with_metric(entries, "AP50", MAIN_PROTOCOL) if not is_baseline(e)]


def _tiles(
    entries: Sequence[Entry], folders: Sequence[RunFolder]
) -> dict[tuple[str, str], tuple[float, str]]:
    """The most important figures, as large numbers: (what, data set) to the number and a note."""
    tiles: dict[tuple[str, str], tuple[float, str]] = {}

    def add(entry: Entry, what: str, value: float | None, note: str = "") -> None:
        where = f"protocol {entry['protocol']} on {entry['dataset']}"
        tiles.setdefault((what, entry["dataset"]), (value or 0.0, note + where))

    for entry in _with_metric(entries, "mIoU", "semantic")[:1]:
        add(entry, "mIoU of the CAMs", number_of(entry, "mIoU"))
    baseline, floor = best_baseline(entries), 0.0
    if baseline:
        floor = number_of(baseline, "AP50") or 0.0
        add(baseline, "baseline AP50", floor, "components of thresholded CAMs · ")
    trained = {folder.name for folder in folders if folder.manifest.kind == "train"}
    for entry in instance_entries(entries):
        value, stage = number_of(entry, "AP50") or 0.0, str(entry["stage"])
        if stage in trained:
            add(entry, f"{stage.replace('_', ' ')} AP50", value)
        else:
            note = f"{value / floor:.1f} times the baseline · " if floor else ""
            add(entry, "pseudo masks AP50", value, note)
    return tiles


def figures_section(entries: Sequence[Entry], folders: Sequence[RunFolder]) -> Section:
    """Every entry of ``metrics.json`` with its protocol; baselines are set off."""
    entries = [entry for entry in entries if is_defined(entry.get("metrics", {}))]
    measured = {(entry["stage"], entry["dataset"]) for entry in entries}
    predicted = [(folder.name, name) for folder in folders for name in folder.predictions]
    present = {str(e.get("protocol", "")).split(",")[0] for e in entries}
    ranked = [e for e in entries if "AP50" in e.get("metrics", {})]
    return section(
        "figures",
        "Figures",
        tiles=_tiles(entries, folders),
        metrics=[m for m in MAIN_METRICS if any(m in e["metrics"] for e in ranked)],
        all_metrics=MAIN_METRICS,
        ranked=ranked,
        others=[e for e in entries if "AP50" not in e.get("metrics", {})],
        present=present,
        per_cent=_per_cent,
        is_baseline=is_baseline,
        stage_title=stage_title,
        unmeasured=[
            f"{stage} on {name}" for stage, name in predicted if (stage, name) not in measured
        ],
    )


def _per_cent(entry: Entry, metric: str) -> str:
    value = number_of(entry, metric)
    if value is None:
        return "–" if metric in entry.get("metrics", {}) else ""
    return f"{value:.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def stages_section(folders: Sequence[RunFolder]) -> Section:
    """The stages in order: state, counts, time, main settings; all settings behind a click."""
    return section("stages", "Stages", folders=folders, duration=_duration)
