"""The training stream: which sample comes at which position, computed without any state.

Detectron2's sampler and augmentation start anew when a run resumes. Here the sample at position p
and the random numbers that augment it depend only on (seed, p), and batch k only on the stream and
k. So a run that resumes at iteration k gets the same batches as an unbroken run, for any number of
data-loading workers.
"""

from __future__ import annotations

import logging
import pickle
import random
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from wsis.data.records import compact, heads_of
from wsis.errors import DataError, MachineError, UsageError, WSISError, about
from wsis.processes import end_with_parent

logger = logging.getLogger(__name__)

_LAST_SECONDS = 5  # of a data-loading process that was told to end
_SHARED_MEMORY = Path("/dev/shm")
_SEMAPHORES = 2**15  # bytes there that a data-loading process needs, whatever it loads

DatasetDict = dict[str, Any]
Mapper = Callable[[DatasetDict], Any]


def derive_seed(*entropy: int) -> int:
    """One 32-bit seed from several non-negative integers, well mixed."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Inside the block, NumPy's, Python's and torch's CPU generators are seeded from ``entropy``.

    Their states outside the block are left as they were.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        seed = derive_seed(*entropy)
        np.random.seed(seed)  # noqa: NPY002  (Detectron2's transforms draw from the global state)
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


@dataclass(frozen=True)
class Failure:
    """A sample that could not be made; it is sent between processes in place of an exception.

    Attributes:
        key: image key.
        message: one sentence.
        kind: of the error.
    """

    key: str
    message: str
    kind: type[WSISError] = DataError

    @property
    def fatal(self) -> bool:
        """Whether config or machine are wrong, not this image, so others will fail, too."""
        return issubclass(self.kind, UsageError | MachineError)

    def error(self) -> WSISError:
        """The exception that it stands for."""
        return self.kind(self.message)


def _attempt(function: Mapper, sample: DatasetDict) -> Any:
    """``function(sample)``, or a `Failure`."""
    try:
        with about(f"image {sample['image_key']}"):
            return function(sample)
    except WSISError as error:
        return Failure(sample["image_key"], str(error), type(error))


class _Parcel:
    """What a function makes of its samples, packed by the data-loading process that called it.

    torch moves tensors into shared memory (/dev/shm) in a thread of that process; where there is no
    room it drops the batch, and the main process waits for it without end. Here the process moves
    them itself, and where there is no room it sends them through a pipe from then on, which is
    slower: 950 instead of 400 ms for 50 MB, on one loaded core.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._in_shared_memory = True

    def __call__(self, samples: Any) -> Any:
        made = self._function(samples)
        if get_worker_info() is None:
            return made
        if self._in_shared_memory:
            try:
                return True, bytes(ForkingPickler.dumps(made))
            except (RuntimeError, OSError):
                self._in_shared_memory = False
        return False, pickle.dumps(made)


def _unpacked(loader: DataLoader) -> Iterator[Any]:
    """What the functions of a loader's `_Parcel` made.

    Raises:
        MachineError: its processes cannot be started, or one was ended.
    """
    try:
        if loader.num_workers and _SHARED_MEMORY.is_dir():
            free = shutil.disk_usage(_SHARED_MEMORY).free
            if free < loader.num_workers * _SEMAPHORES:
                raise OSError(f"{_SHARED_MEMORY} has room for {free} bytes")
        parcels = iter(loader)
    except OSError as error:
        raise MachineError(
            f"{loader.num_workers} data-loading processes cannot be started ({error}); lower "
            "DATALOADER.NUM_WORKERS, or give a container more shared memory (--shm-size 1g)"
        ) from error
    told = False
    for parcel in parcels:
        if loader.num_workers == 0:
            yield parcel
            continue
        shared, content = parcel
        if not (shared or told):
            told = True
            logger.warning(
                "shared memory (/dev/shm) is full: data-loading processes send images through "
                "pipes, which is slower; lower DATALOADER.NUM_WORKERS, or give a container more "
                "(--shm-size 1g)"
            )
        try:
            made = ForkingPickler.loads(content)
        except (ConnectionError, FileNotFoundError, EOFError) as error:  # it held the memory
            raise RuntimeError(f"DataLoader worker is gone: {error}") from error
        yield made


class EpochOrder(Protocol):
    """An order of samples other than a plain shuffle; an epoch has ``len`` samples."""

    def __len__(self) -> int: ...

    def epoch(self, generator: np.random.Generator) -> np.ndarray:
        """(len,) indices of samples, drawn from the generator alone."""


