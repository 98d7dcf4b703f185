import pytest
import torch
from torch import nn
from wsis.config import get_wsis_cfg
from wsis.engine.optimizer import Accumulator, build_lr_scheduler, build_optimizer
from wsis.errors import UsageError
from wsis.modeling.backbones import RunningStatsBatchNorm2d


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), RunningStatsBatchNorm2d(2))
        self.classifier = nn.Conv2d(2, 4, 1, bias=False)
        self.alias = self.classifier  # the same parameters once more


@pytest.fixture
def cfg():
    cfg = get_wsis_cfg()
    cfg.SOLVER.BASE_LR = 0.5
    cfg.SOLVER.MAX_ITER = 4
    cfg.SOLVER.WEIGHT_DECAY = 0.1
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.01
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None
    return cfg


def settings_of(model, optimizer):
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: (round(group["lr"], 9), group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_rates_and_weight_decay(cfg):
    cfg.WSIS.SOLVER.LR_FACTORS = [["backbone.1", 3.0], ["backbone", 0.1]]
    model = Model()
    optimizer = build_optimizer(cfg, model)
    assert settings_of(model, optimizer) == {
        "backbone.0.weight": (0.05, 0.1),
        "backbone.0.bias": (0.05, 0.1),
        "backbone.1.weight": (1.5, 0.01),
        "backbone.1.bias": (1.5, 0.01),
        "classifier.weight": (0.5, 0.1),
    }
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 5


def test_same_as_detectron2(cfg):
    from detectron2.solver import build_optimizer as build_detectron2_optimizer

    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.2
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    model = Model()
    stock = build_detectron2_optimizer(cfg, model)
    assert settings_of(model, build_optimizer(cfg, model)) == settings_of(model, stock)


def test_frozen_parameters_are_left_out(cfg):
    cfg.WSIS.SOLVER.LR_FACTORS = [["backbone", 0.1]]
    model = Model()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    assert list(settings_of(model, build_optimizer(cfg, model))) == ["classifier.weight"]
    model.classifier.weight.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing to train"):
        build_optimizer(cfg, model)


def test_a_prefix_that_fits_nothing(cfg):
    cfg.WSIS.SOLVER.LR_FACTORS = [["bakcbone", 0.1]]
    with pytest.raises(UsageError, match="bakcbone.*backbone, classifier"):
        build_optimizer(cfg, Model())


def test_clipping(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.25
    cfg.SOLVER.WEIGHT_DECAY = cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    model = Model()
    optimizer = build_optimizer(cfg, model)
    before = model.classifier.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    assert torch.allclose(before - model.classifier.weight, torch.tensor(0.5 * 0.25))


def rates(cfg, steps):
    optimizer = build_optimizer(cfg, Model())
    scheduler = build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_poly_stays_at_its_last_rate(cfg):
    cfg.WSIS.SOLVER.POLY_POWER = 2.0
    assert rates(cfg, 6) == pytest.approx([0.5, 0.28125, 0.125, 0.03125, 0.03125, 0.03125])


def test_detectron2s_schedule(cfg):
    cfg.SOLVER.STEPS = (2,)
    cfg.SOLVER.WARMUP_ITERS = 0
    assert rates(cfg, 4) == pytest.approx([0.5, 0.5, 0.05, 0.05])


def test_scheduler_resumes(cfg):
    cfg.WSIS.SOLVER.POLY_POWER = 0.9
    whole = rates(cfg, 4)
    model = Model()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert optimizer.param_groups[0]["lr"] == whole[2]
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == whole[3]


def test_adam(cfg):
    cfg.WSIS.SOLVER.OPTIMIZER = "Adam"
    cfg.WSIS.SOLVER.LR_FACTORS = [["backbone", 0.1]]
    model = Model()
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.Adam)
    rates = sorted({round(g["lr"], 9) for g in optimizer.param_groups})
    assert rates == [0.05, 0.5]
    before = model.classifier.weight.detach().clone()
    model.classifier.weight.grad = torch.full_like(before, 3.0)
    optimizer.step()  # Adam's first step is the rate, against the sign of the gradient
    torch.testing.assert_close(model.classifier.weight.detach(), before - 0.5)


def test_an_unknown_optimiser(cfg):
    cfg.WSIS.SOLVER.OPTIMIZER = "Lion"
    with pytest.raises(UsageError, match="'Lion'; it must be SGD or Adam"):
        build_optimizer(cfg, Model())


def test_parts_of_a_batch_make_one_step_of_mixed_precision():
    """Gradients 2, 4 and 6 have the mean 4; the scale of 8 is taken out before the step."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    whole = Accumulator(optimizer, 3, scaler)
    pieces = whole.batches([[2.0, 4.0, 6.0]])
    for whole.part in range(3):
        (slope,) = next(pieces)
        whole.zero_grad()
        whole.scale(slope * weight.sum()).backward()
        assert weight.item() == 0
        whole.step(whole)
        whole.update()
    assert weight.item() == -2
