import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.layers import crf as crf_module
from wsis.layers.crf import (
    IRNET_KERNELS,
    DenseCRF,
    Kernel,
    crf_labels,
    unary_from_labels,
)

KERNELS = (Kernel(sxy=3, weight=3), Kernel(sxy=20, srgb=10, weight=6))


def dense_crf(image, unary, *, kernels=IRNET_KERNELS, num_iterations=10):
    return DenseCRF(image, kernels).infer(unary, num_iterations)


def scene(height: int, width: int, num_labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of two flat halves, and a unary that knows the halves and errs often."""
    rng = np.random.default_rng(seed)
    half = np.arange(width) >= width // 2
    base = np.where(half[None, :, None], [200, 60, 30], [40, 90, 160])
    image = (base + rng.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)
    labels = np.broadcast_to(half * (num_labels - 1), (height, width)).copy()
    wrong = rng.random((height, width)) < 0.2
    labels[wrong] = rng.integers(0, num_labels, wrong.sum())
    return image, labels


def exact_crf(image, unary, kernels, num_iterations):
    """Mean field with the true kernels, every pair of pixels."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    matrices = []
    for kernel in kernels:
        distance = ((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2) / kernel.sxy**2
        if kernel.srgb is not None:
            colours = image.reshape(-1, 3).astype(float) / kernel.srgb
            distance = distance + ((colours[:, None] - colours) ** 2).sum(-1)
        gaussian = np.exp(-distance / 2)
        root = 1 / np.sqrt(gaussian.sum(1))
        matrices.append(kernel.weight * root[:, None] * gaussian * root)
    energy = unary.reshape(len(unary), -1).astype(float)

    def softmax(logits):
        powers = np.exp(logits - logits.max(0))
        return powers / powers.sum(0)

    q = softmax(-energy)
    for _ in range(num_iterations):
        q = softmax(-energy + sum(q @ matrix.T for matrix in matrices))
    return q.reshape(unary.shape)


@pytest.mark.parametrize(
    "kernels",
    [
        KERNELS[:1],
        KERNELS[1:],
        KERNELS,
    ],
    ids=["gaussian", "bilateral", "both"],
)
def test_close_to_the_exact_kernels(kernels):
    image, labels = scene(19, 26, 3)
    unary = unary_from_labels(labels, 3, label_probability=0.6)
    q = dense_crf(image, unary, kernels=kernels, num_iterations=5)
    exact = exact_crf(image, unary, kernels, 5)
    assert (q.argmax(0) == exact.argmax(0)).mean() >= 0.99
    assert np.abs(q - exact).mean() <= 0.01
    # The kernels do something: without them the answer is another one.
    assert (q.argmax(0) != unary.argmin(0)).mean() > 0.05


def test_removes_noise_along_the_edge_of_the_image_content():
    image, labels = scene(24, 30, 2)
    clean = np.broadcast_to(np.arange(30) >= 15, (24, 30))
    assert (labels != clean).mean() > 0.05
    np.testing.assert_array_equal(crf_labels(image, labels, 2), clean)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 18), st.integers(0, 4), st.integers(0, 9)
)
def test_q_is_a_distribution(height, width, num_labels, num_iterations, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    unary = rng.normal(0, 3, (num_labels, height, width)).astype(np.float32)
    q = dense_crf(image, unary, kernels=KERNELS, num_iterations=num_iterations)
    assert q.dtype == np.float32
    assert q.shape == unary.shape
    assert q.min() >= 0
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_flipped_image_flips_the_result(axis):
    image, labels = scene(21, 17, 3)
    result = crf_labels(image, labels, 3, kernels=KERNELS)
    flipped = crf_labels(np.flip(image, axis), np.flip(labels, axis), 3, kernels=KERNELS)
    # The lattice is not symmetric under reflection, so single pixels may differ.
    assert (np.flip(flipped, axis) == result).mean() >= 0.98


def test_reordered_labels_reorder_the_result():
    image, labels = scene(15, 20, 5)
    unary = unary_from_labels(labels, 5)
    order = np.array([3, 0, 4, 1, 2])
    q = dense_crf(image, unary, kernels=KERNELS, num_iterations=4)
    reordered = dense_crf(image, unary[order], kernels=KERNELS, num_iterations=4)
    np.testing.assert_allclose(reordered, q[order], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_thin_images(shape):
    image = np.full((*shape, 3), 7, dtype=np.uint8)
    labels = np.zeros(shape, dtype=np.uint8)
    labels.flat[-1] = 2
    unary = unary_from_labels(labels, 3)
    q = dense_crf(image, unary, kernels=KERNELS, num_iterations=3)
    exact = exact_crf(image, unary, KERNELS, 3)
    np.testing.assert_allclose(q, exact, atol=0.02)
    assert crf_labels(image, labels, 3, kernels=()).flat[-1] == 2


def test_constant_image_lets_the_majority_win():
    image = np.full((16, 16, 3), 128, dtype=np.uint8)
    labels = np.zeros((16, 16), dtype=np.int64)
    labels[::5, ::5] = 1
    np.testing.assert_array_equal(crf_labels(image, labels, 2, kernels=KERNELS), 0)


def test_one_label_is_certain():
    image, labels = scene(6, 7, 2)
    zeros = np.zeros_like(labels)
    np.testing.assert_array_equal(crf_labels(image, zeros, 1), zeros)
    np.testing.assert_array_equal(unary_from_labels(zeros, 1), np.zeros((1, 6, 7)))
    np.testing.assert_array_equal(dense_crf(image, unary_from_labels(zeros, 1)), np.ones((1, 6, 7)))


def test_no_iterations_and_no_kernels_give_the_softmax():
    image, labels = scene(5, 6, 3)
    unary = unary_from_labels(labels, 3)
    expected = np.exp(-unary) / np.exp(-unary).sum(0)
    for kernels, count in ((KERNELS, 0), ((), 3)):
        q = dense_crf(image, unary, kernels=kernels, num_iterations=count)
        np.testing.assert_allclose(q, expected, atol=1e-6)


def test_large_energies_do_not_overflow():
    image, labels = scene(8, 9, 3)
    unary = unary_from_labels(labels, 3) * 1e4
    strong = (Kernel(sxy=3, weight=500), Kernel(sxy=20, srgb=10, weight=500))
    q = dense_crf(image, unary, kernels=strong, num_iterations=3)
    np.testing.assert_array_equal(q.argmax(0), labels)
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-6)


def test_problems_on_one_image_together_or_one_by_one():
    image, labels = scene(14, 18, 3)
    unaries = np.stack([unary_from_labels(labels, 3), unary_from_labels((labels > 0) * 1, 3)])
    crf = DenseCRF(image, KERNELS)
    together = crf.infer(unaries, 5)
    for unary, q in zip(unaries, together, strict=True):
        np.testing.assert_allclose(crf.infer(unary, 5), q, atol=1e-6)
        np.testing.assert_allclose(dense_crf(image, unary, kernels=KERNELS, num_iterations=5), q)
    stacked = np.stack([labels, labels > 0])
    np.testing.assert_array_equal(
        crf_labels(image, stacked, 3, kernels=KERNELS, num_iterations=5), together.argmax(1)
    )
    assert (together[0] != together[1]).any()


def test_images_of_one_size_do_not_change_each_other():
    """They share the lattice of places."""
    images = [scene(*size, 3, seed=number) for number, size in enumerate([(9, 12), (12, 9)] * 2)]
    together = [dense_crf(image, unary_from_labels(labels, 3)) for image, labels in images]
    for (image, labels), q in zip(images, together, strict=True):
        crf_module._of_places.cache_clear()
        np.testing.assert_array_equal(dense_crf(image, unary_from_labels(labels, 3)), q)


def devices():
    return ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", devices())
def test_tensors_give_what_arrays_give(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    image, labels = scene(15, 22, 4)
    expected = dense_crf(image, unary_from_labels(labels, 4), kernels=KERNELS, num_iterations=5)
    tensors = [torch.as_tensor(a, device=device) for a in (image, labels)]
    unary = unary_from_labels(tensors[1], 4)
    q = dense_crf(tensors[0], unary, kernels=KERNELS, num_iterations=5)
    assert isinstance(q, torch.Tensor)
    assert q.device.type == unary.device.type == device
    np.testing.assert_allclose(q.cpu(), expected, atol=1e-6 if device == "cpu" else 1e-4)
    result = crf_labels(*tensors, 4, kernels=KERNELS, num_iterations=5)
    np.testing.assert_array_equal(result.cpu(), expected.argmax(0))


def test_read_only_and_strided_arrays_are_left_alone():
    image, labels = scene(12, 16, 2)
    wide = np.repeat(image, 2, axis=1)
    wide.flags.writeable = False
    expected = crf_labels(image, labels, 2, kernels=KERNELS)
    np.testing.assert_array_equal(crf_labels(wide[:, ::2], labels, 2, kernels=KERNELS), expected)
    np.testing.assert_array_equal(wide[:, ::2], image)


def test_unary_values():
    labels = np.array([[0, 2]])
    unary = unary_from_labels(labels, 3, label_probability=0.7)
    own, other = -math.log(0.7), -math.log(0.15)
    np.testing.assert_allclose(unary, [[[own, other]], [[other, other]], [[other, own]]], rtol=1e-6)
    assert unary.dtype == np.float32


def test_refuses_what_is_wrong():
    image, labels = scene(4, 5, 2)
    unary = unary_from_labels(labels, 2)
    with pytest.raises(ValueError, match="labels must lie in 0..1, found 0..3"):
        unary_from_labels(labels * 3, 2)
    with pytest.raises(ValueError, match="label_probability"):
        unary_from_labels(labels, 2, label_probability=1.0)
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\)"):
        dense_crf(image[..., 0], unary)
    with pytest.raises(ValueError, match=r"unary must be \(\[B,\] L, 4, 5\)"):
        dense_crf(image, unary[:, :3])
    with pytest.raises(ValueError, match="finite"):
        dense_crf(image, np.full_like(unary, np.nan))
    with pytest.raises(ValueError, match="standard deviation"):
        dense_crf(image, unary, kernels=[Kernel(sxy=0, weight=1)])
    with pytest.raises(ValueError, match="standard deviation"):
        dense_crf(image, unary, kernels=[Kernel(sxy=3, weight=1, srgb=0)])


def test_two_labels_by_one_column():
    image, labels = scene(14, 18, 3)
    generator = np.random.default_rng(0)
    inside = generator.uniform(0.02, 0.98, (9, 14, 18)).astype(np.float32)
    inside[:3] = 0.9 * (labels > 0) + 0.05
    logits = np.log(inside / (1 - inside))
    crf = DenseCRF(image, KERNELS)
    unaries = -np.log(np.stack([1 - inside, inside], axis=1))
    for steps in (0, 1, 5):
        q = crf.infer_binary(logits, steps)
        assert q.dtype == np.float32
        np.testing.assert_allclose(q, crf.infer(unaries, steps)[:, 1], atol=1e-5)
    assert np.abs(crf.infer_binary(logits, 5) - inside).max() > 0.1
    assert crf.infer_binary(logits[:0], 5).shape == (0, 14, 18)


def test_two_labels_refuse_what_is_wrong():
    image, _ = scene(4, 5, 2)
    crf = DenseCRF(image, KERNELS)
    with pytest.raises(ValueError, match=r"\(B, 4, 5\)"):
        crf.infer_binary(np.zeros((4, 5), np.float32), 1)
    with pytest.raises(ValueError, match="finite"):
        crf.infer_binary(np.full((1, 4, 5), np.inf, np.float32), 1)
