"""Stages that make an artifact of each image, with a network (infer) or without one (derive)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from wsis.data.artifacts import SUMMARY, write_artifact
from wsis.data.inspect_data import require_pictures
from wsis.data.mappers import build_mapper
from wsis.data.records import compact
from wsis.data.stream import Failure, derive_seed, seeded, single_pass_loader
from wsis.data.supervision import restrict_supervision
from wsis.data.working_size import at_working_size
from wsis.engine.checkpoint import build_inference_model, build_network
from wsis.engine.folder import StageFolder
from wsis.engine.launch import trimming
from wsis.engine.pipeline import PlannedStage
from wsis.engine.shares import shares
from wsis.engine.verify import digest_of_product
from wsis.errors import MachineError, UsageError, WSISError, about, out_of_memory
from wsis.progress import progress
from wsis.stage import DeriveStage, InferStage, Stage

SHARES = ".shares"  # in the run folder while a stage is worked through, see `shares`
_WRITERS = 2  # threads that write artifacts while the network computes
_WAITING = 16  # artifacts that may wait for them, so that memory stays bounded
# Images that a network gets together on a GPU, where an operation costs the same for one as for
# several; a CPU gets 1. Shipped configs train with as many, which takes more memory.
_AT_ONCE = 16
_FIRST = 5  # images that a remark names


def artifact_maker(
    planned: PlannedStage, products: Mapping[str, Any], weights: Path | None = None
) -> tuple[Callable[[dict[str, Any]], Any], Callable[[list[Any]], list[dict[str, Any]]]]:
    """What makes the artifacts of images: ``finish([prepare(dataset dict), ...])``, one for each.

    Args:
        planned: an infer or derive stage.
        products: artifacts by image key, weights and summaries of the stages that it reads.
        weights: a checkpoint in place of the one that an earlier stage trained, or MODEL.WEIGHTS.

    Returns:
        prepare: may run in other processes.
        finish: the network; stays in this one.
    """
    stage, cfg = planned.stage, planned.cfg
    if isinstance(stage, DeriveStage):
        derive = _Derive(stage, products, cfg)
        if stage.on_device and cfg.MODEL.DEVICE != "cpu":
            return derive.load, lambda loaded: [derive.make(one) for one in loaded]
        return derive, lambda made: made
    assert isinstance(stage, InferStage)
    mapper = build_mapper(cfg, stage.mapper, is_train=False, products=products)
    if stage.model_key:
        if weights is not None:
            raise UsageError(f"--weights: the network of {planned.name} is {stage.model_key}")
        model = build_network(cfg).eval()
    else:
        trained = products.get(stage.weights_from)
        own = cfg.MODEL.WEIGHTS if trained is None else trained.weights
        model = build_inference_model(cfg, weights or own)

    @torch.no_grad()
    def finish(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [stage.to_artifact(output) for output in model(samples)]

    return mapper, finish


def _seen(sample: dict[str, Any], stage: Stage, cfg: CfgNode) -> dict[str, Any]:
    """What a stage may see of an image, at its working size."""
    seen = restrict_supervision(sample, stage.supervision)
    return at_working_size(seen, cfg.INPUT.MAX_PIXELS)


class _Derive:
    """A derive stage's function with its inputs; picklable for data-loading processes."""

    def __init__(self, stage: DeriveStage, products: Mapping[str, Any], cfg: CfgNode) -> None:
        self.stage, self.products, self.cfg = stage, products, cfg

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return self.make(self.load(sample))

    def load(self, sample: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        sample = _seen(sample, self.stage, self.cfg)
        key = sample["image_key"]
        return sample, {name: reader[key] for name, reader in self.products.items()}

    def make(self, loaded: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
        return self.stage.function(*loaded, self.cfg)


class _ArtifactSink:
    """Writes artifacts in background threads and logs them; `put` waits if too many are queued."""

    def __init__(self, folder: StageFolder) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._pending: list[tuple[str, Future]] = []

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        path = self._folder.reader.path(key)
        self._pending.append((key, self._pool.submit(write_artifact, path, arrays)))
        self._drain(_WAITING)

    def _drain(self, allowed: int) -> None:
        while len(self._pending) > allowed:
            key, future = self._pending.pop(0)
            self._folder.log(key, future.result())

    def close(self) -> None:
        try:
            self._drain(0)
        finally:
            self._pool.shutdown()


class _Together:
    """Makes artifacts of several images at a time, and of each by itself where that fails.

    Attributes:
        most: so many images at a time; fewer once memory ran out.
    """

    def __init__(
        self, folder: StageFolder, finish: Callable[[list[Any]], list[dict[str, Any]]], most: int
    ) -> None:
        self._folder, self._finish, self.most = folder, finish, most

    def lists(self, samples: Iterator[Any]) -> Iterator[list[Any]]:
        """The samples, so many at a time."""
        return iter(lambda: list(islice(samples, self.most)), [])

    def made(self, keys: list[str], samples: list[Any]) -> list[Any]:
        """The arrays of the image of each key, or in their place the error that it ends with.

        ``samples`` are prepared, or `Failure`. Random numbers are those of the first image.
        """
        try:
            for sample in samples:
                if isinstance(sample, Failure):
                    raise sample.error()
            with seeded(max(self._folder.planned.cfg.SEED, 0), derive_seed(*keys[0].encode())):
                return [_to_arrays(one) for one in self._finish(samples)]
        except Exception as error:
            if len(samples) == 1:
                return [error]
            short = out_of_memory(error)
        half = len(samples) // 2  # only now is the memory of what failed free
        if short:
            self.most = min(self.most, half)
            said = f"{self._folder.name}: too little memory for {len(samples)} images at a time"
            self._folder.images.say(
                f"{said}; fewer from now on", about=(self._folder.name, "memory")
            )
        return self.made(keys[:half], samples[:half]) + self.made(keys[half:], samples[half:])


def _to_arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in values.items()
    }


def work_through(
    folder: StageFolder,
    prepare: Callable[[dict[str, Any]], Any],
    finish: Callable[[list[Any]], list[dict[str, Any]]],
) -> None:
    """Make missing artifacts together with the other processes, see `artifact_maker`."""
    cfg = folder.planned.cfg
    if comm.is_main_process():
        (folder.path / SHARES).write_bytes(b"")
    todo = set(comm.all_gather(folder.missing() if comm.is_main_process() else [])[0])
    records = compact(folder.dataset_dicts)
    rest = records[np.array([key in todo for key in folder.image_keys], dtype=bool)]
    infer = isinstance(folder.planned.stage, InferStage)
    if infer and comm.is_main_process():
        require_pictures(rest, cfg.WSIS.ON_ERROR, folder.images.say)
    taken = deque[int]()

    def order() -> Iterator[int]:
        for index in shares(len(rest), folder.path / SHARES):
            taken.append(index)
            yield index

    workers, on_cpu = cfg.DATALOADER.NUM_WORKERS, cfg.MODEL.DEVICE == "cpu"
    together = _Together(folder, finish, _AT_ONCE if infer and not on_cpu else 1)
    options = {"num_workers": workers, "order": order(), "ahead": together.most}
    loader = trimming(single_pass_loader(rest, prepare, **options), kept=on_cpu)
    total = len(folder.dataset_dicts)
    done = total - len(rest)
    with (
        closing(_ArtifactSink(folder)) as sink,
        progress(None, folder.name, total=total, done=done) as bar,
    ):
        for samples in together.lists(loader):
            taken_now = [taken.popleft() for _ in samples]  # of all that the processes take
            bar.update(done + taken_now[0] - bar.n)
            keys = [rest.heads[index]["image_key"] for index in taken_now]
            for key, made in zip(keys, together.made(keys, samples), strict=True):
                try:
                    with about(f"image {key}", when=out_of_memory):
                        if isinstance(made, Exception):
                            raise made
                    sink.put(key, made)
                except WSISError as error:
                    if cfg.WSIS.ON_ERROR != "skip" or isinstance(error, UsageError | MachineError):
                        raise
                    said = f"{key}: {error}"
                    folder.images.say(f"{folder.name} skips {said}", about=said)
                    folder.log(key, {"skipped": str(error)})
        bar.update(total - bar.n)


def close_artifacts(folder: StageFolder) -> None:
    """Check that nothing is missing, write index and summary; in the main process."""
    if not comm.is_main_process():
        return
    (folder.path / SHARES).unlink(missing_ok=True)
    stage, index = folder.planned.stage, folder.write_index()
    skipped = {key: record["skipped"] for key, record in index.items() if "skipped" in record}
    if lost := [key for key, record in index.items() if not record]:
        raise WSISError(f"{folder.name}: {len(lost)} artifacts are missing, {lost[0]} first; rerun")
    present = [key for key in folder.image_keys if key not in skipped]
    if isinstance(stage, InferStage) and stage.reduce is not None:
        artifacts = ((key, folder.reader[key]) for key in present)
        summary = _to_arrays(stage.reduce(artifacts, folder.planned.cfg))
        write_artifact(folder.path / f"{SUMMARY}.npz", summary)
    counts, examples = Counter({"images": len(present)}), dict[str, list[str]]()
    if tally := stage.tally:
        for record in folder.dataset_dicts:
            if (key := record["image_key"]) in skipped:
                continue
            found = tally(folder.reader[key], _seen(record, stage, folder.planned.cfg))
            counts.update(found)
            for what in filter(found.get, stage.remarks):
                examples.setdefault(what, []).append(key)
    first = {what: ", ".join(keys[:_FIRST]) for what, keys in examples.items()}
    folder.close(digest_of_product(folder), counts, skipped, first)
