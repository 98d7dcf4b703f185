import math

import pytest
import torch
from wsis.methods.cim.losses import branch_losses, cluster_loss, instance_learning_loss
from wsis.methods.cim.mining import Assignment


def assignment(labels, weights, integrity):
    return Assignment(torch.tensor(labels), torch.tensor(weights), torch.tensor(integrity))


def test_one_branch_by_hand():
    scores = torch.tensor([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]])
    integrity = torch.tensor([[0.5, 0.8, 0.1], [0.5, 0.5, 0.5], [0.9, 0.9, 0.2]])
    target = assignment([1, 0, -1], [2.0, 0.5, 0.0], [True, False, False])
    found = branch_losses(scores, integrity, torch.tensor([1.0, 0.0]), target)
    assert found[0] == pytest.approx(-(2 * math.log(0.7) + 0.5 * math.log(0.6)) / 2)
    assert found[1] == pytest.approx(2 * 0.5 * 0.2**2)
    joint = [0.6 * 0.5, 0.7 * 0.8, 0.4 * 0.2]  # background, the class, the absent class
    entropy = [-0.5 * math.log(joint[0]), -2 * math.log(joint[1]), -math.log(1 - joint[2])]
    assert found[2] == pytest.approx(sum(entropy) / 3)


def test_background_alone():
    scores = torch.full((2, 3), 1 / 3, requires_grad=True)
    target = assignment([0, 0], [1.0, 1.0], [False, False])
    found = branch_losses(scores, scores.detach(), torch.tensor([1.0, 0.0]), target)
    assert found[1] == 0
    assert found[0].item() == pytest.approx(math.log(3))
    sum(found).backward()
    assert bool(torch.isfinite(scores.grad).all())


def test_certain_scores_stay_finite():
    scores = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    target = assignment([1], [1.0], [True])
    found = branch_losses(scores, scores, torch.tensor([1.0, 0.0]), target)
    assert all(torch.isfinite(loss) for loss in found)


def test_image_probabilities():
    scores = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    detection = torch.tensor([[0.5, 0.2, 0.5], [0.5, 0.8, 0.5]])
    loss = instance_learning_loss(scores, detection, torch.tensor([1.0, 0.0]))
    image = [0.5, 0.05 + 0.4, 0.125]
    terms = [-math.log(image[0]), -math.log(image[1]), -math.log(1 - image[2])]
    assert loss == pytest.approx(sum(terms) / 3)


def test_clusters_by_hand():
    scores = torch.tensor([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.5, 0.5]])
    ids, classes = torch.tensor([1, 1, 2, 0]), torch.tensor([1, 1, 0, 0])
    ahead = 2 * -math.log(0.8)  # both columns of the mean (0.2, 0.8) have this entropy
    behind = -math.log(0.8)
    expected = 12 * (ahead + behind) / (3 + 1e-6)
    assert cluster_loss(scores, ids, classes) == pytest.approx(expected)
    nothing = cluster_loss(scores, torch.zeros(4, dtype=torch.int64), classes)
    assert nothing == 0


def test_numbers_of_clusters_do_not_matter():
    scores = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    classes = torch.tensor([1, 1, 3, 0, 0, 2])
    one = cluster_loss(scores, torch.tensor([1, 1, 2, 4, 4, 3]), classes)
    other = cluster_loss(scores, torch.tensor([7, 7, 1, 9, 9, 2]), classes)
    assert one == pytest.approx(float(other))
