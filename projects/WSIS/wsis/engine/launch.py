"""The processes of a run: one, several on this machine, or those of ``torchrun``; their memory."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from wsis.commands import let_output_vanish
from wsis.compat import create_local_process_group, forget_process_groups
from wsis.errors import LOST_PEER, NEEDS_LESS, UsageError, WSISError, explain
from wsis.processes import end_with_parent

logger = logging.getLogger(__name__)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # malloc.h
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
_BUG = 70  # exit code of a process whose error nobody can explain
_FIRST = 8  # images, which show how much memory one takes
_SLACK = 256  # pages by which every process grows, so that not each image gives memory back
_LARGE_IMAGE = 1 << 19  # pixels; no image of VOC or COCO has as many
_Item = TypeVar("_Item")
_TIMEOUT = timedelta(hours=6)  # a rank may wait long for another's last, large image
_PATIENCE_S = 30.0  # that processes have to end in when they are told to


def choose_devices(
    num_gpus: int | None, num_processes: int | None, *, runs: bool = True
) -> tuple[str, int]:
    """Device type and process count for this machine.

    Args:
        num_gpus: as on the command line; None takes one GPU where there is one.
        num_processes: CPU processes; only together with no GPU.
        runs: whether anything is run; else the machine need not have the GPUs.

    Returns:
        ``("cuda" | "cpu", number of processes)``.

    Raises:
        UsageError: more GPUs than the machine has, or numbers that contradict each other.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_gpus is None:
        num_gpus = min(available, 1) if num_processes is None else 0
    if num_gpus < 0 or (num_processes is not None and num_processes < 1):
        raise UsageError("--num-gpus must be 0 or more and --num-processes 1 or more")
    if num_gpus > available and runs:
        raise UsageError(
            f"--num-gpus {num_gpus}, but this machine has {available} usable GPU(s); "
            "use --num-gpus 0 --num-processes N for N processes on the CPU"
        )
    if num_gpus and num_processes not in (None, num_gpus):
        raise UsageError("--num-processes is for runs without a GPU; give --num-gpus alone")
    return ("cuda", num_gpus) if num_gpus else ("cpu", num_processes or 1)


def check_device(cfg: CfgNode) -> None:
    """Refuse a MODEL.DEVICE that this machine lacks.

    Raises:
        UsageError: saying what it has.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if cfg.MODEL.DEVICE not in known:
        raise UsageError(
            f"stage {cfg.WSIS.STAGE}: MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; this machine has "
            f"{', '.join(known)}"
        )


def started_by_torchrun() -> bool:
    """Whether PyTorch's own launcher started this process and set its rank."""
    return all(
        name in os.environ for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    )


def same_processes(device: str) -> list[str]:
    """The beginning of a command that starts ``train_net.py`` with the processes of this run."""
    size, local = comm.get_world_size(), comm.get_local_size()
    on_gpu = device.startswith("cuda")
    words = ["--num-gpus", "0"] if torch.cuda.is_available() and not on_gpu else []
    if started_by_torchrun():
        places = ["--nnodes", str(size // local), "--nproc-per-node", str(local)]
        return ["torchrun", *places, "train_net.py", *words]
    if size > 1:
        words = ["--num-gpus" if on_gpu else "--num-processes", str(size)]
    return ["python", "train_net.py", *words]


def _take_part(
    main: Callable[[], None],
    device: str,
    local_rank: int,
    local_size: int,
    say: Callable[[tuple[str, int]], object],
    **group: Any,
) -> None:
    """Join the processes of the run, call ``main``, leave; an error ends this process at once."""
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_TIMEOUT, **group)
    create_local_process_group(local_size)
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        failure = explained or (traceback.format_exc(), _BUG)
        say(failure)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failure[1])  # peers may be waiting: do not wait for them
    comm.synchronize()
    forget_process_groups()
    dist.destroy_process_group()


