"""Speed of the hot kernels against the plain way of doing the same, as ratios.

    python tools/benchmark.py [--only NAME ...] [--repeats 5] [--threads 1] [--json FILE] [--list]

Both ways run in this process on the same inputs, in turns, after one run of each to warm up; the
ratio is that of the median wall seconds, so that it says something on a busy machine too. CPU
seconds (all threads) stand beside them. Peak memory is how far the resident memory of the process
rose during one run of its own. ``plain/`` holds the plain ways and how to add one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import pkgutil
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAIN_LIMIT_S = 60.0  # no further run of a plain way that has taken this long altogether
MIB = 2**20
COLUMNS = (  # of the table: figure, title, width, format
    ("plain_s", "plain", 10, ".3f"),
    ("plain_cpu_s", "cpu", 10, ".3f"),
    ("ours_s", "ours", 9, ".3f"),
    ("ours_cpu_s", "cpu", 9, ".3f"),
    ("ratio", "ratio", 9, ".2f"),
    ("max_error", "error", 9, ".1e"),
    ("plain_peak_mb", "MiB", 9, ".0f"),
    ("peak_mb", "MiB", 8, ".0f"),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names or beginnings of names")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each way (5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    args = parser.parse_args()
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    return args


def select(names: list[str], only: list[str] | None) -> list[str]:
    """The names that equal or begin with (up to a slash) one of ``only``; all without it."""
    if only is None:
        return names
    for wanted in only:
        if not any(name == wanted or name.startswith(f"{wanted}/") for name in names):
            sys.exit(f"there is no benchmark {wanted!r}; the names are: {', '.join(names)}")
    return [n for n in names if any(n == wanted or n.startswith(f"{wanted}/") for wanted in only)]


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory(function: Callable[[], Any]) -> tuple[Any, float]:
    """(result, MiB by which resident memory rose during the call at its highest)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free but kept would hide the rise
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = _status_bytes("VmRSS")
        result = function()
        return result, (_status_bytes("VmHWM") - before) / MIB
    except (OSError, AttributeError):  # not Linux, or not allowed: only a rise above all before
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = function()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return result, (after - before) * unit / MIB


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def run(name: str, build: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """The figures of one benchmark."""
    benchmark = build()
    benchmark.ours()
    result, peak = peak_memory(benchmark.ours)
    figures: dict[str, Any] = {
        "name": name,
        "plain_s": None,
        "ours_s": None,
        "ratio": None,
        "max_error": None,
        "peak_mb": round(peak, 1),
        "plain_peak_mb": None,
        "extrapolated": benchmark.extrapolate is not None,
        "note": benchmark.note,
    }
    plain: list[tuple[float, float]] = []
    if benchmark.plain is not None:
        start = time.perf_counter()
        plain_result, plain_peak = peak_memory(benchmark.plain)
        slow = time.perf_counter() - start > PLAIN_LIMIT_S / (repeats + 1)
        figures["plain_peak_mb"] = round(plain_peak, 1)
        if benchmark.error is not None:
            figures["max_error"] = benchmark.error(plain_result, result)
        del plain_result
    del result
    ours: list[tuple[float, float]] = []
    for repeat in range(repeats):
        if benchmark.plain is not None and not (slow and repeat > 0):
            plain.append(timed(benchmark.plain))
        ours.append(timed(benchmark.ours))
    figures.update(_summary("ours", ours))
    if plain:
        scale = benchmark.extrapolate or (lambda seconds: seconds)
        figures.update(_summary("plain", [(scale(wall), scale(cpu)) for wall, cpu in plain]))
        figures["ratio"] = figures["plain_s"] / figures["ours_s"]
    return figures


def _summary(way: str, runs: list[tuple[float, float]]) -> dict[str, Any]:
    walls, cpus = zip(*runs, strict=True)
    return {
        f"{way}_s": statistics.median(walls),
        f"{way}_cpu_s": statistics.median(cpus),
        f"{way}_range_s": [min(walls), max(walls)],
        f"{way}_repeats": len(runs),
    }


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "pydensecrf2"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table_row(figures: dict[str, Any]) -> str:
    cells = [f"{figures['name']:<32}"]
    for key, _, width, form in COLUMNS:
        text = "-" if figures.get(key) is None else format(figures[key], form)
        text += "*" if key == "plain_s" and figures["extrapolated"] else ""
        cells.append(f"{text:>{width}}")
    return " ".join([*cells, "", figures["note"]])


def main() -> None:
    """Run the chosen benchmarks, print a line for each, write the JSON file."""
    args = parse_arguments()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)  # read when NumPy and torch are imported
    import torch

    torch.set_num_threads(args.threads)
    import plain

    for module in pkgutil.iter_modules(plain.__path__):
        importlib.import_module(f"plain.{module.name}")  # each registers its benchmarks
    names = select(list(plain.REGISTRY), args.only)
    if args.list:
        print("\n".join(names))
        return
    report = {"machine": machine(args.threads), "versions": versions(), "benchmarks": []}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(", ".join(f"{key} {value}" for key, value in report["versions"].items()))
    titles = (f"{title:>{width}}" for _, title, width, _ in COLUMNS)
    print(f"\n{'medians in seconds':<32}", *titles)
    for name in names:
        figures = run(name, plain.REGISTRY[name], args.repeats)
        report["benchmarks"].append(figures)
        print(table_row(figures), flush=True)
    if any(figures["extrapolated"] for figures in report["benchmarks"]):
        print("* extrapolated from a smaller run of the plain way")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
