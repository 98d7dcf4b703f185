"""The command lines, called in this process."""

import runpy
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main_of(script: str) -> Callable[..., int]:
    """The ``main`` of a script, ``tools/demo.py``: arguments in, exit code out."""
    return runpy.run_path(str(ROOT / script))["main"]
