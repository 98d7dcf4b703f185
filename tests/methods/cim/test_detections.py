from dataclasses import replace

import numpy as np
import torch
from wsis.layers.regions import Regions
from wsis.methods.cim.detections import (
    Completion,
    DetectionOptions,
    Detections,
    box_area_filter,
    detect,
    detect_at_points,
    inclusive_nms,
    pseudo_label_detections,
)
from wsis.methods.cim.overlaps import overlaps_of_regions


def plain_nms(boxes, scores, threshold):
    """Suppression with inclusive widths, one pair after another, in float32."""
    order = np.argsort(-scores, kind="stable")
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(1)
    kept = []
    for i in order:
        suppressed = False
        for j in kept:
            low = np.maximum(boxes[i, :2], boxes[j, :2])
            high = np.minimum(boxes[i, 2:], boxes[j, 2:])
            shared = np.prod(np.maximum(high - low + np.float32(1), 0), dtype=np.float32)
            union = sides[i].prod() + sides[j].prod() - shared
            suppressed |= bool(shared / union >= np.float32(threshold))
        if not suppressed:
            kept.append(int(i))
    return sorted(kept)


def test_suppression_against_the_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(10):
        corners = rng.integers(0, 20, (40, 2, 2))
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        boxes = boxes.astype(np.float32)
        scores = rng.permutation(40).astype(np.float32)
        found = inclusive_nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold=0.3)
        assert found.tolist() == plain_nms(boxes, scores, 0.3)


def test_an_equal_overlap_is_suppressed():
    boxes = torch.tensor([[0.0, 0, 9, 0], [5, 0, 9, 0]])  # ten and five pixels: IoU 0.5
    scores = torch.tensor([0.9, 0.8])
    assert inclusive_nms(boxes, scores, threshold=0.5).tolist() == [0]
    assert inclusive_nms(boxes, scores, threshold=0.51).tolist() == [0, 1]


def test_detections_of_nothing():
    found = detect(torch.zeros(0, 4), torch.zeros(0, 3))
    assert len(found) == 0
    assert len(detect(torch.zeros(2, 4), torch.zeros(2, 3))) == 0


def test_limit_keeps_ties():
    boxes = torch.arange(5).float()[:, None] * 10 + torch.tensor([0.0, 0, 1, 1])
    scores = torch.tensor([0.1, 0.5, 0.5, 0.5, 0.9])[:, None]
    assert detect(boxes, scores, DetectionOptions(limit=2)).index.tolist() == [1, 2, 3, 4]
    assert detect(boxes, scores, DetectionOptions(limit=5)).index.tolist() == [0, 1, 2, 3, 4]


def test_pseudo_labels_are_those_of_the_tags_best_first():
    scores = torch.tensor([0.2, 0.9, 0.3, 0.3, 0.8])
    found = Detections(torch.arange(5), torch.tensor([0, 1, 2, 2, 2]), scores)
    present = torch.tensor([True, False, True])
    chosen = pseudo_label_detections(found, present)
    assert chosen.index.tolist() == [0, 4, 2, 3]
    assert pseudo_label_detections(found, present, best_only=True).index.tolist() == [0, 4]
    assert len(pseudo_label_detections(found, torch.zeros(3, dtype=torch.bool))) == 0


def test_area_filter():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 0, 0], [0, 0, 4, 4]])
    fits = box_area_filter(boxes, (10, 10), (0.02, 0.85))
    assert fits.tolist() == [False, False, True]


def squares(*spans):
    masks = np.zeros((len(spans), 20, 20), dtype=bool)
    for mask, (low, high) in zip(masks, spans, strict=True):
        mask[low:high, low:high] = True
    return Regions.from_masks(masks)


def completion_of(regions, share=0.9):
    return Completion(overlaps_of_regions(regions), torch.from_numpy(regions.areas), share)


def test_of_nested_proposals_that_score_alike_the_largest():
    regions = squares((5, 15), (4, 16), (3, 17), (2, 18), (5, 14))
    scores = torch.tensor([[0.9], [0.85], [0.82], [0.9], [0.9]])  # the fourth is too large
    found = Detections(torch.tensor([0]), torch.tensor([0]), torch.tensor([0.9]))
    assert completion_of(regions)(found, scores).index.tolist() == [2]
    assert completion_of(regions, 0.93)(found, scores).index.tolist() == [1]
    assert completion_of(regions, 0.99)(found, scores).index.tolist() == [0]
    looser = replace(completion_of(regions), iou=0.35)  # 10 x 10 in 16 x 16 pixels: 0.39
    assert looser(found, scores).index.tolist() == [3]


def test_detections_that_complete_to_one_proposal_are_one():
    regions = squares((5, 15), (5, 16), (4, 16))
    scores = torch.tensor([[0.90, 0.5], [0.95, 0.1], [0.94, 0.1]])
    index, classes = torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1])
    found = Detections(index, classes, scores[index, classes])
    merged = completion_of(regions)(found, scores)
    assert merged.index.tolist() == [2, 0]
    assert merged.classes.tolist() == [0, 1]
    torch.testing.assert_close(merged.scores, torch.tensor([0.95, 0.5]))
    nothing = found[torch.zeros(0, dtype=torch.int64)]
    assert len(completion_of(regions)(nothing, scores)) == 0


def test_one_detection_for_each_point():
    scores = torch.tensor([[0.9, 0.0], [0.2, 0.3], [0.4, 0.1], [0.99, 0.99]])
    covers = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    classes = torch.tensor([0, 0, 1])  # no proposal covers the third point
    found = detect_at_points(scores, covers, classes)
    assert found.index.tolist() == [0, 2]
    assert found.classes.tolist() == [0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.4]))
    assert len(detect_at_points(scores, covers[2:], classes[2:])) == 0
    assert len(detect_at_points(scores, covers[:0], classes[:0])) == 0


def test_a_proposal_over_two_points_joins_them_only_where_there_is_no_other():
    scores = torch.tensor([[0.9], [0.2]])
    joined = torch.tensor([[1, 1], [1, 0]], dtype=torch.bool)
    found = detect_at_points(scores, joined, torch.tensor([0, 0]))
    assert found.index.tolist() == [1, 0]
    alone = torch.tensor([[1, 0], [1, 0]], dtype=torch.bool)
    assert detect_at_points(scores, alone, torch.tensor([0, 0])).index.tolist() == [0]
