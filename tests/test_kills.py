"""Each method's pipeline, killed again and again wherever it happens to be, ends with equal bytes.

Half of the kills come at a random moment, half right before a random file operation of the run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import warnings

import pytest
import torch

from tests.methods.cim.test_pipeline import TINY as CIM
from tests.methods.iam.test_pipeline import EXTRA as IAM
from tests.test_proposal_runs import EXTRA as PRM
from tests.tiny import ROOT, TINY_BOXCASEG, train_net_forked

KILLS = int(os.environ.get("WSIS_KILLS", "10"))  # for each pipeline
PIPELINES = {
    "irnet_shapes": (),
    "prm_shapes": (*PRM, ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.001")),
    "iam_shapes": IAM,
    "boxcaseg_shapes": TINY_BOXCASEG,
    "cim_shapes": CIM,
}
# Kills the main process before its {last}th operation that may change a file below {output}.
AT_OPERATION = """
import os, signal, sys
operations, process = 0, os.getpid()
def watch(event, arguments):
    global operations
    if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime"):
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if os.getpid() != process or not str(arguments[0]).startswith({output!r}):
        return
    operations += 1
    if operations == {last}:
        os.kill(process, signal.SIGKILL)
    with open({count!r}, "w") as stream:
        stream.write(str(operations))
sys.addaudithook(watch)
"""
AT_MOMENT = "import signal\nsignal.setitimer(signal.ITIMER_REAL, {seconds})"
_TIMED = ("log.txt", "metrics.json")  # of training: they tell seconds and what was interrupted


def content(output):
    """``{file: content}`` of a run folder, without what tells when or where it was made."""
    found = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        timed = path.name in _TIMED and "/" in name
        if path.is_dir() or timed or path.name.startswith(("events.out", ".lock")):
            continue
        found[name] = path.read_bytes().replace(str(output).encode(), b"OUTPUT")
        if path.suffix == ".pth":
            stored = torch.load(path, map_location="cpu", weights_only=True)
            found[name] = {key: v.numpy().tobytes() for key, v in stored["model"].items()}
        elif path.name == "manifest.json":
            found[name] = json.loads(found[name]) | {"seconds": 0}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_kills(name, shapes_root, tmp_path):
    def run(output, prelude):
        start = time.perf_counter()
        done = train_net_forked(
            datasets=shapes_root,
            output=output,
            config=ROOT / "configs" / f"{name}.yaml",
            extra=PIPELINES[name],
            prelude=prelude,
        )
        return done, time.perf_counter() - start

    def at_operation(output, last):
        return AT_OPERATION.format(output=str(output), last=last, count=str(count))

    unbroken, broken, count = tmp_path / "unbroken", tmp_path / "broken", tmp_path / "count"
    done, seconds = run(unbroken, at_operation(unbroken, -1))
    assert done.returncode == 0, done.stderr[-3000:]
    expected, operations = content(unbroken), int(count.read_text())
    assert operations > 50
    draw, kills, ends = random.Random(name), {signal.SIGKILL: 0, signal.SIGALRM: 0}, 0
    while sum(kills.values()) < KILLS or broken.exists():
        kind = min(kills, key=lambda kind: kills[kind])
        prelude = AT_MOMENT.format(seconds=draw.uniform(0, seconds))
        if sum(kills.values()) >= KILLS:
            prelude = ""
        elif kind == signal.SIGKILL:
            prelude = at_operation(broken, draw.randint(1, operations))
        done, _ = run(broken, prelude)
        if done.returncode:
            assert done.returncode == -kind, done.stderr[-3000:]
            kills[kind] += 1
            continue
        found = content(broken)
        assert found.keys() == expected.keys()
        assert [key for key in expected if found[key] != expected[key]] == []
        shutil.rmtree(broken)  # the next kill comes in a new folder
        ends += 1
    at = f"{kills[signal.SIGKILL]} before one of {operations} file operations"
    told = f"{sum(kills.values())} kills, {at}; {ends} runs came to their end"
    warnings.warn(f"{name}: {told}", stacklevel=1)
