"""``manifest.json`` of a run folder: the config values and inputs on which a product depends.

By it a later run can tell finished from stale work, and say what changed. Inputs are kept as
digests.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode

import wsis
from wsis.config import METHOD_NODES, flatten, stock_values
from wsis.data.builtin import read_dataset
from wsis.data.checks import load_json
from wsis.data.files import sha256_of_file, write_json
from wsis.data.records import Records, compact, heads_of, to_json
from wsis.data.supervision import seen_at
from wsis.engine.pipeline import PlannedStage
from wsis.errors import DataError, UsageError, WSISError
from wsis.stage import Stage, TrainStage, get_stage

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
RUNNING, DONE = "running", "done"
# Config nodes on which a product depends, by kind; a stage adds its own (Stage.config_keys).
_KIND_KEYS = {
    "train": ("MODEL", "INPUT", "SOLVER", "SEED", "WSIS.SOLVER", "WSIS.INIT_FROM")
    + ("DATASETS.TRAIN", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "DATALOADER.ASPECT_RATIO_GROUPING"),
    "infer": ("MODEL", "INPUT", "WSIS.IMAGES"),
    "derive": ("WSIS.IMAGES", "INPUT.MAX_PIXELS"),
    "export": ("WSIS.IMAGES", "INPUT.MAX_PIXELS"),
}
# Keys that never count: where the work runs, how often it is saved; weights count by content.
_NEVER = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.TIMM.WEIGHTS",
    "MODEL.PEAK_CLASSIFIER.MEMORY_MB",
    "SOLVER.CHECKPOINT_PERIOD",
)
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "pycocotools")
_DATASET_KEYS = ("WSIS.IMAGES", "DATASETS.TRAIN")
IMAGES, IMAGE_FILES = "images", "image_files"  # inputs: what may be seen of them, their bytes
_MASK_FILES = ("instance_file_name", "salient_file_name", "semantic_file_name")


class DamagedManifest(WSISError):
    """A manifest that cannot be read."""


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
        examples: keys of the first images that a remark is about, by what of the counts.
        files: sizes in bytes of the product's files beside the artifacts, ``{name: bytes}``.
        seconds: wall time of the run that finished it.
        versions: of the packages that made it.
        defaults: config keys that had their default value. If another version does not know such a
            key, that is no change.
        extended: SOLVER.MAX_ITER of each earlier, shorter training that this one goes on from.
    """

    stage: str
    kind: str
    status: str
    config: dict[str, Any]
    inputs: dict[str, str]
    product: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)
    extended: list[int] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Identifies config and inputs, hence the product; as in versions without `IMAGE_FILES`."""
        inputs = {key: value for key, value in self.inputs.items() if key != IMAGE_FILES}
        return digest_of({"config": self.config, "inputs": inputs, "stage": self.stage})

    @property
    def remarks(self) -> list[str]:
        """Sentences about the product that its counts call for, as the stage declares them."""
        try:
            declared = get_stage(self.stage).remarks
        except UsageError:  # a stage of a method that is not installed here
            return []
        said = {w: t.format_map(self.counts) for w, t in declared.items() if self.counts.get(w)}
        first = {what: f" (first: {keys})" for what, keys in self.examples.items()}
        return [f"{self.stage}: {text}{first.get(what, '')}" for what, text in said.items()]

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
        if not path.exists():
            return None
        try:
            manifest = cls(**load_json(path))
            for name, empty in vars(cls("", "", "", {}, {})).items():
                if not isinstance(getattr(manifest, name), type(empty)):
                    raise TypeError(f"{name} is of the wrong kind")
        except (ValueError, TypeError) as error:
            raise DamagedManifest(
                f"{path} is not a manifest ({error.__cause__ or error})"
            ) from None
        return manifest

    def change(self, now: Manifest) -> str:
        """In words, how config and inputs of ``now`` differ from these; "" if they do not.

        A key that only one of them knows, and that has its default there, is no difference. Image
        files count once the work is done, so that a run goes on after a broken one was replaced;
        and not in manifests of versions that did not look at them.
        """
        changes, told = [], False
        config = json.loads(json.dumps(now.config))  # tuples are lists, as in the file
        unknown = {key for key in self.defaults if key not in config}
        unknown |= {key for key in now.defaults if key not in self.config}
        for key in sorted((self.config.keys() | config.keys()) - unknown):
            before, after = self.config.get(key, "absent"), config.get(key, "absent")
            if before != after:
                changes.append(f"{key} was {before} and is {after}")
                told |= key in _DATASET_KEYS
        looked_at = self.inputs.get(IMAGE_FILES) and now.inputs.get(IMAGE_FILES)
        unknown = set() if looked_at and self.status == DONE else {IMAGE_FILES}
        for key in sorted((self.inputs.keys() | now.inputs.keys()) - unknown):
            if self.inputs.get(key) == now.inputs.get(key):
                continue
            what = {IMAGES: "images or labels", IMAGE_FILES: "image files"}.get(key)
            if what is None:
                changes.append(f"its input '{key}' has changed")
            elif not told:  # other data sets have other images: said already
                names = [str(n) for k in _DATASET_KEYS for n in config.get(k) or ()]
                changes.append(f"{what} of {', '.join(names) or 'its data set'} have changed")
                told = True  # once is enough
        if len(changes) > 3:
            changes[3:] = [f"and {len(changes) - 3} more"]
        return "; ".join(changes)

    def extends(self, before: Manifest) -> bool:
        """Whether this is the training of ``before`` for more iterations, and nothing else.

        Steps of the learning rate may be added behind its end.
        """
        end, longer = before.config.get("SOLVER.MAX_ITER", 0), self.config.get("SOLVER.MAX_ITER", 0)
        steps = [step for step in self.config.get("SOLVER.STEPS", ()) if step <= end]
        asked = self.config | {"SOLVER.MAX_ITER": end, "SOLVER.STEPS": steps}
        earlier = [step for step in before.config.get("SOLVER.STEPS", ()) if step <= end]
        was = replace(before, config=before.config | {"SOLVER.STEPS": earlier})
        return longer > end > 0 and not was.change(replace(self, config=asked))

    def go_on_from(self, before: Manifest) -> None:
        """Note, if this extends ``before``, where that was to end."""
        end = before.config.get("SOLVER.MAX_ITER", 0)
        self.extended = before.extended + ([end] if self.extends(before) else [])


def product_of(folder: Path) -> str:
    """Digest of the finished product in a run folder, "" if there is none."""
    try:
        manifest = Manifest.read(folder)
    except DamagedManifest:
        return ""
    return manifest.product if manifest and manifest.status == DONE else ""


def digest_of_input(folder: Path, name: str) -> str:
    """The digest of an input that the manifest of a run folder notes, "" if it notes none."""
    try:
        manifest = Manifest.read(folder)
    except DamagedManifest:
        return ""
    return manifest.inputs.get(name, "") if manifest else ""


def package_versions() -> dict[str, str]:
    """``{package: version}`` of WSIS, Python, Detectron2 and what they compute with."""
    versions = {
        "wsis": wsis.__version__,
        "python": platform.python_version(),
        "detectron2": detectron2.__version__,
    }
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


# What the config says.


def look_up(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(lambda node, part: node[part], key.split("."), cfg)


def relevant_config(planned: PlannedStage) -> dict[str, Any]:
    """The flat config values on which a stage's product depends."""
    stage, cfg = planned.stage, planned.cfg
    flat: dict[str, Any] = {}
    for key in _KIND_KEYS[stage.kind]:
        flat.update(flatten(look_up(cfg, key), key))
    dropped = tuple(node + "." for node in METHOD_NODES)
    flat = {k: v for k, v in flat.items() if not k.startswith(dropped) and k not in _NEVER}
    if isinstance(stage, TrainStage):
        flat = {k: v for k, v in flat.items() if not k.endswith(("_TEST", "_TEST_IMAGE"))}
    if stage.kind in ("train", "infer"):  # nodes of projects, which WSIS.IMPORTS adds
        for node in sorted(set(cfg) - {key.partition(".")[0] for key in stock_values()}):
            flat.update(flatten(cfg[node], node))
    for key in stage.config_keys:
        flat.update(flatten(look_up(cfg, key), key))
    if flat.get("SOLVER.WEIGHT_DECAY_BIAS", 0) is None:  # newer releases' word for "as all others"
        flat["SOLVER.WEIGHT_DECAY_BIAS"] = flat["SOLVER.WEIGHT_DECAY"]
    return flat


