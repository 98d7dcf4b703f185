import numpy as np
import pytest
import torch
from wsis.errors import UsageError
from wsis.layers.regions import Regions
from wsis.layers.retrieval import prepare_proposals
from wsis.methods.iam.targets import PseudoMaskSampler

SIZE = (20, 24)


def scene():
    """Two squares, variants of the first, and responses inside them."""
    masks = np.zeros((5, *SIZE), dtype=bool)
    masks[0, 2:12, 2:12] = True
    masks[1, 3:12, 2:12] = True
    masks[2, 2:12, 3:12] = True
    masks[3, 12:19, 14:22] = True
    masks[4] = True  # too large
    responses = torch.zeros(2, *SIZE)
    responses[0, 2:12, 2:12] = 0.01
    responses[1, 12:19, 14:22] = 1 / 56
    return masks, responses, prepare_proposals(Regions.from_masks(masks), SIZE, contour_width=3)


def test_the_best_proposal():
    masks, responses, proposals = scene()
    places, found = PseudoMaskSampler(choice="best", balance=10.0).sample(responses, proposals)
    assert places.tolist() == [0, 1]
    np.testing.assert_array_equal(found, masks[[0, 3]])


def test_draws():
    masks, responses, proposals = scene()
    sampler = PseudoMaskSampler(discard_threshold=0.5)
    seen = set()
    for seed in range(30):
        draws = [
            sampler.sample(responses, proposals, torch.Generator().manual_seed(seed))[1]
            for _ in range(2)
        ]
        assert torch.equal(*draws)
        which = [int((masks == one.numpy()).all(axis=(1, 2)).argmax()) for one in draws[0]]
        assert which[1] == 3  # nothing else overlaps it
        seen.add(which[0])
    assert seen == {0, 1, 2}


def test_nothing_to_draw_from():
    masks, responses, _ = scene()
    for none in (masks[:0], masks[4:]):
        proposals = prepare_proposals(Regions.from_masks(none), SIZE)
        places, found = PseudoMaskSampler().sample(responses, proposals)
        assert places.shape == (0,)
        assert found.shape == (0, *SIZE)
    proposals = prepare_proposals(Regions.from_masks(masks), SIZE)
    places, found = PseudoMaskSampler().sample(responses[:0], proposals)
    assert places.shape == (0,)
    assert found.shape == (0, *SIZE)


def test_bad_choice():
    with pytest.raises(UsageError, match="random or best"):
        PseudoMaskSampler(choice="worst")
