import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wsis.layers.peak_windows import (
    Resample,
    Term,
    TransposedConvolution,
    Unpool,
    Windows,
    gather,
)


def whole(windows, size):
    """Windows as whole maps, by a loop over cells."""
    count, channels, height, width = windows.data.shape
    maps = torch.zeros(count, channels, *size)
    for p, (top, left) in enumerate(windows.corners):
        for i in range(height):
            for j in range(width):
                y, x = top + i * windows.step[0], left + j * windows.step[1]
                if 0 <= y < size[0] and 0 <= x < size[1]:
                    maps[p, :, y, x] += windows.data[p, :, i, j]
    return maps


def random_windows(size, corners, channels=2, seed=0):
    data = torch.rand(len(corners), channels, *size, generator=torch.Generator().manual_seed(seed))
    return Windows(data, corners)


def test_gather_adds_what_overlaps_and_cuts_at_the_border():
    size = (6, 7)
    first = random_windows((2, 3), [(-1, 0), (4, 5)])
    second = random_windows((4, 4), [(0, 2), (3, -2)], seed=1)
    factor = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(2))
    mask = (factor[:, :1] > 0.5).float()
    images = [2, 0]
    parts = [
        (first, Term(0, factor)),
        (second, Term(1, None, -1.0)),
        (second, Term(1, mask)),
        (first, Term(0, torch.tensor([2.0, 3.0]).view(1, 2, 1, 1))),
    ]
    made = gather(parts, size, images)
    expected = (
        whole(first, size) * factor[images]
        - whole(second, size)
        + whole(second, size) * mask[images]
        + whole(first, size) * torch.tensor([2.0, 3.0]).view(1, 2, 1, 1)
    )
    torch.testing.assert_close(whole(made, size), expected)
    height, width = made.data.shape[2:]
    assert all(0 <= y <= 6 - height and 0 <= x <= 7 - width for y, x in made.corners)
    assert gather(parts, size, images, whole=True).data.shape[2:] == size
    assert gather([(second, Term(0))], (20, 20), images) is not second  # reaches over the border


def test_the_sum_may_take_the_place_of_a_part():
    size, factor = (5, 6), torch.full((1, 2, 5, 6), 3.0)
    for corner, extent, reused in (
        ((0, 0), (5, 6), True),
        ((1, 2), (3, 4), True),
        ((-1, 0), (3, 4), False),
    ):
        one, other = (random_windows(extent, [corner], seed=s) for s in (0, 1))
        expected = whole(one, size) * factor + whole(other, size)
        made = gather([(one, Term(4, factor)), (other, Term(5))], size, [0], reusable={4})
        torch.testing.assert_close(whole(made, size), expected)
        assert (made.data.data_ptr() == one.data.data_ptr()) == reused
        kept = other.data.clone()
        gather([(other, Term(5, factor))], size, [0], reusable={4})
        assert torch.equal(other.data, kept)


@pytest.mark.parametrize("corner", [(0, 0), (-3, -4), (-1, 1), (2, 3), (-20, 0), (0, 30)])
@pytest.mark.parametrize("step", [(2, 2), (3, 1)])
def test_gather_of_windows_with_gaps(corner, step):
    size = (9, 11)
    gaps = Windows(random_windows((4, 4), [corner, (1, 1)]).data, [corner, (1, 1)], step)
    plain = random_windows((3, 2), [(6, 9), (0, 0)], seed=1)
    factor = torch.rand(1, 2, *size)
    parts = [(gaps, Term(0, factor)), (plain, Term(1))]
    made = gather(parts, size, [0, 0])
    torch.testing.assert_close(whole(made, size), whole(gaps, size) * factor + whole(plain, size))
    alone = gather(parts[:1], size, [0, 0])
    torch.testing.assert_close(whole(alone, size), whole(gaps, size) * factor)


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel": (3, 3), "padding": (1, 1)},
        {"kernel": (3, 3), "padding": (1, 1), "stride": (2, 2)},
        {"kernel": (1, 1), "stride": (2, 2)},
        {"kernel": (7, 7), "padding": (3, 3), "stride": (2, 2)},
        {"kernel": (3, 1), "padding": (2, 0), "dilation": (2, 1), "groups": 2},
        {"kernel": (2, 2), "stride": (3, 2)},
        {"kernel": (4, 4), "padding": (1, 1), "stride": (2, 2)},
        {"kernel": (2, 2), "stride": (2, 2)},
        {"kernel": (5, 5), "padding": (2, 2), "stride": (3, 3)},
        {"kernel": (1, 1), "padding": (2, 1)},
        {"kernel": (3, 3), "padding": (4, 4), "dilation": (4, 4)},
    ],
)
def test_transposed_convolution_against_autograd(geometry):
    generator = torch.Generator().manual_seed(0)
    groups = geometry.get("groups", 1)
    weight = torch.rand(6, 4 // groups, *geometry["kernel"], generator=generator)
    image = torch.rand(2, 4, 11, 13, generator=generator).requires_grad_()
    options = {
        k: geometry.get(k, (d, d)) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    made = F.conv2d(image, weight, groups=groups, **options)
    size = tuple(made.shape[2:])
    back = TransposedConvolution(weight, (11, 13), size, groups=groups, **options)
    small = random_windows((2, 1), [(0, 0), (size[0] - 2, size[1] - 1)], channels=6)
    for windows in (small, Windows(whole(small, size), [(0, 0)] * 2)):
        (expected,) = torch.autograd.grad(made, image, whole(small, size), retain_graph=True)
        torch.testing.assert_close(whole(back(windows, [0, 1]), (11, 13)), expected)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_unpooling_against_autograd(kernel, stride, padding):
    image = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made, indices = F.max_pool2d(image, kernel, stride, padding, return_indices=True)
    size = tuple(made.shape[2:])
    back = Unpool(indices, (9, 8), (stride,) * 2, (padding,) * 2, (kernel,) * 2)
    windows = random_windows((2, 3), [(0, 0), (size[0] - 2, size[1] - 3)], channels=3)
    images = [1, 1]
    picked = image[images]
    again = F.max_pool2d(picked, kernel, stride, padding)
    (expected,) = torch.autograd.grad(again, picked, whole(windows, size))
    torch.testing.assert_close(whole(back(windows, images), (9, 8)), expected)


def test_resampling_refuses_what_mixes_images():
    windows = random_windows((2, 2), [(0, 0)])
    back = Resample(lambda x: x.flatten(0, 1)[None], (), (1, 2, 2, 2), (2, 2))
    two = Windows(torch.rand(2, 2, 2, 2), [(0, 0)] * 2)
    assert back(windows, [0]).data.shape == (1, 2, 2, 2)
    with pytest.raises(ValueError, match="mixes images"):
        back(two, [0, 0])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (2, 2), (3, 1)])
def test_unpooling_adds_in_one_order(kernel, stride, monkeypatch):
    """No scatter names a pixel twice: on a GPU the order of a sum would be anybody's guess."""
    image = torch.zeros(1, 2, 9, 8)
    image[:, :, 4, 4] = 1  # the maximum of all windows that reach it
    made, indices = F.max_pool2d(image, kernel, stride, return_indices=True)
    seen, scatter = [], Tensor.scatter_add_

    def watched(self, dim, index, source):
        seen.append(len(index) == len(index.unique()))
        return scatter(self, dim, index, source)

    monkeypatch.setattr(Tensor, "scatter_add_", watched)
    back = Unpool(indices, (9, 8), (stride,) * 2, (0, 0), (kernel,) * 2)
    back(Windows(torch.ones_like(made), [(0, 0)]), [0])
    assert seen
    assert all(seen)