def defaults_among(config: Mapping[str, Any], imports: Sequence[str]) -> list[str]:
    """Keys of a flat config with the default of WSIS, Detectron2 or ``imports`` (WSIS.IMPORTS).

    Class counts are among them: they follow from the data set.
    """
    stock = stock_values(tuple(imports))
    return sorted(
        key
        for key, value in config.items()
        if key.endswith(".NUM_CLASSES") or (key in stock and stock[key] == value)
    )


# Digests of what a stage reads and makes.


def digest_of(value: Any) -> str:
    """Short digest of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_weights(path: Path) -> str:
    """Digest of a checkpoint's tensors; equal weights give equal digests, whatever the file's age.

    For files that torch cannot read without pickle it is the digest of their bytes. A file that has
    not changed is not read again.

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


def digest_of_sizes(path: Path) -> str:
    """Digest of the size of a file, or of the names and sizes of all files below a folder.

    Contents are not read: such files may have many gigabytes.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found = [[str(p.relative_to(path)), _size_of(p)] for p in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _size_of(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # it is reported when the file is read
        return -1


def fingerprint(dataset_dicts: Sequence[dict[str, Any]], supervision: str) -> str:
    """Digest of what a stage may see of a data set at a level of supervision.

    Image keys, sizes and labels count, and if masks may be seen the sizes of the mask files in
    bytes. Folders do not count, so a data set may be moved. Image files: see `sizes_of_images`.
    """
    sha, records = hashlib.sha256(), compact(dataset_dicts)
    told: Iterable[tuple[str, Sequence[memoryview]]] = repeat(("", ()))
    if supervision != "image":
        told = records.texts(lambda a: seen_at({"annotations": [a]}, supervision)["annotations"])
    for head, (text, points) in zip(records.heads, told, strict=False):
        seen = seen_at(head, supervision)
        sizes = [_size_of(seen[key]) for key in _MASK_FILES if key in seen]
        seen = {k: v for k, v in seen.items() if not k.endswith("file_name")}
        before, name, after = to_json([seen, sizes]).partition('"annotations": [')
        sha.update(f"{before}{name}{text}{after}".encode())
        for part in points if supervision == "mask" else ():
            sha.update(part)
    return sha.hexdigest()[:16]


def sizes_of_images(dataset_dicts: Sequence[dict[str, Any]]) -> str:
    """Digest of the sizes in bytes of image files, in order: one replaced under its name is seen.

    Names do not count, nor contents: a data set may have a hundred thousand images. "" if one is
    not there: a finished stage does not need it.
    """
    sizes = [_size_of(sample["file_name"]) for sample in heads_of(dataset_dicts)]
    return "" if -1 in sizes else digest_of(sizes)


def seen_of_the_data_set(stage: Stage) -> str:
    """Level of supervision that a stage takes from the data set itself, not from pseudo labels."""
    return "image" if "pseudo_labels" in stage.consumes else stage.supervision


class Images:
    """Dataset dicts of data sets; each is read once per command, and its digests taken once.

    Args:
        on_error: what broken annotations do, a value of WSIS.ON_ERROR.
    """

    def __init__(self, on_error: str = "raise") -> None:
        self.named = functools.cache(functools.partial(_read_images, on_error))
        self.fingerprint = functools.cache(lambda n, level: fingerprint(self.named(n), level))
        self.sizes = functools.cache(lambda names: sizes_of_images(self.named(names)))
        self._said: set[object] = set()

    def say(self, sentence: str, *, about: object = None) -> None:
        """Log a warning once a command, though several stages come upon what it is ``about``."""
        if (about or sentence) not in self._said:
            self._said.add(about or sentence)
            logger.warning("%s", sentence)


def _read_images(on_error: str, names: tuple[str, ...]) -> Records:
    """Dataset dicts of several data sets, one after another.

    Raises:
        DataError: an image key occurs twice, so that artifacts would overwrite each other.
    """
    parts = [read_dataset(name, on_error) for name in names]
    found = parts[0] if len(parts) == 1 else Records(chain.from_iterable(parts))
    counts = Counter(record["image_key"] for record in found.heads)
    twice = next((key for key, count in counts.items() if count > 1), None)
    if twice is not None:
        raise DataError(
            f"image key {twice} occurs twice in {', '.join(names)}; name data sets that share no "
            "image, or rename files"
        )
    return found
