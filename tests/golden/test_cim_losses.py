"""Every loss of CIM with its gradient (cim_losses.npz)."""

import numpy as np
import pytest
import torch
from wsis.methods.cim.losses import branch_losses, cluster_loss, instance_learning_loss

from tests.golden.cim_cases import assignment_of, clusters_of

WEIGHTS = torch.tensor([1.0, 3.0, 1.0])  # of the sum whose gradient is stored


def branches(arrays):
    return range(sum(f"s{k}_losses" in arrays for k in range(20)))


def leaf(array):
    return torch.from_numpy(array.copy()).requires_grad_()


def assert_loss(value, expected):
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-5)


def assert_gradient(value, expected):
    np.testing.assert_allclose(value.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_refinement_branches(arrays):
    labels = torch.from_numpy(arrays["labels"][0])
    for k in branches(arrays):
        scores, integrity = leaf(arrays[f"s{k}_cls_score"]), leaf(arrays[f"s{k}_iou_score"])
        target = assignment_of(*(arrays[f"s{k}_{x}"] for x in ("pl", "pi", "lw")))
        losses = torch.stack(branch_losses(scores, integrity, labels, target))
        assert_loss(losses, arrays[f"s{k}_losses"])
        (losses * WEIGHTS).sum().backward()
        assert_gradient(scores, arrays[f"s{k}_grad_cls"])
        assert_gradient(integrity, arrays[f"s{k}_grad_iou"])
        agnostic = branch_losses(scores, integrity[:, :1], labels, target)
        assert_loss(torch.stack(agnostic), arrays[f"s{k}_losses_agnostic"])
        without = branch_losses(scores, integrity, labels, target, bag_uses_integrity=False)
        assert_loss(torch.stack(without), arrays[f"s{k}_losses_noiou"])


def test_instance_learning(arrays):
    scores, detection = leaf(arrays["mil_cls"]), leaf(arrays["mil_det"])
    loss = instance_learning_loss(scores, detection, torch.from_numpy(arrays["labels"][0]))
    assert_loss(loss, arrays["mil_loss"])
    loss.backward()
    assert_gradient(scores, arrays["mil_grad_cls"])
    assert_gradient(detection, arrays["mil_grad_det"])


@pytest.mark.parametrize("case", ["pcl", "pcl_nobg", "pcl_allbg"])
def test_clusters(arrays, case):
    scores = leaf(arrays["mil_cls"])
    loss = cluster_loss(scores, *clusters_of(arrays[f"{case}_mat"]))
    assert_loss(loss, arrays[f"{case}_loss"])
    loss.backward()
    assert_gradient(scores, arrays[f"{case}_grad"])
