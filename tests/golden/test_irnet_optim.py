import torch
from torch import nn
from wsis.config import get_wsis_cfg
from wsis.engine.optimizer import build_lr_scheduler, build_optimizer

from tests.golden.conftest import assert_close


def test_poly_sgd(golden, arrays):
    settings = golden.text(arrays["group_settings"])
    first, steps = arrays["lrs64"][0], int(arrays["max_step"])
    cfg = get_wsis_cfg()
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.MAX_ITER = steps
    cfg.SOLVER.MOMENTUM = settings["momentum"]
    cfg.SOLVER.WEIGHT_DECAY = settings["weight_decay"]
    cfg.WSIS.SOLVER.POLY_POWER = 0.9
    cfg.WSIS.SOLVER.LR_FACTORS = [["p0", float(first[0])], ["p1", float(first[1])]]
    model = nn.Module()
    for name in ("p0", "p1"):
        setattr(model, name, nn.Parameter(torch.from_numpy(arrays[f"{name}_init"].copy())))
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    assert [group["dampening"] for group in optimizer.param_groups] == [settings["dampening"]] * 2
    for step in range(len(arrays["grads0"])):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert_close(rates, arrays["lrs64"][step], 1e-6, f"rates of step {step}")
        for name in ("p0", "p1"):
            gradient = arrays[f"grads{name[1]}"][step].copy()
            getattr(model, name).grad = torch.from_numpy(gradient)
        optimizer.step()
        scheduler.step()
        for name in ("p0", "p1"):
            value = getattr(model, name).detach()
            assert_close(value, arrays[name][step], 1e-6, f"{name} after step {step}")
