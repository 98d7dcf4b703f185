"""Speed of the hot kernels against the plain way of doing the same, as ratios.

    python tools/benchmark.py [--only NAME ...] [--repeats 3] [--threads 1] [--device cuda]
                              [--json FILE] [--list]

Both ways run in this process on the same inputs, in turns, after one run of each to warm up; the
ratio is that of the median wall seconds, so that it says something on a busy machine too. CPU
seconds (all threads) stand beside them. Peak memory is how far the resident memory of the process
(on a GPU: the memory of tensors there) rose during one run of its own. ``plain/`` holds the plain
ways and how to add one. ``stage/...`` are whole stages, in images a second.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import inspect
import json
import os
import pkgutil
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wsis.commands import let_output_vanish

COLUMNS = {  # of the table: figure to format
    "plain_s": ".3f",
    "plain_cpu_s": ".3f",
    "ours_s": ".3f",
    "ours_cpu_s": ".3f",
    "ratio": ".2f",
    "max_error": ".1e",
    "plain_peak_mb": ".0f",
    "peak_mb": ".0f",
    "images_per_s": ".2f",
    "network_share": ".2f",
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names or beginnings of names")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each way (3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: those that a GPU can do"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    return args


def select(names: list[str], only: list[str] | None) -> list[str]:
    """The names that equal or begin with (up to a slash) one of ``only``; all without it."""
    for wanted in only or ():
        if not any(f"{name}/".startswith(f"{wanted}/") for name in names):
            sys.exit(f"there is no benchmark {wanted!r}; the names are: {', '.join(names)}")
    return [n for n in names if not only or any(f"{n}/".startswith(f"{w}/") for w in only)]


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of one call."""
    from plain import synchronize

    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory(function: Callable[[], Any]) -> tuple[Any, float | None]:
    """(result, MiB by which memory rose during the call at its highest; see above, Linux only)."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        result = function()
        return result, round((torch.cuda.max_memory_allocated() - start) / 2**20, 1)
    if sys.platform != "linux":
        return function(), None
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free but kept would hide the rise
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status_mb("VmRSS")
    result = function()
    return result, round(_status_mb("VmHWM") - before, 1)


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def run(benchmark: Any, repeats: int) -> dict[str, Any]:
    """The figures of one benchmark."""
    figures: dict[str, Any] = dict.fromkeys(COLUMNS)
    figures |= {"scale": benchmark.scale, "note": benchmark.note}
    if benchmark.network_share is None:
        benchmark.ours()
        result, figures["peak_mb"] = peak_memory(benchmark.ours)
    else:  # it takes long: one run for both
        result, figures["peak_mb"] = peak_memory(benchmark.network_share)
        figures["network_share"] = round(result, 3)
    ways = {"ours": benchmark.ours}
    if benchmark.plain is not None:
        ways["plain"] = benchmark.plain
        plain_result, figures["plain_peak_mb"] = peak_memory(benchmark.plain)
        if benchmark.error is not None:
            figures["max_error"] = benchmark.error(plain_result, result)
        del plain_result
    del result
    runs = [{way: timed(function) for way, function in ways.items()} for _ in range(repeats)]
    for way in ways:
        scale = benchmark.scale if way == "plain" else 1
        walls, cpus = zip(*([scale * s for s in one[way]] for one in runs), strict=True)
        figures |= {
            f"{way}_s": statistics.median(walls),
            f"{way}_cpu_s": statistics.median(cpus),
            f"{way}_range_s": [min(walls), max(walls)],
        }
    if benchmark.images:
        figures["images"] = benchmark.images
        figures["images_per_s"] = benchmark.images / figures["ours_s"]
    if benchmark.plain is not None:
        figures["ratio"] = figures["plain_s"] / figures["ours_s"]
    return figures


def machine(threads: int, device: str) -> dict[str, Any]:
    """What the figures were measured on, and with."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": next(iter(models), platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy")},
    }


def table_row(name: str, figures: dict[str, Any]) -> str:
    cells = ["-" if figures[k] is None else format(figures[k], f) for k, f in COLUMNS.items()]
    return f"{name:<30}" + "".join(f"{cell:>14}" for cell in cells) + f"  {figures['note']}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chosen benchmarks, print a line for each, write the JSON file."""
    let_output_vanish()
    args = parse_arguments(argv)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)  # read when NumPy and torch are imported
    import torch

    torch.set_num_threads(args.threads)
    import plain
    from wsis.engine.launch import keep_freed_memory

    if args.device == "cpu":
        keep_freed_memory()  # as runs do
    elif not torch.cuda.is_available():
        sys.exit("--device cuda: this machine has no GPU that PyTorch can use")

    builders: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.iter_modules(plain.__path__):
        builders |= importlib.import_module(f"plain.{module.name}").BENCHMARKS
    if args.device != "cpu":
        able = {n: b for n, b in builders.items() if "device" in inspect.signature(b).parameters}
        builders = {name: partial(b, device=args.device) for name, b in able.items()}
    names = select(list(builders), args.only)
    if args.list:
        print("\n".join(names))
        return
    report: dict[str, Any] = {"machine": machine(args.threads, args.device), "benchmarks": []}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(f"\n{'medians':<30}" + "".join(f"{title:>14}" for title in COLUMNS))
    for name in names:
        figures = run(builders[name](), args.repeats)
        report["benchmarks"].append({"name": name, **figures})
        print(table_row(name, figures), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
