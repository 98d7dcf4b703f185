"""Scores averaged over scales and flips (cim_tta.npz)."""

import numpy as np
import pytest
import torch
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.layers.regions import Regions
from wsis.methods.cim.mappers import crops_artifact

from tests.golden.cim_cases import mapper_of, masks_of, network_of


@pytest.mark.slow
def test_mean_of_views(golden, arrays, tmp_path, monkeypatch):
    image = np.ascontiguousarray(arrays["image_bgr"][:, :, ::-1])
    proposals = by_rank(Regions.from_masks(masks_of(arrays)))
    side = arrays["masks7"].shape[1]
    mapper = mapper_of(
        [int(arrays["test_scale"]), *arrays["aug_scales"].tolist()],
        is_train=False,
        crop_size=side,
        proposals={"it": proposals_artifact(proposals)},
        proposal_crops={"it": crops_artifact(proposals, side)},
    )
    monkeypatch.setattr("wsis.data.mappers.read_model_image", lambda *_: image)
    height, width = image.shape[:2]
    sample = mapper({"image_key": "it", "height": height, "width": width})
    found = sample["proposals"]
    np.testing.assert_array_equal(found.proposal_boxes.tensor, arrays["boxes_out"])
    np.testing.assert_array_equal(found.proposal_crops, arrays["masks7"])
    model = network_of(golden, arrays)
    passes = order_of_passes(sample, arrays)
    scores = [one_view(model, sample, view) for view in passes]
    np.testing.assert_allclose(torch.stack(scores), arrays["pass_scores"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.scores([sample])[0], arrays["scores"], rtol=0, atol=1e-4)


def order_of_passes(sample, arrays):
    """Our views in the original's order, by their sizes and by whether they are mirrored."""
    sizes = [tuple(image.shape[1:]) for image, _ in sample["views"]]
    flips = [True, *[False, True] * len(arrays["aug_scales"]), False]
    views = list(zip(sizes, [False, True] * (len(sizes) // 2), strict=True))
    wanted = [tuple(int(v) for v in shape[-2:]) for shape in arrays["pass_shapes"]]
    return [views.index(pair) for pair in zip(wanted, flips, strict=True)]


def one_view(model, sample, view):
    return model.scores([{"views": [sample["views"][view]]}])[0]
