"""Mining, anti-noise sampling and assignment (cim_labels.npz)."""

import numpy as np
import torch
from wsis.methods.cim.mining import MiningOptions, assign, mine, sample_truth, usable_proposals
from wsis.methods.cim.overlaps import overlaps_of_boxes

from tests.golden.cim_cases import overlaps_of


def branches(arrays):
    return range(sum(f"s{k}_cls" in arrays for k in range(20)))


def run(arrays, branch, overlaps, options):
    present = torch.from_numpy(np.flatnonzero(arrays["labels"][0]))
    scores, parts = (torch.from_numpy(arrays[f"s{branch}_{x}"])[:, 1:] for x in ("cls", "det"))
    return mine(scores, parts, classes=present, overlaps=overlaps, branch=branch, options=options)


def assert_assigned(arrays, prefix, found):
    width = arrays["labels"].shape[1]
    rows = np.eye(width + 1)[found.labels] * (found.labels.numpy() >= 0)[:, None]
    np.testing.assert_array_equal(rows, arrays[f"{prefix}pl"], prefix)
    np.testing.assert_array_equal(found.integrity, arrays[f"{prefix}pi"] > 0, prefix)
    np.testing.assert_array_equal(found.weights, arrays[f"{prefix}lw"], prefix)


def assert_truth(arrays, prefix, truth):
    np.testing.assert_array_equal(truth.index, arrays[f"{prefix}gt_idx"], prefix)
    np.testing.assert_array_equal(truth.classes + 1, arrays[f"{prefix}gt_cls"], prefix)


def test_complete_instances(arrays):
    overlaps, options = overlaps_of(arrays), MiningOptions()
    for branch in branches(arrays):
        usable = usable_proposals(overlaps, options)
        np.testing.assert_array_equal(usable, arrays[f"s{branch}_not_big"])
        truth = run(arrays, branch, overlaps, options)
        assert_truth(arrays, f"s{branch}_", truth)
        np.testing.assert_array_equal(truth.scores, arrays[f"s{branch}_gt_w"])
        found = assign(truth, overlaps, branch=branch, options=options)
        assert_assigned(arrays, f"s{branch}_", found)


def test_anti_noise_sampling(arrays):
    overlaps, options = overlaps_of(arrays), MiningOptions()
    for branch in branches(arrays):
        seed = int(arrays["noise_seed"][branch])
        truth = run(arrays, branch, overlaps, options)
        kept = sample_truth(truth, np.random.RandomState(seed))
        found = assign(kept, overlaps, branch=branch, options=options)
        assert_assigned(arrays, f"s{branch}_noise_", found)


def test_seeds_alone(arrays):
    overlaps, options = overlaps_of(arrays), MiningOptions(complete=False)
    for branch in branches(arrays):
        truth = run(arrays, branch, overlaps, options)
        assert_truth(arrays, f"s{branch}_mist_", truth)
        found = assign(truth, overlaps, branch=branch, options=options)
        assert_assigned(arrays, f"s{branch}_mist_", found)


def test_seeds_alone_with_boxes(arrays):
    overlaps = overlaps_of_boxes(torch.from_numpy(arrays["rois"][:, 1:]))
    options = MiningOptions(complete=False)
    truth = run(arrays, 0, overlaps, options)
    assert_assigned(arrays, "box_mist_", assign(truth, overlaps, branch=0, options=options))
