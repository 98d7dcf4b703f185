"""What measures share of an image, against dense masks and plain loops."""

import numpy as np
import pytest
from wsis.evaluation.predictions import InstancePair, InstancePrediction
from wsis.layers.run_lengths import encode_masks

from tests.evaluation.cases import box, prediction, random_box, truth

SIZE = (19, 23)


def random_masks(rng, count):
    """Overlapping, ragged, equal, full and empty ones."""
    masks = [random_box(rng, SIZE) & (rng.random(SIZE) < 0.8) for _ in range(count)]
    return [*masks, masks[0], box(0, 0, *SIZE, SIZE), box(0, 0, 0, 0, SIZE)]


def pair_of(rng):
    found, objects = random_masks(rng, 9), random_masks(rng, 4)
    labels, classes = (rng.integers(0, 2, len(masks)) for masks in (found, objects))
    return InstancePair(
        "a",
        prediction(found, labels, rng.random(len(found)), size=SIZE),
        truth(objects, classes, size=SIZE, void=random_box(rng, SIZE)),
    )


def encoded(pair):
    """The same with predictions that come as run lengths."""
    found = pair.prediction
    runs = encode_masks(found.masks)
    return InstancePair(
        pair.key,
        InstancePrediction(found.classes, found.scores, None, encoded=runs),
        pair.truth,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("change", [lambda pair: pair, encoded])
def test_areas_shared_pixels_and_iou_are_exact(seed, change):
    dense = pair_of(np.random.default_rng(seed))
    pair = change(dense)
    shared, iou = np.zeros(pair.iou.shape), np.zeros(pair.iou.shape)
    for i, j in np.ndindex(iou.shape):
        mask, other = dense.prediction.masks[i], dense.truth.masks[j]
        if dense.prediction.classes[i] == dense.truth.classes[j] and (mask | other).any():
            shared[i, j] = (mask & other).sum()
            iou[i, j] = (mask & other).sum() / (mask | other).sum()
    np.testing.assert_array_equal(pair.iou, iou)
    np.testing.assert_array_equal(pair.shared, shared)
    assert pair.areas[0].tolist() == [mask.sum() for mask in dense.prediction.masks]
    assert pair.areas[1].tolist() == [mask.sum() for mask in dense.truth.masks]


@pytest.mark.parametrize("seed", range(4))
def test_void_is_cut_out_of_predictions(seed):
    dense = pair_of(np.random.default_rng(seed))
    hidden = dense.truth.void & box(0, 0, 9, 9, SIZE)
    found = dense.prediction.take(np.arange(8))
    masks = np.concatenate([found.masks, hidden[None]])
    found = prediction(masks, [*found.classes, 0], [*found.scores, 0.5], size=SIZE)
    cut = InstancePair("a", found, dense.truth).without_void().prediction
    inside = masks & ~dense.truth.void
    keep = inside.any(axis=(1, 2)) | ~masks.any(axis=(1, 2))
    assert not keep[-1] or not hidden.any()
    np.testing.assert_array_equal(cut.decoded(SIZE).masks, inside[keep])
    np.testing.assert_array_equal(cut.classes, found.classes[keep])
    np.testing.assert_array_equal(cut.scores, found.scores[keep])


def test_what_is_taken_of_run_lengths_is_what_is_taken_of_masks():
    dense = pair_of(np.random.default_rng(1))
    runs = encoded(dense).prediction
    for chosen in (np.array([3, 0, 3]), dense.prediction.scores > 0.5, np.zeros(0, int)):
        expected = dense.prediction.take(chosen)
        assert list(runs.take(chosen).results) == expected.results
        np.testing.assert_array_equal(runs.take(chosen).decoded(SIZE).masks, expected.masks)
