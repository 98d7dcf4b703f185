"""irnet_losses: the training-mode network, its loss terms and its gradients."""

import numpy as np
import pytest
import torch
from wsis.methods.irnet.affinity import pair_labels, pair_offsets, path_maxima
from wsis.methods.irnet.convert import irnet_name
from wsis.methods.irnet.meta_arch import reduce_labels

from tests.golden.conftest import assert_close
from tests.golden.irnet_models import build_irnet, irnet_cfg


def radius_of(arrays):
    """The file tells its radius by the number of pairs of a source pixel."""
    pairs = len(arrays["pos_aff_map_mean"])
    return next(radius for radius in range(2, 40) if len(pair_offsets(radius)) == pairs)


@pytest.fixture(scope="module")
def case(golden):
    arrays = golden.load("irnet_losses")
    model = build_irnet(golden.weights(arrays)).train()
    model.radius = radius_of(arrays)
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(arrays["label_full"])
    batch = [
        {"image": image, "inter_pixel_label": label}
        for image, label in zip(images, labels, strict=True)
    ]
    losses = model(batch)
    sum(losses.values()).backward()
    normal = torch.stack([model.normalize(image) for image in images])
    return golden, arrays, model, losses, normal


def test_outputs(case):
    _, arrays, model, _, images = case
    with torch.no_grad():
        for mode in ("train", "eval"):
            model.train(mode == "train")
            model.mean_shift.copy_(torch.from_numpy(arrays["mean_shift_used"]))
            for found, name in zip(model.dense_maps(images), ("edge", "dp"), strict=True):
                expected = arrays[f"{name}_{mode}"]
                assert_close(found, expected, 2e-5 * np.abs(expected).max(), f"{name}_{mode}")


def test_losses(case):
    golden, arrays, _, losses, _ = case
    expected = golden.text(arrays["losses"])
    weights = {
        "bg_pos_aff": ("loss_affinity_background", 4),
        "fg_pos_aff": ("loss_affinity_foreground", 4),
        "neg_aff": ("loss_affinity_different", 2),
        "dp_fg": ("loss_displacement_foreground", 2),
        "dp_bg": ("loss_displacement_background", 2),
    }
    for name, (ours, factor) in weights.items():
        assert_close(factor * losses[ours].item(), expected[name], 1e-5, name)
    assert_close(sum(losses.values()).item(), expected["total"], 1e-5, "total")


def test_affinities_and_labels(case):
    _, arrays, _, _, _ = case
    edge = torch.from_numpy(arrays["edge_train"])[:, 0]
    maxima, _ = path_maxima(edge.sigmoid(), radius=radius_of(arrays))
    term = -(1 - maxima + 1e-5).log()
    assert_close(1 - (-term[0]).exp().flatten(1)[:, None], arrays["aff_first"], 1e-5, "aff_first")
    assert_close(term.mean(dim=(1, 2, 3)), arrays["pos_aff_map_mean"], 1e-5, "pos_aff_map_mean")
    labels = torch.from_numpy(arrays["label_full"])
    kinds = pair_labels(reduce_labels(labels, tuple(edge.shape[1:])), radius=radius_of(arrays))
    sums = [[int((kinds[:, i] == kind).sum()) for kind in (1, 2, 3)] for i in range(len(edge))]
    np.testing.assert_array_equal(sums, arrays["label_sums"])


def test_gradients(case):
    golden, arrays, model, _, _ = case
    parameters = dict(model.named_parameters())
    norms = golden.text(arrays["grad_norms"])
    for name, expected in norms.items():
        found = parameters[irnet_name(name)].grad.norm().item()
        assert abs(found - expected) <= 5e-4 * expected, name
    trained = {name for name, p in parameters.items() if p.grad is not None}
    assert trained == {irnet_name(name) for name in norms}
    for stored, name in (
        ("grad_fc_edge6_weight", "fc_edge6.weight"),
        ("grad_fc_edge6_bias", "fc_edge6.bias"),
        ("grad_fc_dp7_3_weight", "fc_dp7.3.weight"),
    ):
        expected = arrays[stored]
        found = parameters[irnet_name(name)].grad
        assert_close(found, expected, 5e-5 * np.abs(expected).max(), stored)


def test_optimiser_groups(case):
    golden, arrays, _, _, _ = case
    for group, prefix in (("group0", "boundary_branch."), ("group1", "displacement_branch.")):
        names = [irnet_name(name) for name in golden.text(arrays[group])]
        assert all(name.startswith(prefix) for name in names)


def test_a_real_checkpoints_further_entries_are_left_out(golden, arrays):
    state = golden.weights(arrays)
    full = dict(state)
    for alias, canonical in golden.text(arrays["state_aliases"]).items():
        full[alias] = state[canonical] if canonical else torch.zeros(2, dtype=torch.long)
    from wsis.methods.irnet.convert import convert_irnet

    assert convert_irnet(full).keys() == convert_irnet(state).keys()
    assert radius_of(arrays) == irnet_cfg().MODEL.IRNET.TRAIN_RADIUS
