"""boxcaseg_schedule: the learning rate and the sampler that keeps a share of boxes."""

import math

import numpy as np
import pytest
import torch
from wsis.config import get_wsis_cfg
from wsis.engine.optimizer import PolyParamScheduler, build_lr_scheduler, build_optimizer
from wsis.methods.boxcaseg.samples import CombinedOrder

from tests.golden.conftest import assert_close


def test_poly_rate(arrays):
    for (base, epochs, per_epoch, step), expected in zip(
        arrays["lr_args"], arrays["lr"], strict=True
    ):
        steps = int(epochs * per_epoch)
        found = base * PolyParamScheduler(0.9, steps)(step / steps)
        assert_close(found, expected, 1e-12, f"rate at {step}")


def test_the_originals_rate_lags_a_step_behind_ours(arrays):
    expected = arrays["lr_in_force"]
    cfg = get_wsis_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = float(expected[0]), len(expected)
    cfg.WSIS.SOLVER.POLY_POWER = 0.9
    optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert_close(rates[0], expected[0], 1e-12, "first")
    assert_close(rates[:-1], expected[1:], 1e-12, "lag")


def share_of_batches(order, number_of_boxes, batch):
    whole = len(order) - len(order) % batch
    return [(part < number_of_boxes).sum() for part in order[:whole].reshape(-1, batch)]


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_sampler(arrays, case):
    boxes, salient, batch, share = arrays[f"sampler_{case}_args"].tolist()
    boxes, salient, batch = int(boxes), int(salient), int(batch)
    ranks = [arrays[f"sampler_{case}_rank{rank}"] for rank in (0, 1)]
    drop = arrays.get(f"sampler_{case}_drop", np.zeros(0, dtype=np.int64))
    theirs = np.stack(ranks, axis=1).ravel()  # position p belongs to rank p modulo 2
    order = CombinedOrder(boxes, salient, batch, share, tuple(drop.tolist()), whole_batches=False)
    ours = order.epoch(np.random.default_rng(0))
    assert len(ours) == len(order) == math.ceil(round(salient / (1 - share), 6))
    assert len(theirs) in (len(ours), len(ours) + 1)  # padded to whole ranks
    per_batch = max(int(batch * share), 1)
    for found in (ours, theirs):
        assert 0 <= found.min() <= found.max() < boxes + salient
        whole = salient // (batch - per_batch)  # batches before the salient images run out
        assert share_of_batches(found, boxes, batch)[:whole] == [per_batch] * whole
        once = found[: whole * batch]
        once = once[once >= boxes]
        assert len(set(once.tolist())) == len(once)


def test_dropped_boxes_stay_away(arrays):
    for case in "abc":
        if f"sampler_{case}_drop" not in arrays:
            continue
        boxes, salient, batch, share = arrays[f"sampler_{case}_args"].tolist()
        drop = arrays[f"sampler_{case}_drop"].tolist()
        order = CombinedOrder(
            int(boxes), int(salient), int(batch), share, tuple(drop), drop_probability=1.0
        )
        seen = set(order.epoch(np.random.default_rng(1)).tolist())
        assert not seen & set(drop)
