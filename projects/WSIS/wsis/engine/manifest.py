"""What a run folder says of itself: on what its product depends, and what the product is.

``manifest.json`` is written when a stage starts (status "running") and when it ends ("done").
It holds the config values and the digests of the inputs on which the product depends, so that a
later run can tell finished from stale work and name what changed. ``index.json`` lists the
artifacts with their sizes and checksums.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from wsis.data.artifacts import SUMMARY
from wsis.data.files import sha256_of_file, write_json
from wsis.errors import WSISError

MANIFEST, INDEX = "manifest.json", "index.json"
PIPELINE = "pipeline.json"  # in OUTPUT_DIR: the names of all stages
RUNNING, DONE = "running", "done"


@dataclass
class Manifest:
    """Content of ``manifest.json``.

    Attributes:
        stage: name of the stage.
        kind: train, infer, derive or export.
        status: "running" or "done".
        config: flat config values on which the product depends, ``{"SOLVER.MAX_ITER": 300}``.
        inputs: digests of what it reads, ``{"classifier": ..., "images": ..., "weights": ...}``.
        product: digest of the product, "" while running.
        counts: ``{"images": 240, "instances": 500}``.
        skipped: images left out, ``{image key: reason}``.
        files: sizes in bytes of the product's files beside the artifacts, ``{name: bytes}``.
        seconds: wall time of the run that finished it.
        versions: of the packages that made it.
        defaults: config keys that held the default of the versions that made it. A key that
            another version does not know counts as equal there.
    """

    stage: str
    kind: str
    status: str
    config: dict[str, Any]
    inputs: dict[str, str]
    product: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Identifies config and inputs, hence the product."""
        return digest_of({"config": self.config, "inputs": self.inputs, "stage": self.stage})

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into ``folder``, atomically."""
        write_json(folder / MANIFEST, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a run folder, None where there is none.

        Raises:
            DamagedManifest: the file is not a manifest.
        """
        path = folder / MANIFEST
        try:
            manifest = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            raise DamagedManifest(f"{path} is not a manifest ({error})") from None
        kinds = {name: type(getattr(_EMPTY, name)) for name in vars(_EMPTY)}
        wrong = [n for n, kind in kinds.items() if not isinstance(getattr(manifest, n), kind)]
        if wrong:
            raise DamagedManifest(f"{path} is not a manifest ({wrong[0]} is of the wrong kind)")
        return manifest


class DamagedManifest(WSISError):
    """A manifest that cannot be read."""


_EMPTY = Manifest("", "", "", {}, {}, seconds=0.0)


def plain(value: Any) -> Any:
    """``value`` with tuples as lists, as it comes back from JSON."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def digest_of(value: Any) -> str:
    """Short digest of a JSON-like value."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_weights(path: Path) -> str:
    """Digest of a checkpoint's tensors; equal weights give equal digests, whatever the file's age.

    Files that torch cannot read without pickle are digested by their bytes. A file that has not
    changed since is not read again.

    Raises:
        WSISError: there is no such file.
    """
    try:
        stat = path.stat()
    except OSError:
        raise WSISError(f"no weight file {path}") from None
    return _digest_of_file(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=32)
def _digest_of_file(path: Path, mtime: int, size: int) -> str:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = stored["model"] if isinstance(stored.get("model"), Mapping) else stored
        sha = hashlib.sha256()
        for name in sorted(state):
            sha.update(name.encode())
            sha.update(state[name].contiguous().view(-1).view(torch.uint8).numpy())
    except Exception:  # whatever an odd file makes torch raise
        return sha256_of_file(path)[:16]
    return sha.hexdigest()[:16]


_DATASET_KEYS = ("WSIS.IMAGES", "DATASETS.TRAIN")


def _changed_input(key: str, config: Mapping[str, Any]) -> str:
    if key == "images":
        names = [n for k in _DATASET_KEYS for n in config.get(k) or ()]
        return f"images or labels of {', '.join(map(str, names)) or 'its data set'} have changed"
    return f"its input '{key}' has changed"


