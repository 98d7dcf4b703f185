"""boxcaseg_net_tiny: the network in a small configuration, its losses and gradients."""

import numpy as np
import pytest
import torch
from wsis.methods.boxcaseg.convert import boxcaseg_name
from wsis.methods.boxcaseg.heads import enlarge

from tests.golden.boxcaseg_models import boxcaseg_cfg, build_boxcaseg, golden_state, heads_of
from tests.golden.conftest import assert_close


def our_name(original: str) -> str:
    return boxcaseg_name(original.removeprefix("model."))


def build(golden, arrays):
    config = golden.text(arrays["config"])
    cfg = boxcaseg_cfg()
    keys = cfg.MODEL.HRNET
    keys.CHANNELS, keys.MODULES, keys.BLOCKS = (
        config["channels"],
        config["modules"],
        config["blocks"],
    )
    keys.FIRST_PLANES, keys.FIRST_BLOCKS = config["stage1"]
    cfg.MODEL.BOXCASEG.OWN_SHARE = config["fcn_ratio"]
    return build_boxcaseg(cfg, golden_state(golden, arrays))


@pytest.fixture(scope="module")
def model(golden, arrays):
    return build(golden, arrays).eval()


@pytest.fixture(scope="module")
def trained(golden, arrays):
    """The network after one backward pass in training mode, with what it gave."""
    model = build(golden, arrays).train()
    images, salient = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["train_f_index"])
    weak, full = heads_of(model, images, salient)
    fresh = build(golden, arrays).train()
    labels = torch.from_numpy(arrays["train_labels"])[:, 0].float()
    losses = fresh.roi_heads.losses(fresh.backbone(images), labels, salient)
    sum(losses.values()).backward()
    return fresh, weak.detach(), full.detach(), losses


@torch.no_grad()
def test_outputs(arrays, model):
    images = torch.from_numpy(arrays["x"][: len(arrays["eval_weak"])])
    every = torch.ones(len(images), dtype=torch.bool)
    weak, full = heads_of(model, images, every)
    assert_close(weak, arrays["eval_weak"], 1e-5, "weak")
    assert_close(full, arrays["eval_full"], 1e-5, "full")
    mixed = every.clone()
    mixed[0] = False
    assert_close(heads_of(model, images, mixed)[1], arrays["eval_full_mixed"], 1e-5, "mixed")
    assert_close(heads_of(model, images, ~every)[1], arrays["eval_full_none"], 1e-5, "none")
    assert model.roi_heads.logits(model.backbone(images), None)[1] is None
    maps = model.roi_heads.maps(model.backbone(images))
    feature = torch.cat([enlarge(one, tuple(maps[0].shape[-2:])) for one in maps], dim=1)
    assert_close(feature[0], arrays["eval_cat0"], 1e-5, "feature")
    for given in (maps, [feature]):
        assert_close(model.roi_heads.full.own(given), arrays["eval_fcn"], 1e-5, "fcn")
    found = model.roi_heads.probabilities(model.backbone(images))
    assert_close(found, 1 / (1 + np.exp(-arrays["eval_full"][:, 0])), 1e-5, "probabilities")


@torch.no_grad()
def test_transferred_weights(arrays, model):
    heads = model.roi_heads
    for name, layer in (("transfer1", heads.weak[0]), ("transfer2", heads.weak[3])):
        found = getattr(heads.full, name).weight(layer.weight.flatten(1))
        assert_close(found, arrays[f"{name}_weight"], 1e-5, name)


def test_training_outputs_and_losses(arrays, trained):
    model, weak, full, losses = trained
    assert_close(weak, arrays["train_weak"], 2e-4, "weak")
    assert_close(full, arrays["train_full"], 2e-4, "full")
    terms = [losses[f"loss_{name}"].item() for name in ("projection", "pairwise", "salient")]
    assert_close([*terms, sum(terms)], arrays["loss"], 1e-5, "losses")
    state = model.state_dict()
    for name, expected in arrays.items():
        if name.endswith("_after"):
            module, _, what = name.removesuffix("_after").partition("_running_")
            value = state[our_name(f"{module}.running_{what}")]
            assert_close(value, expected, 1e-5 * max(1, np.abs(expected).max()), name)


def test_gradients(golden, arrays, trained):
    parameters = dict(trained[0].named_parameters())
    for name in (n for n in arrays if n.startswith("grad:")):
        expected = arrays[name]
        original = name.removeprefix("grad:")
        loose = any(part in original for part in ("conv1.weight", "layer1")) and (
            "stage" not in original
        )
        limit = (2e-2 if loose else 1e-3) * np.abs(expected).max()
        assert_close(parameters[our_name(original)].grad, expected, limit, original)
    norms = golden.text(arrays["grad_norms"])
    assert {our_name(name) for name in norms} == set(parameters)
    noise = ("last_layer.0.bias", "fcn.0.bias", "transfer1.k", "transfer1.b")
    for name, expected in norms.items():
        if not name.endswith(noise):
            found = parameters[our_name(name)].grad.norm().item()
            assert abs(found - expected) <= 2e-2 * expected + 1e-7, name


def test_salient_images_teach_the_weak_head_nothing(golden, arrays):
    model = build(golden, arrays).train()
    images, salient = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["train_f_index"])
    heads_of(model, images, salient)[1].sum().backward()
    assert all(p.grad is None for p in model.roi_heads.weak.parameters())
    assert all(p.grad is not None for p in model.roi_heads.full.parameters())
