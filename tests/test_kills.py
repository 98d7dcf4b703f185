"""Each method's pipeline, killed again and again wherever it happens to be, ends with equal bytes.

Half of the kills come at a random moment, half right before a random file operation of the run. The
pipelines have every registered stage.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
import warnings
from functools import partial

import pytest
import torch
from wsis.engine.config_files import read_config_files, stage_names
from wsis.stage import _STAGES as stages  # noqa: N811

from tests.methods.boxinst.test_pipeline import TINY as BOXINST
from tests.methods.cim.test_pipeline import TINY as CIM
from tests.methods.iam.test_pipeline import EXTRA as IAM
from tests.methods.iam.test_points import TINY as IAM_POINTS
from tests.methods.prompted_masks.networks import save_tiny
from tests.test_end_to_end import kill_writing
from tests.test_proposal_runs import EXTRA as PRM
from tests.tiny import ROOT, TINY_BOXCASEG, manifest_of, train_net_forked

KILLS = int(os.environ.get("WSIS_KILLS", "10"))  # for each pipeline
PROMPTED = ("MODEL.PROMPTED_MASKS.MODEL", "{model}")
PIPELINES = {
    "irnet_shapes": (),
    "prm_shapes": (*PRM, ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.001")),
    "iam_shapes": IAM,
    "iam_shapes_point": IAM_POINTS,
    "boxcaseg_shapes": TINY_BOXCASEG,
    "boxinst_shapes": BOXINST,
    "cim_shapes": CIM,
    "cim_shapes_point": CIM,
    "supervised_shapes": (),
    "given": (
        ("DATA.TRAIN", "shapes_val"),
        ("MODEL.FPN.OUT_CHANNELS", "48"),  # of the network that comes with WSIS
        ("MODEL.BOXCASEG.INFERENCE_SIDES", "[32]"),
        ("MODEL.BOXCASEG.INFERENCE_FLIP", "False"),
        ("MODEL.BOXCASEG.POINTS.RATIOS", "[1.0]"),
        ("MODEL.BOXCASEG.POINTS.SIDE", "64"),
        ("WSIS.EVALUATION.GRABCUT_ITERATIONS", "0"),
        PROMPTED,
    ),
    "cams": (),
    "peaks": (
        *PRM,
        ("class_peaks.MODEL.CIM.LABEL.PEAK_THRESHOLD", "-100.0"),
        ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"),
        PROMPTED,
    ),
}
# Pipelines of the stages that no shipped one on shapes has.
OWN = {
    "given": """
_BASE_: configs/points_photos.yaml
STAGES:
  grabcut_masks:
  filled_masks:
  walked_masks:
  prompted_box_masks:
  prompted_point_instances:
  point_masks: {_BASE_: "wsis://boxcaseg_ready"}
  pseudo_labels:
""",
    "cams": """
_BASE_: configs/irnet_shapes.yaml
STAGES:
  classifier:
  cam:
  cam_instances:
  inter_pixel_label:
  relation_network:
  semantic_labels:
""",
    "peaks": """
_BASE_: configs/prm_shapes.yaml
STAGES:
  peak_classifier:
  response_instances:
  class_peaks:
  prompted_peak_instances:
  point_peak_classifier: {_BASE_: peak_classifier}
  proposals:
  retrieved_points:
  pseudo_labels:
""",
}
# It reads a file of the original, which has clusters of the original's proposals alone.
NOT_KILLED = {"imported_clusters"}
LEARN_NOTHING = tuple(re.findall(r"(?m)^  (\w+):", OWN["given"]))[:-1]
TWO = ("--num-gpus", 0, "--num-processes", 2)
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


def config_of(name, folder):
    """The file of one of `PIPELINES`."""
    if name not in OWN:
        return ROOT / "configs" / f"{name}.yaml"
    path = folder / f"{name}.yaml"
    path.write_text(OWN[name].replace("configs/", f"{ROOT}/configs/"))
    return path


def extra_of(name, folder):
    """The overrides of one of `PIPELINES`; a tiny Segment Anything model is made for it."""
    made = PROMPTED in PIPELINES[name] and save_tiny(folder / "sam")
    return [(key, value.format(model=made)) for key, value in PIPELINES[name]]


def test_no_stage_is_forgotten(tmp_path):
    files = [read_config_files(config_of(name, tmp_path)) for name in PIPELINES]
    killed = {name for file in files for name in stage_names(file)}
    ours = {name for name, stage in stages.items() if not name.startswith("test")}
    assert ours - NOT_KILLED == killed


def test_stages_that_learn_nothing_end_with_the_same_bytes(shapes_root, tmp_path):
    """Killed in the last, by one process; and with half of each one's artifacts lost, by two."""
    run = partial(
        train_net_forked,
        datasets=shapes_root,
        config=config_of("given", tmp_path),
        extra=extra_of("given", tmp_path),
    )
    unbroken, broken, two = (tmp_path / name for name in ("unbroken", "broken", "two"))
    done = run(output=unbroken)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = content(unbroken)
    shutil.copytree(unbroken, two)
    shutil.rmtree(next(two.glob("*_pseudo_labels")))
    (*_, last) = LEARN_NOTHING
    killed = run("--until-stage", last, output=broken, prelude=kill_writing(last))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert manifest_of(broken, last)["status"] == "running"
    assert run(output=broken).returncode == 0
    for path in sorted(two.glob("*_*/artifacts/*.npz"))[::2]:
        path.unlink()
        (path.parents[1] / "index.json").unlink(missing_ok=True)
        manifest = path.parents[1] / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "running"}))
    done = run(*TWO, output=two)
    assert done.returncode == 0, done.stderr[-3000:]
    for output in (broken, two):
        found = content(output)
        assert found.keys() == expected.keys()
        assert [key for key in expected if found[key] != expected[key]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_kills(name, shapes_root, tmp_path):
    config, extra = config_of(name, tmp_path), extra_of(name, tmp_path)

    def run(output, prelude):
        start = time.perf_counter()
        done = train_net_forked(
            datasets=shapes_root,
            output=output,
            config=config,
            extra=extra,
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