def describe_change(
    old: Manifest,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    defaults: Collection[str] = (),
) -> str | None:
    """Say how the present config and inputs differ from those of ``old``; None if they do not.

    A key that only one of them knows makes no difference where it holds its default.

    Args:
        old: what was written when the stage ran.
        config: as it is now.
        inputs: as they are now.
        defaults: keys of ``config`` that hold their default.
    """
    changes, other_data_sets = [], False
    unknown = {key for key in old.defaults if key not in config}
    unknown |= {key for key in defaults if key not in old.config}
    for key in sorted((old.config.keys() | config.keys()) - unknown):
        before, now = old.config.get(key, "absent"), plain(config.get(key, "absent"))
        if before != now:
            changes.append(f"{key} was {before} and is {now}")
            other_data_sets |= key in _DATASET_KEYS
    for key in sorted(old.inputs.keys() | inputs.keys()):
        if key == "images" and other_data_sets:  # they have other images, of course
            continue
        if old.inputs.get(key) != inputs.get(key):
            changes.append(_changed_input(key, config))
    if len(changes) > 3:
        changes[3:] = [f"and {len(changes) - 3} more"]
    return "; ".join(changes) or None


class ArtifactLog:
    """Sizes and checksums of artifacts, appended by each process while it works.

    A killed process may have renamed a file without logging it; `collect` reads such files again.

    Args:
        folder: the stage's run folder.
        rank: this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"log.{rank}.jsonl"

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Note what was written for image ``key``, or ``{"skipped": reason}``."""
        with open(self._path, "a", encoding="utf-8") as stream:
            # the line break comes first, so that the half line of a killed process stays alone
            stream.write("\n" + json.dumps({"key": key, **record}))

    @staticmethod
    def _records(folder: Path) -> Iterable[dict[str, Any]]:
        for path in sorted(folder.glob("log.*.jsonl")):
            for line in path.read_text("utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    record["key"], record.get("bytes")
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue  # the half line of a killed process
                yield record

    @classmethod
    def collect(cls, folder: Path) -> dict[str, dict[str, Any]]:
        """What all processes of all runs noted, the latest record of each key."""
        known = read_index(folder)
        for record in cls._records(folder):
            known[record.pop("key")] = record
        return known

    @staticmethod
    def clear(folder: Path) -> None:
        """Remove the logs, once their content is in the index."""
        for path in folder.glob("log.*.jsonl"):
            path.unlink()


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """``{image key: {"bytes", "crc32"} or {"skipped"}}`` of a run folder; empty without one."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if not isinstance(index, dict) or not all(isinstance(r, dict) for r in index.values()):
            raise ValueError("not records by image key")
    except FileNotFoundError:
        return {}
    except ValueError:
        raise WSISError(f"{folder / INDEX} is damaged; delete it and rerun") from None
    return index


def write_index(folder: Path, keys: Iterable[str], path_of: Any) -> dict[str, dict[str, Any]]:
    """Gather the logs of all processes into ``index.json`` and return it, in ascending key order.

    Args:
        folder: the run folder.
        keys: every image of the stage.
        path_of: image key to artifact path.
    """
    known = ArtifactLog.collect(folder)
    index = {}
    for key in sorted(keys):
        path: Path = path_of(key)
        record = known.get(key, {})
        if path.is_file() and record.get("bytes") != path.stat().st_size:
            data = path.read_bytes()
            record = {"bytes": len(data), "crc32": zlib.crc32(data)}
        index[key] = record
    write_json(folder / INDEX, index, indent=None)
    ArtifactLog.clear(folder)
    return index


def digest_of_artifacts(folder: Path, index: Mapping[str, Any]) -> str:
    """Digest of a finished infer or derive stage's product."""
    summary = folder / f"{SUMMARY}.npz"
    extra = zlib.crc32(summary.read_bytes()) if summary.is_file() else 0
    return digest_of({"index": index, "summary": extra})


def artifact_sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of every artifact in a run folder, by image key, from one directory scan."""
    try:
        with os.scandir(folder / "artifacts") as entries:
            return {
                entry.name.removesuffix(".npz"): entry.stat().st_size
                for entry in entries
                if entry.name.endswith(".npz")
            }
    except FileNotFoundError:
        return {}
