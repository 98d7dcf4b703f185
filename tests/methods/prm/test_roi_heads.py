import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from wsis.errors import UsageError
from wsis.layers.regions import Regions
from wsis.methods.prm.roi_heads import PRMROIHeads, response_masks, scaled_factors, smooth_map
from wsis.modeling.peak_responses import MapFrame, PeakResponses

SIZE = (24, 30)


def discs(*places, radius=4):
    rows, columns = np.indices(SIZE)
    return np.stack([(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x in places])


def found_in(masks, classes, values):
    """Responses that fill the given masks evenly."""
    responses = torch.from_numpy(masks).float().reshape(len(masks), *SIZE)
    responses = responses / responses.sum(dim=(1, 2), keepdim=True)
    peaks = torch.tensor([[c, 1, 1] for c in classes], dtype=torch.long).reshape(-1, 3)
    maps = torch.zeros(3, 6, 6)
    maps[:, 1:3, 1:4] = 5.0
    return PeakResponses(
        scores=torch.tensor([2.0, 1.0, float("nan")]),
        class_maps=maps,
        all_peaks=peaks,
        peaks=peaks,
        values=torch.tensor(values).float(),
        responses=responses,
        features={},
        frame=MapFrame(SIZE, stride=4),
    )


def run(heads, found, masks, size=SIZE):
    regions = None if masks is None else Regions.from_masks(masks)
    return heads(found, regions, size)


def test_each_peak_finds_its_proposal():
    masks = discs((6, 6), (17, 22))
    proposals = np.concatenate([discs((6, 24)), masks[::-1], discs((6, 6), radius=8)])
    result = run(PRMROIHeads(), found_in(masks, [1, 0], [40.0, 35.0]), proposals)
    assert np.array_equal(result.pred_masks.numpy(), masks[result.peak_index.numpy()])
    assert sorted(result.pred_classes.tolist()) == [0, 1]
    scores = result.scores.tolist()
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert result.pred_boxes.tensor.shape == (2, 4)


def test_boxes_are_where_the_masks_are(monkeypatch):
    """Detectron2's boxes of masks lie on the CPU, whatever the masks do."""
    monkeypatch.delattr(BitMasks, "get_bounding_boxes")
    masks = discs((6, 6), (17, 22))
    for heads, proposals in ((PRMROIHeads(), masks), (PRMROIHeads(masks="response"), None)):
        result = run(heads, found_in(masks, [1, 0], [40.0, 35.0]), proposals)
        boxes = result.pred_boxes.tensor
        assert boxes.dtype == torch.float32
        for box, mask in zip(boxes.long().tolist(), result.pred_masks, strict=True):
            y, x = mask.nonzero().T
            assert box == [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


def test_only_the_first_proposals_are_looked_at():
    masks = discs((6, 6))
    proposals = np.concatenate([discs((7, 7)), masks])
    found = found_in(masks, [1], [40.0])
    assert np.array_equal(run(PRMROIHeads(), found, proposals).pred_masks.numpy(), masks)
    few = run(PRMROIHeads(proposal_count=1), found, proposals).pred_masks.numpy()
    assert np.array_equal(few, proposals[:1])


def test_suppression_across_and_within_classes():
    masks = discs((6, 6), (6, 6))
    found = found_in(masks, [1, 0], [40.0, 35.0])
    assert len(run(PRMROIHeads(), found, masks[:1])) == 1
    assert len(run(PRMROIHeads(nms_within_class=True), found, masks[:1])) == 2
    assert len(run(PRMROIHeads(nms_threshold=2.0), found, masks[:1])) == 2


@pytest.mark.parametrize("score", ["retrieval", "peak", "probability", "product"])
def test_scores(score):
    masks = discs((6, 6), (17, 22))
    found = found_in(masks, [0, 1], [30.0, 90.0])
    result = run(PRMROIHeads(score=score), found, masks)
    by_peak = dict(zip(result.peak_index.tolist(), result.scores.tolist(), strict=True))
    if score == "peak":
        assert by_peak == pytest.approx({0: 0.5, 1: 0.75})
    if score == "probability":
        assert by_peak == pytest.approx({0: 1 / (1 + np.exp(-2)), 1: 1 / (1 + np.exp(-1))})
    assert all(0 < value <= 1 for value in by_peak.values())


def test_the_penalty_follows_the_size():
    assert scaled_factors((0.95, 1e-5, 0.8), (448, 448)) == pytest.approx((0.95, 1e-5, 0.8))
    (factors,) = scaled_factors([(0.95, 1e-5, 0.8)], (112, 224))
    assert factors == pytest.approx((0.95, 8e-5, 0.8))


def test_class_factors():
    large, small = discs((6, 6), radius=9), discs((6, 6))
    found = found_in(large, [1], [40.0])  # the response speaks for the large one ...
    proposals = np.concatenate([large, small])
    harsh, mild = (0.95, 1.0, 0.8), (0.95, 0.0, 0.8)  # ... whose background is punished by one
    for factors, winner in (([harsh, mild, harsh], large), ([mild, harsh, mild], small)):
        for order in (proposals, proposals[::-1]):
            result = run(PRMROIHeads(factors=factors), found, order)
            assert np.array_equal(result.pred_masks.numpy(), winner)


def test_masks_have_the_size_of_the_file():
    masks = discs((6, 6))
    large = np.repeat(np.repeat(masks, 2, axis=1), 2, axis=2)
    found = found_in(masks, [1], [40.0])
    result = run(PRMROIHeads(), found, large, size=(48, 60))
    assert np.array_equal(result.pred_masks.numpy(), large)
    without = run(PRMROIHeads(masks="response", response_blur=0.0), found, None, size=(48, 60))
    assert without.pred_masks.shape == (1, 48, 60)
    assert (without.pred_masks.numpy() ^ large).mean() < 0.03


@pytest.mark.parametrize("masks", ["proposals", "response"])
def test_nothing_to_find(masks):
    found = found_in(discs((6, 6))[:0], [], [])
    for proposals in (discs((6, 6)), discs((6, 6))[:0], np.ones((1, *SIZE), bool)):
        result = run(PRMROIHeads(masks=masks), found, proposals)
        assert len(result) == 0
        assert result.pred_masks.shape == (0, *SIZE)
    only_bad = run(PRMROIHeads(), found_in(discs((6, 6)), [1], [3.0]), np.ones((1, *SIZE), bool))
    assert len(only_bad) == 0


def test_response_masks_by_hand():
    response = torch.zeros(1, 3, 4)
    response[0, 1, 1:3] = torch.tensor([1.0, 0.4])
    assert response_masks(response, (3, 4), threshold=0.5, blur=0.0).sum() == 1
    assert response_masks(response, (3, 4), threshold=0.3, blur=0.0).sum() == 2
    smooth = smooth_map(torch.ones(1, 31, 31), 2.0)
    assert smooth[0, 15, 15] == pytest.approx(1)
    spike = torch.zeros(1, 31, 31)
    spike[0, 15, 15] = 1
    smooth = smooth_map(spike, 2.0)
    assert smooth.sum() == pytest.approx(1)
    assert torch.equal(smooth, smooth.transpose(1, 2))


def test_bad_options_and_missing_proposals():
    with pytest.raises(UsageError, match=r"MODEL.PRM.MASKS is 'boxes'"):
        PRMROIHeads(masks="boxes")
    with pytest.raises(UsageError, match=r"MODEL.PRM.SCORE is 'best'"):
        PRMROIHeads(score="best")
    with pytest.raises(ValueError, match="without any"):
        run(PRMROIHeads(), found_in(discs((6, 6)), [1], [40.0]), None)
