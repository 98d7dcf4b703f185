import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from wsis.errors import UsageError
from wsis.methods.iam.roi_heads import IAMROIHeads, refine_by_crf

SIZE = (24, 32)


def scene():
    """A picture of two flat squares, noisy activation of each, and a copy of the first."""
    picture = torch.full((3, *SIZE), 40.0)
    picture[0, 4:14, 4:14] = 220
    picture[1, 10:22, 18:30] = 220
    maps = torch.full((4, *SIZE), 0.1)
    maps[0, 4:14, 4:14] = 0.9
    maps[1, 10:22, 18:30] = 0.8
    maps[2, 4:14, 4:13] = 0.7
    maps[3] = 0.2
    logits = torch.tensor([1.0, 3.0, 5.0, 9.0])
    return picture, maps, logits, torch.tensor([2, 0, 2, 1])


def run(heads, scene, size=SIZE):
    return heads(*scene, size)


def test_without_crf(monkeypatch):
    monkeypatch.delattr(BitMasks, "get_bounding_boxes")  # they would lie on the CPU
    picture, maps, logits, classes = scene()
    found = run(IAMROIHeads(crf_iterations=0), scene())
    expected = torch.sigmoid(logits) * torch.tensor([0.9, 0.8, 0.7, 0.0])
    # The copy has the higher score and overlaps by 0.9; the weak map has no mask.
    assert found.peak.tolist() == [1, 2]
    assert found.pred_classes.tolist() == [0, 2]
    torch.testing.assert_close(found.scores, expected[[1, 2]])
    assert torch.equal(found.pred_masks, maps[[1, 2]] > 0.5)
    assert found.pred_boxes.tensor.tolist() == [[18, 10, 30, 22], [4, 4, 13, 14]]


def test_suppression_options():
    everything = run(IAMROIHeads(crf_iterations=0, nms_threshold=1.1), scene())
    assert everything.peak.tolist() == [1, 2, 0]
    picture, maps, logits, classes = scene()
    classes[2] = 1
    other = picture, maps, logits, classes
    assert len(run(IAMROIHeads(crf_iterations=0), other)) == 3
    assert len(run(IAMROIHeads(crf_iterations=0, nms_across_classes=True), other)) == 2
    assert len(run(IAMROIHeads(crf_iterations=0, max_instances=1), other)) == 1
    assert len(run(IAMROIHeads(crf_iterations=0, min_area=0.15), other)) == 1


@pytest.mark.parametrize("score", ["class", "mask", "product"])
def test_scores(score):
    _, _, logits, _ = scene()
    found = run(IAMROIHeads(crf_iterations=0, nms_threshold=1.1, score=score), scene())
    inside = torch.tensor([0.9, 0.8, 0.7])
    values = {"class": logits[:3].sigmoid(), "mask": inside}
    values["product"] = values["class"] * values["mask"]
    torch.testing.assert_close(found.scores, values[score][found.peak])
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_crf_follows_the_picture():
    picture, maps, logits, classes = scene()
    maps[0, 6:9, 6:9] = 0.45  # a hole that the colours close
    maps[0, 20:22, 4:6] = 0.55  # and a speck that they remove
    noisy = picture, maps, logits, classes
    rough = run(IAMROIHeads(crf_iterations=0, nms_threshold=1.1), noisy)
    smooth = run(IAMROIHeads(nms_threshold=1.1), noisy)
    for found, clean in ((rough, False), (smooth, True)):
        mask = found.pred_masks[found.peak.tolist().index(0)]
        square = torch.zeros(SIZE, dtype=torch.bool)
        square[4:14, 4:14] = True
        assert torch.equal(mask, square) is clean


def test_at_the_size_of_the_picture():
    found = run(IAMROIHeads(crf_iterations=0), scene(), size=(48, 96))
    assert found.image_size == (48, 96)
    assert found.pred_masks.shape == (2, 48, 96)
    large = found.pred_masks[1].float().mean() * 24 * 32
    assert abs(float(large) - 90) < 5


def test_each_map_above_its_own_threshold():
    picture, maps, logits, classes = scene()
    squares, heights = maps[:2] > 0.5, torch.tensor([0.3, 1.0])  # the first is low
    low = picture, maps[:2] * heights[:, None, None], logits[:2], classes[:2]
    heads = IAMROIHeads(crf_iterations=0, mask_threshold=0.0, score="mask")
    found = run(heads, low)
    assert found.peak.tolist() == [1, 0]
    assert torch.equal(found.pred_masks, squares[[1, 0]])
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.27]))
    areas = run(heads, low, size=(48, 64)).pred_masks.sum((1, 2))
    assert (areas - 4 * squares[[1, 0]].sum((1, 2))).abs().max() <= 4 * 12  # a ring at most


def test_without_peaks():
    picture, maps, logits, classes = scene()
    found = run(IAMROIHeads(), (picture, maps[:0], logits[:0], classes[:0]))
    assert len(found) == 0
    assert found.pred_masks.shape == (0, *SIZE)


def test_bad_score():
    with pytest.raises(UsageError, match=r"MODEL\.IAM\.SCORE is 'area'"):
        IAMROIHeads(score="area")


def test_refinement_keeps_certain_maps_finite():
    image = torch.zeros(6, 7, 3, dtype=torch.uint8)
    maps = torch.zeros(2, 6, 7)
    maps[0, :3], maps[1] = 1.0, 1.0
    refined = refine_by_crf(image, maps)
    assert bool(torch.isfinite(refined).all())
    assert np.all(refined[1].numpy() > 0.99)
    assert torch.equal(refine_by_crf(image, maps, num_iterations=0), maps)
    assert refine_by_crf(image, maps[:0]).shape == (0, 6, 7)
