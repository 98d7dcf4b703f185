"""Filling iterations: worked by hand, against unfolding, their gradients, bad input."""

import numpy as np
import pytest
import torch
from plain.iam import plain_fill
from torch.utils._python_dispatch import TorchDispatchMode
from wsis.methods.iam import filling
from wsis.methods.iam.filling import fill, filling_weights


def problem(seed, *, peaks=5, images=2, channels=3, side=3, size=(7, 9)):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    maps = torch.rand(peaks, channels, *size, **options)
    weights = torch.rand(images, channels, side * side, *size, **options)
    weights = weights / weights.sum(dim=2, keepdim=True)
    index = torch.randint(images, (peaks,), generator=generator)
    return maps.requires_grad_(), weights.requires_grad_(), index


def test_one_step_by_hand():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    weights = torch.zeros(1, 1, 9, 2, 2)
    weights[0, 0, 5] = 0.5  # the right neighbour
    weights[0, 0, 1] = 0.25  # the one above
    once = fill(maps, weights, torch.tensor([0]), num_iterations=1)
    assert once.tolist() == [[[[1.0, 0.0], [2.25, 0.5]]]]
    twice = fill(maps, weights, torch.tensor([0]), num_iterations=2)
    assert twice.tolist() == [[[[0.0, 0.0], [0.5, 0.0]]]]


