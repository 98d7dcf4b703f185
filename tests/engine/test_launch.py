"""How many processes run, and where; freed memory is kept."""

import fcntl
import platform
import signal
import subprocess
import sys

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from wsis.engine import launch as launch_module
from wsis.engine.launch import check_device, choose_devices, same_processes, trimming
from wsis.errors import UsageError

from tests.tiny import ROOT, environment, forked

WORK = """
import fcntl, os, signal, sys, time
from detectron2.utils import comm
from functools import partial
from pathlib import Path
from wsis.engine.launch import launch
from wsis.data.builtin import get_dataset_dicts
from wsis.data.catalog import DatasetCatalog
from wsis.data.stream import single_pass_loader
from wsis.engine.lock import check_shared
from wsis.engine.run import _one_reads
from wsis.errors import DataError, run_command

def live_and_hold(folder):
    live_and_hold.stream = open(Path(folder, "alive"), "a")  # closed when this process ends
    fcntl.flock(live_and_hold.stream, fcntl.LOCK_SH)

def here(folder):
    def work(sample):
        live_and_hold(folder)
        Path(folder, str(comm.get_rank())).touch()
    return work

def broken():
    assert comm.is_main_process()
    raise DataError("image x is broken")

def main(mode):
    ranks = comm.all_gather(comm.get_rank())
    assert ranks == list(range(comm.get_world_size()))
    assert comm.get_local_size() == comm.get_world_size()
    if mode == "bug":
        raise KeyError("lost")
    if mode == "fail" and comm.get_rank() == 1 or mode == "fail all":
        raise DataError("image x is broken")
    if mode == "fail to read":  # the others wait for what the main process reads
        DatasetCatalog.register("broken", broken)
        with _one_reads():
            get_dataset_dicts("broken")
    if comm.is_main_process():
        print("ranks", ranks, flush=True)
    if mode == "apart":
        folder = Path(__file__).parent / str(comm.get_rank())
        folder.mkdir()
        check_shared(folder.parent, patience=0)
        check_shared(folder, patience=0)
    if mode.startswith("orphan"):
        _, number, folder = mode.split()
        live_and_hold(folder)
        loader = single_pass_loader([{"image_key": "a"}] * 9, here(folder), num_workers=1)
        next(loader)  # its process lives on
        comm.synchronize()
        if comm.is_main_process():
            os.kill(os.getppid(), int(number))
        time.sleep(20)
        Path(folder, "survived").touch()
    if mode == "kill" and comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()

if __name__ == "__main__":
    work = partial(main, sys.argv[2])
    sys.exit(run_command(lambda: launch(work, int(sys.argv[1]), device="cpu")))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "work.py"
    path.write_text(WORK)
    return path


def call(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_two_processes_see_each_other_and_a_folder_that_is_not_shared(script):
    done = call(sys.executable, script, "2", "apart")
    assert done.returncode == 1
    assert "ranks [0, 1]" in done.stdout
    assert "is not the folder that" in done.stderr
    assert "drive that all machines share" in done.stderr
    assert not list(script.parent.rglob(".shared*"))


def test_torchrun_processes_see_each_other(script):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = call(*torchrun, "--nproc-per-node", "2", script, "1", "work")
    assert done.returncode == 0, done.stderr
    assert "ranks [0, 1]" in done.stdout


@pytest.mark.parametrize("mode", ["fail", "fail all", "fail to read"])
def test_errors_end_all_processes_with_one_message(mode):
    done = forked(WORK, "2", mode)
    assert done.returncode == 1
    assert done.stderr.count("error: image x is broken") == 1
    assert "Traceback" not in done.stderr


def test_an_error_that_nobody_can_explain_shows_where_it_arose():
    done = forked(WORK, "2", "bug")
    assert done.returncode == 1
    assert "RuntimeError: a process of the run failed" in done.stderr
    assert done.stderr.count("KeyError: 'lost'") == 1


def test_a_killed_process_ends_all_and_is_named():
    done = forked(WORK, "2", "kill")
    assert done.returncode == 1
    assert "error: process 1 of the run was ended by SIGKILL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, -1), (signal.SIGKILL, -9)]
)
def test_all_processes_end_with_the_one_that_started_them(number, code, tmp_path):
    """Also in the background, where Ctrl-C means nothing; ranks and their data-loading workers."""
    background = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # which nohup would ignore
    )
    done = forked(f"{background}\n{WORK}", "2", f"orphan {number:d} {tmp_path}")
    assert done.returncode == code, done.stderr
    with open(tmp_path / "alive") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # waits for the end of all
    assert {path.name for path in tmp_path.iterdir()} == {"alive", "0", "1"}


@pytest.mark.parametrize(
    ("available", "gpus", "processes", "expected"),
    [
        (0, None, None, ("cpu", 1)),
        (0, 0, None, ("cpu", 1)),
        (0, None, 2, ("cpu", 2)),
        (0, 0, 3, ("cpu", 3)),
        (4, None, None, ("cuda", 1)),
        (4, 4, None, ("cuda", 4)),
        (4, 0, None, ("cpu", 1)),
        (4, None, 2, ("cpu", 2)),
    ],
)
def test_choice(monkeypatch, available, gpus, processes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    assert choose_devices(gpus, processes) == expected


@pytest.mark.parametrize(("gpus", "processes"), [(4, None), (-1, None), (None, 0), (1, 3)])
def test_impossible_choice(monkeypatch, gpus, processes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="--num-"):
        choose_devices(gpus, processes)


def test_a_question_about_gpus_needs_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_devices(4, None, runs=False) == ("cuda", 4)
    with pytest.raises(UsageError, match="--num-gpus must be 0 or more"):
        choose_devices(-1, None, runs=False)


@pytest.mark.parametrize(
    ("gpus", "processes", "device", "expected"),
    [
        (0, 1, "cpu", ""),
        (4, 1, "cpu", " --num-gpus 0"),
        (0, 2, "cpu", " --num-processes 2"),
        (4, 1, "cuda", ""),
        (4, 4, "cuda:0", " --num-gpus 4"),
    ],
)
def test_the_same_processes_once_more(monkeypatch, gpus, processes, device, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    assert " ".join(same_processes(device)) == f"python train_net.py{expected}"


def test_the_same_processes_of_torchrun(monkeypatch):
    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 4,
        "MASTER_ADDR": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(comm, "get_world_size", lambda: 8)
    monkeypatch.setattr(comm, "get_local_size", lambda: 4)
    start = "torchrun --nnodes 2 --nproc-per-node 4 train_net.py"
    assert " ".join(same_processes("cuda")) == start
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert " ".join(same_processes("cpu")) == f"{start} --num-gpus 0"


@pytest.mark.parametrize("device", ["tpu", "cuda:7", "mps", "", "CPU"])
def test_a_device_that_is_not_there(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = CfgNode({"WSIS": {"STAGE": "cam"}, "MODEL": {"DEVICE": device}})
    with pytest.raises(UsageError, match="stage cam: MODEL.DEVICE is.*has cpu, cuda, cuda:0, cuda"):
        check_device(cfg)
    cfg.MODEL.DEVICE = "cuda:1"
    check_device(cfg)


# Freed memory is kept.

MEMORY = """
import resource
import torch
from wsis.engine.launch import keep_freed_memory
print(int(keep_freed_memory()))
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[1:]))
"""


def page_counts(code, **variables):
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(ROOT) | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in found.stdout.split()]


TRIMMED = """
from pathlib import Path
import torch
from wsis.engine.launch import keep_freed_memory, trimming
keep_freed_memory()
for number in trimming(range(12), kept=True):
    print(Path("/proc/self/statm").read_text().split()[1])
    if number in (0, 9):
        torch.ones(2 ** (20 if number == 0 else 24))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_more_memory_than_the_first_images_held_goes_back():
    """1024 pages of the first image's tensor stay, 16384 of the tenth's do not."""
    for _ in range(6):  # see below
        pages = page_counts(TRIMMED)
        kept, trimmed = pages[9] - pages[0], pages[10] - pages[0]
        if kept > 900 and trimmed < 2000:
            break
    assert kept > 900
    assert trimmed < 2000


