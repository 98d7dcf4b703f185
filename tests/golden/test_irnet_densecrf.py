"""The dense CRF against pydensecrf's results; only the settings behind each key are named here."""

import re

import numpy as np
from wsis.layers.crf import (
    DenseCRF,
    Kernel,
    crf_labels,
    unary_from_labels,
)

from tests.golden.conftest import assert_close

GAUSSIAN = Kernel(sxy=3, weight=3)
BILATERAL = Kernel(sxy=50, srgb=5, weight=10)
POST = Kernel(sxy=80, srgb=13, weight=10)
# Which kernels, and which problem, stand behind the part of a key before "_t<steps>".
SETTINGS = {
    "q_irn": ((GAUSSIAN, BILATERAL), "unary"),
    "q_gauss": ((GAUSSIAN,), "unary"),
    "q_bilateral": ((BILATERAL,), "unary"),
    "q_irn_2labels": ((GAUSSIAN, BILATERAL), "two labels"),
    "q_post": ((GAUSSIAN, POST), "unary_softmax"),
}


def test_every_stored_q(arrays):
    two_labels = unary_from_labels((arrays["labels"] > 0).astype(np.int64), 2)
    problems = {**arrays, "two labels": two_labels}
    checked = 0
    for key, expected in arrays.items():
        named = re.fullmatch(r"(q_\w+)_t(\d+)", key)
        if not named:
            continue
        kernels, unary = SETTINGS[named[1]]
        q = DenseCRF(arrays["image"], kernels).infer(problems[unary], int(named[2]))
        assert q.shape == expected.shape
        assert q.dtype == np.float32
        assert_close(q, expected, 2e-5, key)
        checked += 1
    assert checked >= len(SETTINGS)


def test_label_map(arrays):
    num_labels = len(arrays["unary"])
    labels = crf_labels(arrays["image"], arrays["labels"], num_labels)
    assert (labels == arrays["map_irn"]).mean() >= 0.9999


def test_unaries(arrays):
    unary = unary_from_labels(arrays["labels"], len(arrays["unary"]))
    assert_close(unary, arrays["unary"], 1e-6, "from labels")


def test_seeds_of_the_inter_pixel_label(golden):
    arrays = golden.load("irnet_ir_label")
    for num_classes, suffix in ((len(arrays["keys"]), ""), (1, "_one")):
        maps = arrays["high_res"][:num_classes]
        for name, threshold in zip(("fg", "bg"), arrays["thresholds"], strict=True):
            seed = np.concatenate([np.full_like(maps[:1], threshold), maps]).argmax(0)
            labels = crf_labels(arrays["image"], seed, num_classes + 1)
            agreement = (labels == arrays[f"{name}_crf{suffix}"]).mean()
            assert agreement >= 0.9999, f"{name}{suffix}: {agreement}"
