"""iam_pseudo_gt: shrunken proposals, candidates and draws of the pseudo mask sampler."""

import numpy as np
import pytest
from wsis.layers.regions import Regions
from wsis.layers.retrieval import prepare_proposals, sampling_candidates

from tests.golden.conftest import assert_close
from tests.golden.packed import unpack

SEED = 7  # of the stored draws


@pytest.fixture(scope="module")
def images(arrays):
    """Per image its proposals as regions of the size of the peak response maps."""
    masks = unpack(arrays["proposals"], arrays["proposals_shape"])
    return [Regions.from_masks(stack).shrink_to(arrays["prm"].shape[1:]) for stack in masks]


def test_shrunken_masks(arrays, images):
    for regions, expected in zip(images, arrays["proposals_resized"], strict=True):
        np.testing.assert_array_equal(regions.decode(), expected == 255)


def test_candidates_and_draws(golden, arrays, images):
    peaks, maps = arrays["peaks"], arrays["prm"]
    for case in golden.text(arrays["settings"]):
        name, found = case["name"], {}
        for image in np.unique(peaks[:, 0]):
            prepared = prepare_proposals(
                images[image][: case.get("proposal_count", 100)],
                maps.shape[1:],
                contour_width=case.get("contour_width", 5),
                size_limits=tuple(case.get("proposal_size_limit", (0.00002, 0.85))),
            )
            mine = np.flatnonzero(peaks[:, 0] == image)
            candidates = sampling_candidates(
                prepared,
                maps[mine],
                balance=case["balance_factor"],
                max_candidates=case["k_proposals"],
                discard_threshold=case.get("discard_threshold", 0.2),
            )
            found |= dict(zip(mine.tolist(), candidates, strict=True))
        counts = [len(found[peak][0]) for peak in range(len(peaks))]
        np.testing.assert_array_equal(counts, arrays[f"{name}_candidate_counts"], err_msg=name)
        masks = [images[peaks[p, 0]].decode(found[p][0]) for p in range(len(peaks))]
        expected = unpack(arrays[f"{name}_candidates"], (sum(counts), *maps.shape[1:]))
        np.testing.assert_array_equal(np.concatenate(masks), expected, err_msg=name)
        scores = np.concatenate([found[p][1] for p in range(len(peaks))])
        assert_close(scores, arrays[f"{name}_candidate_scores"], 1e-5, name)
        generator = np.random.RandomState(SEED)  # the legacy one, as in the original
        drawn = [stack[generator.choice(len(stack), 1)[0]] for stack in masks]
        expected = unpack(arrays[f"{name}_sampled_seed7"], (len(peaks), *maps.shape[1:]))
        np.testing.assert_array_equal(np.stack(drawn), expected, err_msg=name)
