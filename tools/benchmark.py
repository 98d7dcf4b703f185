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
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsis.commands import make_parser, positive

PLAIN_LIMIT_S = 60.0  # no further run of a plain way that has taken this long altogether
MIB = 2**20


COLUMNS: tuple[tuple[str, int, str, str], ...] = (  # title, width, key in the figures, format
    *(("plain", 10, "plain_s", ".3f"), ("cpu", 10, "plain_cpu_s", ".3f")),
    *(("ours", 9, "ours_s", ".3f"), ("cpu", 9, "ours_cpu_s", ".3f")),
    *(("ratio", 9, "ratio", ".2f"), ("error", 9, "max_error", ".1e")),
    *(("MiB", 9, "plain_peak_mb", ".0f"), ("MiB", 8, "peak_mb", ".0f")),
)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="names or beginnings of names")
    add("--repeats", type=positive, default=5, help="timed runs of each way (5)")
    add("--threads", type=positive, default=1, help="CPU threads (1)")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    add("--list", action="store_true", help="print the names and stop")
    return parser.parse_args()


def select(names: list[str], only: list[str] | None) -> list[str]:
    """The names that equal or begin with (up to a slash) one of ``only``; all without it."""
    if only is None:
        return names
    chosen = {wanted: [n for n in names if f"{n}/".startswith(f"{wanted}/")] for wanted in only}
    for wanted, found in chosen.items():
        if not found:
            sys.exit(f"there is no benchmark {wanted!r}; the names are: {', '.join(names)}")
    return [n for n in names if any(n in found for found in chosen.values())]


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
    found = re.search(rf"^{field}:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


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
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = re.findall(r"^model name\s*:\s*(.*)", info.read_text(), re.MULTILINE)
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
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
    for _, width, key, form in COLUMNS:
        text = "-" if figures.get(key) is None else format(figures[key], form)
        text += "*" if key == "plain_s" and figures["extrapolated"] else ""
        cells.append(text.rjust(width))
    return " ".join([*cells, f"  {figures['note']}"])


def main() -> None:
    """Run the chosen benchmarks, print a line for each, write the JSON file."""
    args = parse_arguments()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)  # read when NumPy and torch are imported
    import torch

    torch.set_num_threads(args.threads)
    from plain import REGISTRY

    for path in sorted((Path(__file__).parent / "plain").glob("[!_]*.py")):
        importlib.import_module(f"plain.{path.stem}")
    names = select(list(REGISTRY), args.only)
    if args.list:
        print("\n".join(names))
        return
    report = {"machine": machine(args.threads), "versions": versions(), "benchmarks": []}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(", ".join(f"{key} {value}" for key, value in report["versions"].items()))
    titles = " ".join(f"{title:>{width}}" for title, width, _, _ in COLUMNS)
    print(f"\n{'medians in seconds':<32} {titles}")
    for name in names:
        figures = run(name, REGISTRY[name], args.repeats)
        report["benchmarks"].append(figures)
        print(table_row(figures), flush=True)
    if any(figures["extrapolated"] for figures in report["benchmarks"]):
        print("* extrapolated from a smaller run of the plain way")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
