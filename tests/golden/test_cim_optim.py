"""Learning rate, doubled bias rate, momentum that follows the rate (cim_optim.npz)."""

import numpy as np
import torch
from torch import nn
from wsis.config import get_wsis_cfg
from wsis.engine.optimizer import build_lr_scheduler, build_optimizer

from tests.golden.conftest import assert_close


def test_updates(arrays):
    updates, summed, _ = arrays["grads"].shape
    cfg = get_wsis_cfg()
    # The loss of a batch is the mean of its images', the original sums their gradients.
    cfg.SOLVER.BASE_LR = float(arrays["base_lr"]) * summed
    cfg.SOLVER.WEIGHT_DECAY = float(arrays["weight_decay"]) / summed
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    cfg.SOLVER.MOMENTUM = float(arrays["momentum"])
    cfg.SOLVER.WARMUP_ITERS = int(arrays["warm_up_iters"])
    cfg.SOLVER.WARMUP_FACTOR = 1 / 3
    cfg.SOLVER.STEPS = tuple(int(step) for step in arrays["steps"][1:])
    cfg.SOLVER.MAX_ITER = updates
    cfg.WSIS.SOLVER.SCALE_MOMENTUM = 1.1
    model = nn.Linear(1, 1)
    size = len(arrays["w0"])
    model.weight = nn.Parameter(torch.from_numpy(arrays["w0"].copy()))
    model.bias = nn.Parameter(torch.from_numpy(arrays["b0"].copy()))
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for step in range(updates):
        lr = [rates[id(p)]["lr"] / summed for p in (model.weight, model.bias)]
        np.testing.assert_allclose(lr, arrays["lr"][step], rtol=1e-6)
        gradient = torch.from_numpy(arrays["grads"][step].mean(axis=0))
        model.weight.grad, model.bias.grad = gradient[:size].clone(), gradient[size:].clone()
        optimizer.step()
        scheduler.step()
        assert_close(model.weight.detach(), arrays["w"][step], 1e-5, f"weights of step {step}")
        assert_close(model.bias.detach(), arrays["b"][step], 1e-5, f"biases of step {step}")
