"""Golden files: ``WSIS_GOLDEN`` is their folder, ``WSIS_GOLDEN_PREFIX`` their weights' prefix."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import fill


@dataclass(frozen=True)
class Golden:
    """The golden files of one folder; every test has the same one, so that none may change it."""

    folder: Path
    prefix: str

    def path(self, name: str) -> Path:
        """The path of a golden file; skips the test where it is absent."""
        path = self.folder / name
        if not path.is_file():
            pytest.skip(f"no golden file {name} in {self.folder}")
        return path

    def load(self, name: str) -> dict[str, np.ndarray]:
        """All arrays of ``<name>.npz``."""
        with np.load(self.path(f"{name}.npz"), allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    @staticmethod
    def text(value: np.ndarray) -> Any:
        """What a JSON text array says."""
        return json.loads(str(value))

    def weights(self, arrays: dict[str, np.ndarray]) -> dict:
        """The state dict (canonical original names) that ``state_shapes`` of a file describes."""
        multipliers = self.text(arrays["multipliers"]) if "multipliers" in arrays else None
        return fill.state_dict(self.text(arrays["state_shapes"]), self.prefix, multipliers)


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Access to the golden files."""
    folder = Path(os.environ.get("WSIS_GOLDEN", Path(__file__).parent / "data"))
    return Golden(folder, os.environ.get("WSIS_GOLDEN_PREFIX", "golden"))


@pytest.fixture(scope="module")
def arrays(request, golden) -> dict[str, np.ndarray]:
    """The arrays of the golden file that a test's module is called after; for reading only."""
    return golden.load(request.module.__name__.rpartition(".test_")[2])


def assert_close(actual: Any, expected: Any, tolerance: float, what: str = "") -> None:
    """Fail unless every element is within ``tolerance`` (absolute) and shapes agree."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    worst = float(np.abs(actual - expected).max()) if expected.size else 0.0
    assert worst <= tolerance, f"{what}: off by {worst:.3g}, allowed {tolerance:.3g}"
