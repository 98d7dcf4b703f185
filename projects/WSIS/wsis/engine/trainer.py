"""Training that resumes exactly where it stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import (
    AMPTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    default_writers,
    hooks,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from wsis.data.checks import load_json
from wsis.data.files import write_json
from wsis.data.stream import (
    EpochOrder,
    Failure,
    ResumableLoader,
    StreamBatches,
    TrainingStream,
    derive_seed,
)
from wsis.engine.checkpoint import AtomicCheckpointer, build_network, load_trained
from wsis.engine.optimizer import Accumulator, build_lr_scheduler, build_optimizer
from wsis.errors import MachineError, UsageError, WSISError, about, out_of_memory
from wsis.evaluation.evaluator import Results
from wsis.layers.precision import map_layout
from wsis.stopping import Postponed, stop_by

logger = logging.getLogger(__name__)

_STOPPING = "stopping after this iteration, which is saved; once more stops at once"
_KEPT_CHECKPOINTS = 2
BEST = "best.json"
_MAIN_FIGURES = ("AP50", "mAP", "mIoU")  # the first of these that exists decides which is best


def images_per_process(cfg: CfgNode, processes: int) -> int:
    """The part of ``SOLVER.IMS_PER_BATCH`` that each process takes.

    Raises:
        UsageError: the batch cannot be shared evenly.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch % processes:
        raise UsageError(
            f"stage {cfg.WSIS.STAGE}: SOLVER.IMS_PER_BATCH {batch} is not divisible by {processes} "
            f"processes, over which it is the total; set {cfg.WSIS.STAGE}.SOLVER.IMS_PER_BATCH, or "
            "use another number of processes"
        )
    if (batch // processes) % (parts := cfg.WSIS.SOLVER.ACCUMULATE):
        raise UsageError(
            f"stage {cfg.WSIS.STAGE}: the {batch // processes} images of a process cannot be taken "
            f"in {parts} equal parts; set {cfg.WSIS.STAGE}.WSIS.SOLVER.ACCUMULATE to a divisor"
        )
    return batch // processes


def build_train_loader(
    cfg: CfgNode,
    dataset_dicts: Sequence[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], Any],
    *,
    order: EpochOrder | None = None,
    on_skip: Callable[[Failure], None] | None = None,
) -> ResumableLoader:
    """The training loader of one process; ``SOLVER.IMS_PER_BATCH`` counts all processes together.

    ``on_skip`` is called for each image that cannot be read, if ``WSIS.ON_ERROR`` is "skip";
    ``order`` is that of an epoch, None shuffles.

    Raises:
        UsageError: the batch cannot be shared evenly, or no image is left to train on.
    """
    if not dataset_dicts:
        raise UsageError(f"no image to train on in {', '.join(cfg.DATASETS.TRAIN)}")
    stream = TrainingStream(
        dataset_dicts,
        mapper,
        seed=max(cfg.SEED, 0),
        skip_broken=cfg.WSIS.ON_ERROR == "skip",
        order=order,
    )
    batches = StreamBatches(
        stream,
        images_per_process(cfg, comm.get_world_size()),
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        group_by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
    )
    workers = cfg.DATALOADER.NUM_WORKERS
    return ResumableLoader(stream, batches, num_workers=workers, on_skip=on_skip)


class KeepBest(HookBase):
    """Evaluates while it trains, and keeps the best network as ``model_best.pth``.

    ``best.json`` beside it has its iteration and its score. The hook does not change the network:
    training with and without it ends with the same weights.

    ``evaluate`` gives the figures of the test sets; it is called every ``period`` iterations and at
    the end.
    """

    def __init__(
        self,
        evaluate: Callable[[nn.Module], Results],
        period: int,
        checkpointer: AtomicCheckpointer,
    ) -> None:
        self._evaluate, self._period, self._checkpointer = evaluate, period, checkpointer
        self._path = Path(checkpointer.save_dir) / BEST

    def after_step(self) -> None:
        """Evaluate if it is time."""
        iteration = self.trainer.iter + 1
        if iteration % self._period and iteration != self.trainer.max_iter:
            return
        model = self._checkpointer.model
        results = self._evaluate(model.eval())
        model.train()
        figures = [(e, name) for e in results for name in _MAIN_FIGURES if name in e["metrics"]]
        if not comm.is_main_process() or not figures:
            return
        for entry, name in figures:
            place = f"{entry['dataset']}/{entry['protocol']}/{name}"
            self.trainer.storage.put_scalar(place, entry["metrics"][name], smoothing_hint=False)
        entry, name = figures[0]
        value = entry["metrics"][name]
        try:
            best = float(load_json(self._path)["value"])
        except (ValueError, KeyError, TypeError):  # none yet, or a damaged note
            best = -1.0
        if math.isfinite(value) and value > best:
            self._checkpointer.save("model_best", mark=False, iteration=iteration - 1)
            found = {"iteration": iteration, "figure": name, "value": value}
            write_json(self._path, found | {k: entry[k] for k in ("dataset", "protocol")})
            logger.info("Best so far: %s %.2f at iteration %d", name, value, iteration)