def _worker(
    rank: int,
    size: int,
    address: str,
    device: str,
    threads: int,
    failures: Any,
    main: Callable[[], None],
) -> None:
    end_with_parent()
    let_output_vanish()
    # Fork its data-loading processes, as elsewhere; spawned ones would import everything anew.
    mp.set_start_method(None, force=True)
    torch.set_num_threads(threads)
    group = {"init_method": address, "rank": rank, "world_size": size}
    _take_part(main, device, rank, size, failures.put, **group)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def launch(main: Callable[[], None], num_processes: int, *, device: str) -> None:
    """Call ``main()`` in every process of the run and wait for the end of all.

    Under ``torchrun`` this process is one of them. Otherwise ``num_processes`` are spawned on this
    machine (one runs in place); on the CPU they share its cores. They end with this process,
    however it ends.

    Raises:
        WSISError: a spawned process failed; what the first one says.
    """
    if started_by_torchrun():
        if dist.is_torchelastic_launched():  # not by a shell, which a user may leave
            end_with_parent()
        local_rank, size = (int(os.environ[f"LOCAL_{name}"]) for name in ("RANK", "WORLD_SIZE"))
        _take_part(main, device, local_rank, size, _say, init_method="env://")
        return
    if num_processes == 1:
        main()
        return
    setup_logger(distributed_rank=0, name="wsis")
    logger.info("starting %d processes; the first of them reads the data sets", num_processes)
    threads = max(1, torch.get_num_threads() // num_processes)
    failures = mp.get_context("spawn").SimpleQueue()  # several may fail, one of them speaks
    context = mp.spawn(
        _worker,
        args=(num_processes, _free_address(), device, threads, failures, main),
        nprocs=num_processes,
        join=False,
    )
    try:
        while not context.join():
            pass
    except mp.ProcessExitedException as error:
        raise _first_failure(failures, error, context.processes) from None
    except BaseException:  # Ctrl-C, say
        _end(context.processes)
        raise


def _end(processes: Sequence[Any]) -> None:
    """End the processes of the run, and wait until they have: then the lock may be released."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def _say(failure: tuple[str, int]) -> None:
    message, code = failure
    sys.stderr.write(message if code == _BUG else f"error: {message}\n")


def _first_failure(
    failures: Any, error: mp.ProcessExitedException, processes: Sequence[Any]
) -> Exception:
    killed = [i for i, process in enumerate(processes) if process.exitcode == -signal.SIGKILL]
    message, code = failures.get() if not failures.empty() else ("", 0)
    if error.exit_code > 0 and code and not (killed and LOST_PEER in message):
        if code == _BUG:
            return RuntimeError(f"a process of the run failed\n{message}")
        return UsageError(message) if code == UsageError.exit_code else WSISError(message)
    index, how = error.error_index, f"with code {error.exit_code}"
    if killed or error.signal_name:
        index, how = (killed or [index])[0], f"by {'SIGKILL' if killed else error.signal_name}"
    return WSISError(
        f"process {index} of the run was ended {how}, perhaps for lack of memory: {NEEDS_LESS}; or "
        "run the same command again to go on where it stopped"
    )


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next allocation instead of giving it back.

    By default the kernel maps every new large tensor page by page. For MobileNetV2 on two cores (16
    images of 321 x 321, forward) that took 0.108 of 0.165 CPU seconds per image; with kept memory
    0.003 of 0.057. The peak of memory stays nearly the same (1251 against 1137 MiB).

    Does nothing where there is no glibc, or where the environment sets its MALLOC_* variables.

    Returns:
        whether it was set.
    """
    values = {_MMAP_THRESHOLD: 2**25, _MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
    return all(_set(name, value) for name, value in values.items())


def trimming(items: Iterable[_Item], *, kept: bool) -> Iterator[_Item]:
    """The same items; free memory goes back to the system where more is held than by the first.

    A network that sees images of many sizes leaves holes between the kernels that oneDNN compiles
    and keeps for each size, and large tensors do not fit into them: ResNet-18's CAMs of small
    photographs went from 970 to 1400 MiB in 25 images and to 2200 in 100. So the most that was held
    after one of the first eight, and a megabyte, is the limit from then on.

    Where freed memory is ``kept`` (`keep_freed_memory`), the largest tensors of an image of more
    than half a million pixels are not: CAMs of 1254 x 836 pixels took 3112 MiB and 37 CPU seconds
    with them, 2397 MiB and 43 seconds without. Does nothing where there is no glibc.
    """
    limit = 0
    try:
        for number, item in enumerate(items):
            if kept:
                known = item if isinstance(item, dict) else {}
                large = known.get("height", 0) * known.get("width", 0) > _LARGE_IMAGE
                _set(_MMAP_MAX, 2**16 if large else 0)
            yield item
            held = _resident_pages()
            if number < _FIRST:
                limit = max(limit, held)
            elif held > limit + _SLACK:
                _libc("malloc_trim", 0)
    finally:
        if kept:
            _set(_MMAP_MAX, 0)


def _resident_pages() -> int:
    """Pages of memory that this process holds; 0 where the system has no such file."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0


def _set(name: int, value: int) -> int:
    """One of malloc's settings, unless the environment has any."""
    return 0 if any(s in os.environ for s in _SETTINGS) else _libc("mallopt", name, value)


def _libc(name: str, *values: int) -> int:
    """Call one of glibc's functions; 0 where there is none."""
    try:
        return getattr(ctypes.CDLL(None), name)(*values)
    except (OSError, AttributeError, TypeError):
        return 0
