"""RoIAlign, mask-guided features and scores (cim_maskfuse.npz)."""

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from wsis.methods.cim.convert import convert_cim

from tests.golden.cim_cases import heads_of, instances_of, weights_of


@torch.no_grad()
def test_features_and_scores(golden, arrays):
    feature = torch.from_numpy(arrays["feat"])
    stride = round(1 / float(arrays["spatial_scale"]))
    size = tuple(int(side) * stride for side in feature.shape[2:])
    heads = heads_of(
        golden.text(arrays["state_shapes"]), ShapeSpec(feature.shape[1], stride=stride)
    )
    state = convert_cim(weights_of(golden, arrays))
    heads.load_state_dict({k.removeprefix("roi_heads."): v for k, v in state.items()})
    found = instances_of(size, arrays["rois"][:, 1:], arrays["masks7"])
    pooled = heads.pooler([feature], [found.proposal_boxes])
    close = np.testing.assert_allclose
    close(pooled, arrays["roi_feat"], rtol=1e-4, atol=1e-5)
    close(heads.head.fused(pooled, found.proposal_crops), arrays["fused"], rtol=1e-4, atol=1e-4)
    vectors = heads.vectors(feature, found.proposal_boxes, found.proposal_crops)
    close(vectors, arrays["seg"], rtol=1e-4, atol=1e-4)
    scores = heads.scorer(vectors)
    close(scores.classes, arrays["predict_cls"], rtol=1e-4, atol=1e-5)
    close(scores.detection, arrays["predict_det"], rtol=1e-4, atol=1e-5)
    close(torch.stack(scores.refined), arrays["refine_cls"], rtol=1e-4, atol=1e-5)
    close(torch.stack(scores.integrity), arrays["refine_iou"], rtol=1e-4, atol=1e-5)
    products = torch.stack(
        [(s * q)[:, 1:] for s, q in zip(scores.refined, scores.integrity, strict=True)]
    )
    close(products, arrays["refine_score"], rtol=1e-4, atol=1e-5)
    close(scores.final(), arrays["refine_score"].mean(axis=0), rtol=1e-4, atol=1e-5)
    heads.chunk = 5
    chunks = heads.vectors(feature, found.proposal_boxes, found.proposal_crops)
    close(chunks, arrays["seg"], rtol=1e-4, atol=1e-4)
