"""Optimiser and learning rate of a training stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from wsis.errors import UsageError

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
)


def _groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Trainable parameters grouped by rate and weight decay, in the model's order."""
    keys = cfg.SOLVER
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{prefix}.{leaf}" if prefix else leaf
            factors = (f for start, f in cfg.WSIS.SOLVER.LR_FACTORS if name.startswith(start))
            rate = keys.BASE_LR * float(next(factors, 1.0))
            decay = keys.WEIGHT_DECAY_NORM if isinstance(module, _NORMS) else keys.WEIGHT_DECAY
            if leaf == "bias":
                rate *= keys.BIAS_LR_FACTOR
                if keys.WEIGHT_DECAY_BIAS is not None:
                    decay = keys.WEIGHT_DECAY_BIAS
            if decay is None:
                decay = keys.WEIGHT_DECAY
            groups.setdefault((rate, float(decay)), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": w} for (rate, w), p in groups.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or Adam (``WSIS.SOLVER.OPTIMIZER``), with a learning rate for each part of the network.

    The rate is ``SOLVER.BASE_LR`` times the factor of the first prefix in
    ``WSIS.SOLVER.LR_FACTORS`` with which a parameter's name begins. Weight decay of biases and of
    normalisation layers, momentum and gradient clipping are Detectron2's keys and mean what they
    mean there: WEIGHT_DECAY_BIAS, if set, also holds for the biases of normalisation layers. Adam
    has PyTorch's betas and takes no momentum.

    On a GPU the steps of all parameters are one operation; not under mixed precision, where such a
    step would divide the gradients by their scale after they were clipped.

    Raises:
        UsageError: nothing to train, a prefix that fits no parameter, or an unknown optimiser.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix, _ in cfg.WSIS.SOLVER.LR_FACTORS:
        if not any(name.startswith(prefix) for name in names):
            raise UsageError(
                f"WSIS.SOLVER.LR_FACTORS names {prefix!r}, with which no parameter of "
                f"{type(model).__name__} begins; it has "
                + ", ".join(sorted({name.partition(".")[0] for name in names}))
            )
    groups = _groups(cfg, model)
    if not groups:
        raise UsageError(
            f"{type(model).__name__} has nothing to train; lower MODEL.BACKBONE.FREEZE_AT"
        )
    options = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    name = cfg.WSIS.SOLVER.OPTIMIZER
    if name == "SGD":
        kind: type[torch.optim.Optimizer] = torch.optim.SGD
        options |= {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
        if next(model.parameters()).is_cuda and not cfg.SOLVER.AMP.ENABLED:
            options["fused"] = True
    elif name == "Adam":
        kind = torch.optim.Adam
    else:
        raise UsageError(f"WSIS.SOLVER.OPTIMIZER is {name!r}; it must be SGD or Adam")
    made = maybe_add_gradient_clipping(cfg, kind)(groups, **options)
    if options.get("fused"):  # it stumbles over a parameter whose first gradient comes later
        for group in made.param_groups:
            for parameter in group["params"]:
                made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


class PolyParamScheduler(ParamScheduler):
    """(1 - t/T)^power at step t of T = ``num_updates`` (irnet spec 2: the power is 0.9).

    From step T - 1 on the factor does not change.
    """

    def __init__(self, power: float, num_updates: int) -> None:
        self.power = power
        self.last = (num_updates - 1) / num_updates

    def __call__(self, where: float) -> float:
        """The factor at t/T = ``where``."""
        return (1.0 - min(where, self.last)) ** self.power


def _momentum_follows_rate(
    optimizer: torch.optim.Optimizer, step: Callable[[], None], threshold: float
) -> Callable[[], None]:
    """A scheduler's ``step`` that also scales momentum buffers as the rate changes (cim spec 6).

    It multiplies them by new over old rate if the rate changes, up or down, by more than the factor
    ``threshold``.
    """

    def step_both() -> None:
        before = [group["lr"] for group in optimizer.param_groups]
        step()
        for group, old in zip(optimizer.param_groups, before, strict=True):
            new = group["lr"]
            if min(old, new) <= 0 or max(new / old, old / new) <= threshold:
                continue
            for parameter in group["params"]:
                buffer = optimizer.state[parameter].get("momentum_buffer")
                if buffer is not None:
                    buffer.mul_(new / old)

    return step_both


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Polynomial decay without warm-up if ``WSIS.SOLVER.POLY_POWER`` > 0, else Detectron2's.

    With ``WSIS.SOLVER.SCALE_MOMENTUM`` > 0 momentum buffers follow jumps of the rate.
    """
    power, steps = cfg.WSIS.SOLVER.POLY_POWER, cfg.SOLVER.MAX_ITER
    if power > 0:
        total = cfg.WSIS.SOLVER.POLY_STEPS or steps
        if total < steps:
            raise UsageError(f"WSIS.SOLVER.POLY_STEPS {total} is below SOLVER.MAX_ITER {steps}")
        made = LRMultiplier(optimizer, PolyParamScheduler(power, total), max_iter=total)
    else:
        made = build_detectron2_scheduler(cfg, optimizer)
    if cfg.WSIS.SOLVER.SCALE_MOMENTUM > 0:
        # The state dict does not hold "step", so it is set on every new scheduler.
        made.step = _momentum_follows_rate(optimizer, made.step, cfg.WSIS.SOLVER.SCALE_MOMENTUM)
    return made


class Accumulator:
    """Lets Detectron2's trainers take a batch in parts: they step once, on the mean gradient.

    They get `batches`, and this object in place of the optimiser and of the gradient scaler.
    Whoever calls them sets ``part`` before each call. The result is that of the whole batch, up to
    rounding, where losses are means over images and normalisation does not look at the batch.

    Args:
        optimizer: the real one.
        parts: of a batch.
        scaler: the real one, where the precision is mixed.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parts: int,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.optimizer, self.parts, self.part, self._scaler = optimizer, parts, 0, scaler

    def batches(self, whole: Iterable[list[Any]]) -> Iterator[list[Any]]:
        """Each batch in ``parts`` equal pieces, in its order."""
        for batch in whole:
            size = len(batch) // self.parts
            yield from (batch[i * size : (i + 1) * size] for i in range(self.parts))

    def zero_grad(self) -> None:
        """Forget the gradients of the batch before."""
        if self.part == 0:
            self.optimizer.zero_grad()

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """As the scaler does."""
        assert self._scaler is not None
        return self._scaler.scale(loss)

    def step(self, _: Any = None) -> None:
        """Step, if this was the last part."""
        if self.part + 1 < self.parts:
            return
        if self.parts > 1:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.div_(self.parts)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)

    def update(self) -> None:
        """As the scaler does, if this was the last part."""
        if self._scaler is not None and self.part + 1 == self.parts:
            self._scaler.update()
