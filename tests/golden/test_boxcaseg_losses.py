"""boxcaseg_losses: every term on given logits, value and gradient."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from wsis.methods.boxcaseg.crops import resize_nearest
from wsis.methods.boxcaseg.losses import (
    pairwise_loss,
    projection_loss,
)
from wsis.methods.boxcaseg.proxy_masks import normalize_maps

from tests.golden.conftest import assert_close


def maps(array):
    return torch.from_numpy(array)[:, 0].float()


def check(arrays, name, loss, logits):
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = arrays[f"{name}_grad"].reshape(gradient.shape)
    assert_close(loss.item(), arrays[name], 1e-6 * abs(float(arrays[name])), name)
    assert_close(gradient, expected, 1e-4 * np.abs(expected).max(), f"gradient of {name}")


@pytest.fixture
def logits(arrays):
    return maps(arrays["logits"]).requires_grad_()


def test_projection(arrays, logits):
    label = maps(arrays["box_label"])
    check(arrays, "mil", projection_loss(logits, label), logits)
    check(arrays, "mil_soft", projection_loss(logits, maps(arrays["box_label_soft"])), logits)
    for one, target, expected in zip(logits, label, arrays["mil_each"], strict=True):
        found = projection_loss(one[None], target[None]).item()
        assert_close(found, expected, 1e-6 * abs(expected), "mil_each")


def test_ties_go_to_the_first_line(arrays):
    label = maps(arrays["box_label"][:1])
    logits = torch.full_like(label, 0.25).requires_grad_()
    check(arrays, "mil_tied", projection_loss(logits, label), logits)


def test_pairwise(arrays, logits):
    check(arrays, "pairwise", pairwise_loss(logits), logits)
    for one, expected in zip(logits, arrays["pairwise_each"], strict=True):
        assert_close(pairwise_loss(one[None]).item(), expected, 1e-6 * abs(expected), "each")


def test_salient(arrays, logits):
    loss = binary_cross_entropy_with_logits(logits, maps(arrays["salient"]))
    check(arrays, "salient_bce", loss, logits)


def test_after_enlarging(arrays, logits):
    size = tuple(4 * side for side in logits.shape[-2:])
    large = interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    label = torch.stack([resize_nearest(one, size=size) for one in maps(arrays["box_label"])])
    check(arrays, "mil_up4", projection_loss(large, label), logits)
    large = interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    check(arrays, "pairwise_up4", pairwise_loss(large), logits)


def test_normalised_maps(arrays, logits):
    found = normalize_maps(logits.detach().sigmoid())
    assert_close(found, arrays["minmax_of_sigmoid"], 1e-6, "minmax")
