import numpy as np
import pytest
import torch
from wsis.layers.regions import Regions
from wsis.methods.cim.detections import Detections
from wsis.methods.cim.mining import (
    MiningOptions,
    assign,
    mine,
    sample_truth,
    usable_proposals,
)
from wsis.methods.cim.overlaps import Overlaps, overlaps_of_regions

OPTIONS = MiningOptions()


def nested():
    """Part, object, frame that holds nearly all, another object, and their overlaps."""
    masks = np.zeros((4, 10, 10), dtype=bool)
    masks[0, 2:4, 2:4] = masks[1, 2:6, 2:6] = masks[2] = masks[3, 7:, 7:] = True
    return overlaps_of_regions(Regions.from_masks(masks))


def test_a_part_leads_to_the_object_that_contains_it():
    overlaps = nested()
    scores = torch.tensor([[0.9], [0.2], [0.1], [0.3]])
    part = torch.tensor([[0.1], [0.5], [0.9], [0.4]])
    options = MiningOptions(seed_share=0.25)
    assert usable_proposals(overlaps, options).tolist() == [True, True, False, True]
    arguments = {"classes": torch.tensor([0]), "overlaps": overlaps, "branch": 0}
    truth = mine(scores, part, options=options, **arguments)
    assert truth.index.tolist() == [1]
    assert truth.scores.tolist() == pytest.approx([0.1])
    plain = mine(scores, part, options=MiningOptions(complete=False, seed_share=0.25), **arguments)
    assert plain.index.tolist() == [3]  # the product's best, 0.12


def test_a_proposal_wanted_by_two_classes():
    iou = torch.eye(3)
    scores = torch.tensor([[0.5, 0.6], [0.1, 0.1], [0.1, 0.1]])
    arguments = {"overlaps": Overlaps(iou, iou), "branch": 0, "options": OPTIONS}
    part = torch.ones_like(scores)
    truth = mine(scores, part, classes=torch.tensor([1, 0]), **arguments)
    assert truth.classes.tolist() == [1]
    even = torch.tensor([[0.5, 0.5], [0.1, 0.1], [0.1, 0.1]])
    truth = mine(even, part, classes=torch.tensor([1, 0]), **arguments)
    assert truth.classes.tolist() == [0]


def test_nothing_to_mine():
    iou = torch.ones(2, 2)  # each contains all: none is usable
    scores = torch.ones(2, 3) / 3
    arguments = {"overlaps": Overlaps(iou, iou), "branch": 0, "options": OPTIONS}
    assert len(mine(scores, scores, classes=torch.tensor([1]), **arguments)) == 0
    nobody = torch.zeros(0, dtype=torch.int64)
    assert len(mine(scores, scores, classes=nobody, **arguments)) == 0


def test_thresholds_grow():
    assert OPTIONS.thresholds(0) == (0.25, 0.5)
    assert OPTIONS.thresholds(2) == pytest.approx((0.45, 0.7))


def test_assignment():
    iou = torch.tensor([[1.0, 0.0, 0.6, 0.2, 0.0], [0.0, 1.0, 0.1, 0.0, 0.0]]).T
    square = torch.zeros(5, 5)
    square[:, :2] = iou
    truth = Detections(torch.tensor([0, 1]), torch.tensor([4, 2]), torch.tensor([0.7, 0.3]))
    found = assign(truth, Overlaps(square, square), branch=0, options=OPTIONS)
    assert found.labels.tolist() == [5, 3, 5, 0, -1]
    assert found.weights.tolist() == pytest.approx([0.7, 0.3, 0.7, 0.7, 0])
    assert found.integrity.tolist() == [True, True, True, False, False]


def test_sampling_keeps_whole_rows_and_follows_weights():
    count = 200
    weights = torch.cat([torch.full((100,), 1e-6), torch.ones(100)])
    truth = Detections(torch.arange(count), torch.zeros(count, dtype=torch.int64), weights)
    kept = sample_truth(truth, np.random.RandomState(0))
    assert 0 < len(kept) < count
    assert (kept.index >= 100).all()
    assert torch.equal(kept.scores, weights[kept.index])
    single = Detections(torch.tensor([3]), torch.tensor([1]), torch.tensor([0.1]))
    assert sample_truth(single, np.random.RandomState(1)).index.tolist() == [3]


def test_sampling_of_weights_that_vanished():
    truth = Detections(torch.arange(4), torch.tensor([0, 0, 1, 1]), torch.zeros(4))
    kept = sample_truth(truth, np.random.RandomState(0))
    assert set(kept.classes.tolist()) == {0, 1}


def test_order_of_proposals_does_not_matter():
    rng = np.random.default_rng(0)
    masks = rng.random((30, 9, 9)) < rng.random((30, 1, 1))
    scores = torch.from_numpy(rng.random((30, 4))).float()
    part = torch.from_numpy(rng.random((30, 4))).float()
    order = rng.permutation(30)
    arguments = {"classes": torch.tensor([0, 2]), "branch": 1, "options": OPTIONS}
    overlaps = overlaps_of_regions(Regions.from_masks(masks))
    truth = mine(scores, part, overlaps=overlaps, **arguments)
    shuffled = overlaps_of_regions(Regions.from_masks(masks[order]))
    other = mine(scores[order], part[order], overlaps=shuffled, **arguments)
    back = dict(zip(order[other.index.numpy()].tolist(), other.classes.tolist(), strict=True))
    assert back == dict(zip(truth.index.tolist(), truth.classes.tolist(), strict=True))