LARGE = """
import resource
import torch
from wsis.engine.launch import keep_freed_memory, trimming
keep_freed_memory()
for item in trimming([{"height": 900, "width": 900}, {"height": 500, "width": 500}], kept=True):
    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(min(faults[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_large_images_do_not_keep_their_largest_tensors():
    for _ in range(6):  # see below
        large, small = page_counts(LARGE)
        if small < 1000:
            break
    assert large > 15000
    assert small < 1000


def test_what_large_images_need_ends_with_them(monkeypatch):
    said = []
    monkeypatch.setattr(launch_module, "_set", lambda *values: said.append(values))
    assert len(list(trimming([{"height": 900, "width": 900}], kept=True))) == 1
    assert said == [(-4, 2**16), (-4, 0)]


def test_trimming_gives_all_items():
    assert list(trimming(iter(range(20)), kept=True)) == list(range(20))
    assert list(trimming([], kept=False)) == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_the_second_tensor_takes_the_pages_of_the_first():
    """In one of a few processes: where the heap, placed at random, cannot grow, it maps anew."""
    for _ in range(6):
        done, faults = page_counts(MEMORY)
        assert done
        if faults < 100:  # 64 MiB mapped anew are 16384 pages, or 32 huge ones and a few
            return
    pytest.fail(f"{faults} page faults for memory that had been freed")


def test_settings_of_the_environment_win():
    done, _ = page_counts(MEMORY, MALLOC_TRIM_THRESHOLD_="131072")
    assert not done