def keep_weights(cfg: CfgNode, weights: str | None = None) -> None:
    """Save a network trained elsewhere as this stage's product; for ``SOLVER.MAX_ITER`` 0.

    Raises:
        UsageError: there are no weights to keep.
    """
    weights = cfg.MODEL.WEIGHTS if weights is None else weights
    if not weights:
        raise UsageError(
            "SOLVER.MAX_ITER 0 keeps the network of MODEL.WEIGHTS, which is empty; name a file "
            "there or train for 1 iteration or more"
        )
    model = build_network(cfg)
    load_trained(model, weights)
    AtomicCheckpointer(model, cfg.OUTPUT_DIR).save("model_final", iteration=-1)


class Trainer(TrainerBase):
    """Detectron2's training loop with exact resumption.

    Weights, optimizer, scheduler, gradient scaler and iteration come from the checkpoint. The order
    of images and their augmentation follow from the stream position (`wsis.data.stream`), and the
    random numbers of the network in iteration k from (SEED, k, process). So in one CPU process a
    resumed run computes the same weights as an unbroken one.

    Args:
        cfg: stage config; OUTPUT_DIR is the run folder.
        dataset_dicts: what to train on.
        mapper: dataset dict to model input.
        weights: initial weights; None for MODEL.WEIGHTS, "" for none.
        order: of an epoch; None shuffles.
        on_skip: see `build_train_loader`.
        evaluate: takes the network and gives the figures of the test sets; called every
            ``TEST.EVAL_PERIOD`` iterations, if that is not 0.
    """

    def __init__(
        self,
        cfg: CfgNode,
        dataset_dicts: Sequence[dict[str, Any]],
        *,
        mapper: Callable[[dict[str, Any]], Any],
        weights: str | None = None,
        order: EpochOrder | None = None,
        on_skip: Callable[[Failure], None] | None = None,
        evaluate: Callable[[nn.Module], Results] | None = None,
    ) -> None:
        super().__init__()
        self._seed = max(cfg.SEED, 0)
        torch.manual_seed(derive_seed(self._seed))
        model, half = build_network(cfg), cfg.SOLVER.AMP.ENABLED
        layout = map_layout(torch.device(cfg.MODEL.DEVICE), half=half)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 4:  # torch's `Module.to` refuses those of 5
                # A copy: `contiguous` leaves kernels of one channel with strides that their
                # gradients do not have, of which torch warns where several processes train.
                tensor.data = tensor.data.clone(memory_format=layout)
        self._weights = cfg.MODEL.WEIGHTS if weights is None else weights
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.loader = build_train_loader(cfg, dataset_dicts, mapper, order=order, on_skip=on_skip)
        devices = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
        self.model = create_ddp_model(model, device_ids=devices, broadcast_buffers=False)
        scaler = torch.amp.GradScaler("cuda") if half else None
        self._whole = Accumulator(self.optimizer, cfg.WSIS.SOLVER.ACCUMULATE, scaler)
        given = (self.model, self._whole.batches(self.loader), self._whole)
        if scaler is None:
            self._inner = SimpleTrainer(*given)
        else:
            self._inner = AMPTrainer(*given, grad_scaler=self._whole)
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        if scaler is not None:
            parts["grad_scaler"] = scaler
        self.checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR, **parts)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self._hooks_for(cfg, evaluate))

    def _hooks_for(
        self, cfg: CfgNode, evaluate: Callable[[nn.Module], Results] | None
    ) -> list[Any]:
        found = [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer=self.optimizer, scheduler=self.scheduler),
        ]
        if comm.is_main_process():
            period = cfg.SOLVER.CHECKPOINT_PERIOD
            found.append(
                hooks.PeriodicCheckpointer(self.checkpointer, period, max_to_keep=_KEPT_CHECKPOINTS)
            )
        if evaluate is not None and cfg.TEST.EVAL_PERIOD > 0:  # which takes long: save first
            found.append(KeepBest(evaluate, cfg.TEST.EVAL_PERIOD, self.checkpointer))
        if comm.is_main_process():
            writers = default_writers(cfg.OUTPUT_DIR, self.max_iter)
            found.append(hooks.PeriodicWriter(writers, period=20))
        return found

    def resume_or_load(self) -> None:
        """Continue from the run folder's last checkpoint that is whole, or load initial weights."""
        newest = self.checkpointer.newest_readable() if comm.is_main_process() else None
        path = comm.all_gather(newest)[0]
        if path is not None:
            try:
                stored = self.checkpointer.load(str(path))
            except Exception as error:
                raise WSISError(
                    f"cannot resume from {path} ({error}); start the stage again with --force"
                ) from error
            self.start_iter = stored["iteration"] + 1
            # an earlier, shorter training may have left the rate of another schedule
            groups, rates = self.optimizer.param_groups, self.scheduler.get_lr()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            first_new = f"model_{self.start_iter:07d}.pth"
            older = [p for p in self.checkpointer.periodic_files() if p.name < first_new]
            for hook in self._hooks:  # it is to delete checkpoints of earlier runs like its own
                if isinstance(hook, hooks.PeriodicCheckpointer):
                    hook.recent_checkpoints = list(map(str, older))
            logger.info("Resuming at iteration %d", self.start_iter)
        elif self._weights:
            load_trained(self.checkpointer.model, self._weights)
        self.loader.batches.start = self.start_iter

    def run_step(self) -> None:
        """One iteration; a loss that is not finite stops the training with the images' names."""
        torch.manual_seed(derive_seed(self._seed, self.iter, comm.get_rank()))
        self._inner.iter = self.iter
        try:
            with about(self._place, when=out_of_memory):
                for part in range(self._whole.parts):
                    self._whole.part = part
                    self._inner.run_step()
        except FloatingPointError as error:
            reason = " ".join(str(error).split())
            raise WSISError(
                f"training diverged at {self._place()}: {reason}. The "
                "last checkpoint is kept; lower SOLVER.BASE_LR, warm up longer or clip gradients, "
                "and start the stage again with --force"
            ) from error

    def _place(self) -> str:
        images = ", ".join(self.loader.batches.keys_at(self.iter))
        return f"iteration {self.iter} on images {images}"

    def train(self) -> None:
        """Train from the present iteration to ``SOLVER.MAX_ITER``.

        It is the parent's loop, but does not log a traceback for errors that the user can mend. At
        a Ctrl-C or SIGTERM it finishes the iteration and saves a checkpoint.

        Raises:
            KeyboardInterrupt: after that.
        """
        said = _STOPPING if comm.is_main_process() else ""
        following = (RuntimeError, MachineError)
        with EventStorage(self.start_iter) as self.storage, Postponed(said, following) as stop:
            try:
                self.before_train()
                for self.iter in range(self.start_iter, self.max_iter):  # noqa: B020
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self._heed(stop)
            except BaseException:
                with suppress(OSError):  # the first error says more than one of the log files
                    self.after_train()
                raise
            self.iter = self.max_iter  # hooks of later releases take this as success
            self.after_train()
        if self.start_iter >= self.max_iter:  # all was done, but the final file may be lost
            self.checkpointer.save("model_final", iteration=self.max_iter - 1)

    def _heed(self, stop: Postponed) -> None:
        """If a process was told to stop, save what is done and stop all of them together."""
        if not (number := max(comm.all_gather(stop.number))):
            return
        if self.iter + 1 < self.max_iter:  # the last iteration is saved already
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
        comm.synchronize()  # none ends, and is missed, while the main process still saves
        raise stop_by(number)