def test_weights_by_hand():
    features = torch.zeros(1, 18, 1, 2)
    features[0, 9, 0, 0], features[0, 13, 0, 0] = 1, 3  # channel 1, positions 0 and 4
    weights = filling_weights(features, 3)
    assert weights.shape == (1, 2, 9, 1, 2)
    assert weights[0, 1, :, 0, 0].tolist() == [0.25, 0, 0, 0, 0.75, 0, 0, 0, 0]
    assert weights.count_nonzero() == 2  # windows of zeros stay zero


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("steps", [0, 1, 4, 7])
@pytest.mark.parametrize("size", [(7, 9), (1, 6), (5, 1)])
def test_against_unfolding(side, steps, size):
    maps, weights, index = problem(side + steps, side=side, size=size)
    ours = fill(maps, weights, index, num_iterations=steps)
    plain = plain_fill(maps, weights, index, num_iterations=steps)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-13)
    upstream = torch.rand_like(plain)
    if steps == 0:
        (grad,) = torch.autograd.grad(ours, maps, upstream)
        assert torch.equal(grad, upstream)
        return
    found = torch.autograd.grad(ours, (maps, weights), upstream)
    expected = torch.autograd.grad(plain, (maps, weights), upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_gradcheck():
    maps, weights, index = problem(0, peaks=2, channels=2, size=(3, 4))
    assert torch.autograd.gradcheck(
        lambda m, w: fill(m, w, index, num_iterations=3), (maps, weights)
    )


def test_only_the_maps_need_a_gradient():
    maps, weights, index = problem(1)
    ours = fill(maps, weights.detach(), index, num_iterations=5).sum()
    plain = plain_fill(maps, weights.detach(), index, num_iterations=5).sum()
    grads = [torch.autograd.grad(value, maps)[0] for value in (ours, plain)]
    torch.testing.assert_close(*grads)


def test_pieces_do_not_change_the_result(monkeypatch):
    maps, weights, index = problem(2, peaks=7, images=3, channels=5)

    def run():
        result = fill(maps, weights, index, num_iterations=6)
        return result, *torch.autograd.grad(result.square().sum(), (maps, weights))

    whole = run()
    monkeypatch.setattr(filling, "_CPU_CHUNK", 1)  # one channel at a time
    monkeypatch.setattr(filling, "_CPU_STATES", 1)  # one peak at a time
    for a, b in zip(run(), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


class Kernels(TorchDispatchMode):
    """Counts operations that compute: views of tensors are none."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.is_mutable or not func.is_view
        return func(*args, **(kwargs or {}))


def test_sums_of_some_peaks_at_a_time(monkeypatch):
    maps, weights, index = problem(8, peaks=5, images=1)

    def run():
        result = fill(maps, weights, index, num_iterations=3)
        return torch.autograd.grad(result.square().sum(), (maps, weights))

    whole = run()
    for peaks in (1, 2, 4):  # lines of 3 channels of 8 x 10 cells
        monkeypatch.setattr(filling, "_CPU_SUMS", peaks * 9 * 3 * 80 * 8)
        for a, b in zip(run(), whole, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_large_limits_make_few_operations(monkeypatch):
    """A GPU has them: as many operations for ten peaks as for one, and few for an iteration."""
    for name in ("CHUNK", "STATES", "SUMS"):
        monkeypatch.setattr(filling, f"_CPU_{name}", 1 << 30)

    def kernels(peaks, steps):
        maps, weights, index = problem(7, peaks=peaks, images=1, channels=4)
        result = fill(maps, weights, index, num_iterations=steps)
        with Kernels() as watched, torch.no_grad():
            result.grad_fn.apply(torch.ones_like(result))
        return watched.count

    assert kernels(10, 5) == kernels(1, 5) < 150
    # of an iteration: 9 to fill again, 9 to spread the gradient, 1 for the weights
    assert kernels(10, 6) - kernels(10, 5) == 19


def test_a_gpu_takes_the_peaks_of_an_image_at_once():
    assert filling._GPU_STATES >= 8 * 16 * 112 * 112 * 112 * 4
    assert filling._GPU_SUMS >= 9 * 8 * 16 * 113 * 113 * 4


def test_peaks_are_independent_and_their_order_is_free():
    maps, weights, index = problem(3)
    whole = fill(maps, weights, index, num_iterations=9)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(fill(maps[order], weights, index[order], num_iterations=9), whole[order])
    for peak in range(len(maps)):
        one = slice(peak, peak + 1)
        alone = fill(maps[one], weights, index[one], num_iterations=9)
        torch.testing.assert_close(alone, whole[one], rtol=0, atol=1e-13)


def test_positive_weights_stay_within_the_range_in_the_middle():
    maps, weights, index = problem(4, size=(21, 21))
    filled = fill(maps, weights, index, num_iterations=5)[..., 5:-5, 5:-5]
    assert maps.min() <= filled.min()
    assert filled.max() <= maps.max()
    assert np.ptp(filled.detach()) < np.ptp(maps.detach())


def test_no_peaks_and_half_precision():
    maps, weights, _ = problem(5)
    none = fill(maps[:0], weights, torch.zeros(0, dtype=torch.int64), num_iterations=3)
    assert none.shape == (0, *maps.shape[1:])
    index = torch.zeros(len(maps), dtype=torch.int64)
    half = fill(maps.half(), weights.half(), index, num_iterations=50)
    assert half.dtype == torch.float32
    full = fill(maps.half().float(), weights.half().float(), index, num_iterations=50)
    assert torch.equal(half, full)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda m, w, i: (m[0], w, i, 1),
        lambda m, w, i: (m, w[:, :, :4], i, 1),
        lambda m, w, i: (m, w[:, :1], i, 1),
        lambda m, w, i: (m, w[..., :-1], i, 1),
        lambda m, w, i: (m, w, i[:-1], 1),
        lambda m, w, i: (m, w, i + 2, 1),
        lambda m, w, i: (m, w, i, -1),
    ],
)
def test_bad_input(break_it):
    *arguments, steps = break_it(*problem(6))
    with pytest.raises(ValueError, match="maps|image_index|odd"):
        fill(*arguments, num_iterations=steps)


def test_bad_windows():
    with pytest.raises(ValueError, match="odd"):
        filling_weights(torch.rand(1, 16, 2, 2), 4)
    with pytest.raises(ValueError, match="features"):
        filling_weights(torch.rand(1, 16, 2, 2), 3)
