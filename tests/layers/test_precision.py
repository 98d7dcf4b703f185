import subprocess
import sys

import torch
from wsis.layers.precision import at_least_float32, full_precision


def test_half_becomes_float32_and_double_stays():
    kinds = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float64: None}
    for given, wanted in kinds.items():
        assert at_least_float32(torch.ones(1, dtype=given)).dtype == (wanted or given)


def test_no_autocast_inside():
    a = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(a.device):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16


CODE = """
import os
import torch
from wsis.layers.precision import full_precision

def set_to(switches):
    for name, value in switches.items():
        *owners, last = name.split(".")
        owner = torch.backends
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, last, value)

def state():
    found = []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cudnn.allow_tf32,
        lambda: torch.backends.cuda.matmul.allow_tf32,
    ):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    new = [torch.backends.cuda.matmul]
    new += [getattr(torch.backends.cudnn, n) for n in ("conv", "rnn") if hasattr(new[0], "conv")]
    return found + [getattr(owner, "fp32_precision", None) for owner in new]

def check(switches):
    set_to(switches)
    before = state()
    try:
        with full_precision(torch.device("cpu")):
            inside = state()
            with full_precision(torch.device("cpu")):
                assert state() == inside
            assert state() == inside
            raise KeyError
    except KeyError:
        pass
    assert inside[:3] == ["highest", False, False], inside
    assert "tf32" not in inside, inside
    assert state() == before, (before, state())

for switches in CASES:
    child = os.fork()  # the old switches cannot always be set back by hand
    if not child:
        check(switches)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, switches
"""
CASES = [
    {},
    {"cuda.matmul.allow_tf32": True},
    {"cudnn.allow_tf32": False},
    {"cuda.matmul.fp32_precision": "tf32"},
    {"cudnn.conv.fp32_precision": "ieee"},
    {"cudnn.rnn.fp32_precision": "ieee", "cudnn.conv.fp32_precision": "tf32"},
]


def test_no_tf32_inside_and_the_switches_as_before():
    cases = CASES if hasattr(torch.backends.cudnn, "conv") else CASES[:3]
    code = CODE.replace("CASES", repr(cases))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
