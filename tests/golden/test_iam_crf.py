"""iam_crf: the dense CRF of one activation map at a time."""

import numpy as np
import torch
from wsis.methods.iam.roi_heads import refine_by_crf

from tests.golden.conftest import assert_close


def test_labels_and_marginals(arrays):
    expected, shape = arrays["marginal"], arrays["prob"].shape
    labels = np.unpackbits(arrays["label"])[: expected.size].reshape(shape)
    q = refine_by_crf(torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["prob"]))
    assert ((q.numpy() > 0.5) == labels).mean() >= 0.9999
    assert_close(q.numpy(), expected, 2e-5, "marginal")