class TrainingStream(Dataset):
    """An endless, shuffled and augmented stream over a finite data set.

    An item is what the mapper made at a position (or None), and the failures on the way.

    Args:
        dataset_dicts: at least one.
        mapper: draws from the global random states only.
        seed: of order and augmentation.
        skip_broken: take the next image in place of one that cannot be read.
        order: of an epoch; None shuffles all samples.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[DatasetDict],
        mapper: Mapper,
        *,
        seed: int,
        skip_broken: bool = False,
        order: EpochOrder | None = None,
    ) -> None:
        self.order = order
        # other sequences make their dicts when these are read
        as_list = isinstance(dataset_dicts, list)
        self.dataset_dicts = compact(dataset_dicts) if as_list else dataset_dicts
        self.mapper = mapper
        self.seed = seed
        self.skip_broken = skip_broken
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def index_at(self, position: int) -> int:
        """Index of the dataset dict at a stream position; every epoch is in a new order."""
        epoch, offset = divmod(position, len(self.order or self.dataset_dicts))
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            if self.order is None:
                self._order = generator.permutation(len(self.dataset_dicts))
            else:
                self._order = self.order.epoch(generator)
            self._epoch = epoch
        return int(self._order[offset])

    def __getitem__(self, position: int) -> tuple[Any, list[Failure]]:
        index = self.index_at(position)
        tries = len(self.dataset_dicts) if self.skip_broken else 1
        failures: list[Failure] = []
        for attempt in range(tries):
            sample = self.dataset_dicts[(index + attempt) % len(self.dataset_dicts)]
            with seeded(self.seed, position):
                made = _attempt(self.mapper, sample)
            if not isinstance(made, Failure):
                return made, failures
            failures.append(made)
            if made.fatal:
                break
        return None, failures


class StreamBatches(Sampler[list[int]]):
    """Batches of stream positions for one process, from iteration ``start`` on.

    Process r of W takes positions r, r + W, ... With aspect-ratio grouping the images of a batch
    are all wide or all tall (as in Detectron2, to pad less). The grouping is always computed from
    position 0, which costs about a microsecond per skipped image.

    Args:
        batch_size: of one process.
    """

    def __init__(
        self,
        stream: TrainingStream,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        group_by_aspect: bool = False,
    ) -> None:
        self.stream = stream
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.group_by_aspect = group_by_aspect
        self.start = 0
        heads = heads_of(stream.dataset_dicts)
        self._wide = [d["width"] > d["height"] for d in heads] if group_by_aspect else None

    def _all_batches(self, rank: int) -> Iterator[list[int]]:
        groups: tuple[list[int], list[int]] = ([], [])
        position = rank
        while True:
            group = groups[self._wide is not None and self._wide[self.stream.index_at(position)]]
            group.append(position)
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()
            position += self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        return islice(self._all_batches(self.rank), self.start, None)

    def keys_at(self, iteration: int) -> list[str]:
        """Image keys of the batches of all processes at an iteration, in the order of processes."""
        found = []
        for rank in range(self.world_size):
            batch = next(islice(self._all_batches(rank), iteration, None))
            indices = map(self.stream.index_at, batch)
            heads = heads_of(self.stream.dataset_dicts)
            found += [str(heads[i].get("image_key", "?")) for i in indices]
        return found


class ResumableLoader:
    """Iterates over training batches, from iteration ``batches.start`` on.

    The workers start at the first ``next``, not when it is built, so that ``start`` may be set
    after a trainer was built around the loader (Detectron2 0.5 then calls ``iter``). ``on_skip`` is
    called once for each image that is replaced by another one.
    """

    def __init__(
        self,
        stream: TrainingStream,
        batches: StreamBatches,
        *,
        num_workers: int,
        on_skip: Callable[[Failure], None] | None = None,
    ) -> None:
        self.stream = stream
        self.batches = batches
        self.num_workers = num_workers
        self._on_skip = on_skip
        self._skipped: set[str] = set()

    def __iter__(self) -> Iterator[list[Any]]:
        loader = DataLoader(
            self.stream,
            batch_sampler=self.batches,
            num_workers=self.num_workers,
            collate_fn=_Parcel(list),
            worker_init_fn=_start_worker,
            # Without a generator of its own the loader draws a seed from the global one at the
            # first batch. Then the network would draw other numbers right after a resume.
            generator=torch.Generator().manual_seed(0),
        )
        for batch in _unpacked(loader):
            yield [self._take(sample, failures) for sample, failures in batch]

    def _take(self, sample: Any, failures: list[Failure]) -> Any:
        if sample is None:
            raise failures[-1].error()
        for failure in failures:
            if failure.key not in self._skipped:
                self._skipped.add(failure.key)
                logger.warning("training skips %s: %s", failure.key, failure.message)
                if self._on_skip is not None:
                    self._on_skip(failure)
        return sample


def _start_worker(worker: int) -> None:
    """Data-loading workers compute with one thread each; the machine is shared with the network.

    A Ctrl-C in a terminal, and a SIGTERM for all processes of a job, is for the process that they
    work for: training finishes its iteration. They end with it, or a little after a SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_LAST_SECONDS))
    end_with_parent()
    torch.set_num_threads(1)


def single_pass_loader(
    dataset_dicts: Sequence[DatasetDict],
    function: Mapper,
    *,
    num_workers: int,
    order: Iterable[int] | None = None,
    ahead: int = 1,
) -> Iterator[Any]:
    """Yields ``function(dataset_dict)`` one by one, in order, made by workers.

    A sample that could not be made comes as a `Failure`. With ``order`` it is that of the dicts of
    these indices, which are asked for as workers become free. They are ``ahead`` samples ahead, or
    two each if that is more.
    """
    num_workers = min(num_workers, len(dataset_dicts))
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", compact(dataset_dicts)),
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        prefetch_factor=max(2, -(-ahead // num_workers)) if num_workers else None,
        collate_fn=_Parcel(partial(_attempt, function)),
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(0),
    )
    return _unpacked(loader)
