import numpy as np
import torch
from wsis.methods.cim.detections import (
    Detections,
    box_area_filter,
    detect,
    inclusive_nms,
    pseudo_label_detections,
)


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
    assert detect(boxes, scores, limit=2).index.tolist() == [1, 2, 3, 4]
    assert detect(boxes, scores, limit=5).index.tolist() == [0, 1, 2, 3, 4]


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
    fits = box_area_filter(boxes, (10, 10), smallest=0.02, largest=0.85)
    assert fits.tolist() == [False, False, True]
