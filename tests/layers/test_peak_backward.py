import pytest
import torch
import torch.nn.functional as F
from wsis.layers.peak_backward import PeakProgram, Window, add_up, convolve_back
from wsis.layers.peak_response import peak_seeds
from wsis.layers.peaks import upsample_maps


def whole(window, size):
    """A window as whole maps, by a loop over cells."""
    count, channels, height, width = window.data.shape
    maps = torch.zeros(count, channels, *size)
    for i in range(height):
        for j in range(width):
            y, x = (window.corner[a] + (i, j)[a] for a in (0, 1))
            if 0 <= y < size[0] and 0 <= x < size[1]:
                maps[:, :, y, x] += window.data[:, :, i, j]
    return maps


def random_window(size, corner, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Window(torch.rand(3, channels, *size, generator=generator), corner)


@pytest.mark.parametrize("corner", [(0, 0), (-3, -4), (-1, 1), (2, 3), (-20, 0), (0, 30)])
def test_windows_add_up(corner):
    size, image = (9, 11), 1
    factor = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(2))
    channel = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1)
    one, other = random_window((4, 4), corner), random_window((3, 2), (6, 9), seed=1)
    kept = one.data.clone(), other.data.clone()
    expected = whole(one, size) * factor[1] + whole(other, size) * channel + whole(other, size)
    made = add_up([(one, factor), (other, channel), (other, None)], size, image)
    torch.testing.assert_close(whole(made, size), expected)
    height, width = made.data.shape[2:]
    assert 0 <= made.corner[0] <= 9 - height
    assert 0 <= made.corner[1] <= 11 - width
    for parts in ([(one, None)], [(one, None), (other, None)], [(other, None), (one, None)]):
        made = add_up(parts, size, image)
        expected = sum(whole(window, size) for window, _ in parts)
        torch.testing.assert_close(whole(made, size), expected)
        made = add_up(parts, size, image, whole=True)
        torch.testing.assert_close(made.data, expected)
    assert torch.equal(one.data, kept[0])
    assert torch.equal(other.data, kept[1])


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
def test_convolutions_backwards_against_autograd(geometry):
    generator = torch.Generator().manual_seed(0)
    groups = geometry.get("groups", 1)
    weight = torch.rand(6, 4 // groups, *geometry["kernel"], generator=generator)
    image = torch.rand(3, 4, 11, 13, generator=generator).requires_grad_()
    options = {
        k: geometry.get(k, (d, d)) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    options["groups"] = groups
    made = F.conv2d(image, weight, **options)
    size = tuple(made.shape[2:])
    for corner in ((0, 0), (size[0] - 2, size[1] - 1), (1, 2)):
        small = random_window((2, 1), corner, channels=6)
        for window in (small, Window(whole(small, size), (0, 0))):
            (expected,) = torch.autograd.grad(made, image, whole(small, size), retain_graph=True)
            back = convolve_back(weight, options, window, 0)
            torch.testing.assert_close(whole(back, (11, 13)), expected)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_unpooling_against_autograd(kernel, stride, padding):
    image = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made = F.max_pool2d(image, kernel, stride, padding)
    window = random_window((2, 3), (1, 1), channels=3)
    again = F.max_pool2d(image[[1] * 3], kernel, stride, padding)
    (expected,) = torch.autograd.grad(again, image, whole(window, made.shape[2:]))
    program = PeakProgram(made, image)
    torch.testing.assert_close(program.run(window, 1).sum(dim=0), expected[1])


@pytest.mark.parametrize("factor", [1, 3, 8])
@pytest.mark.parametrize("size", [(4, 5), (1, 3)])
def test_seeds_against_autograd(factor, size):
    maps = torch.zeros(2, 3, *size, requires_grad=True)
    enlarged = upsample_maps(maps, factor)
    last = [side * factor - 1 for side in size]
    peaks = torch.tensor([[1, 2, 0, 0], [1, 0, *last], [1, 2, last[0] // 2, last[1] // 2]])
    seeds = whole(peak_seeds(peaks, maps.detach(), factor=factor), size)
    for seed, (image, *place) in zip(seeds, peaks.tolist(), strict=True):
        (expected,) = torch.autograd.grad(enlarged[(image, *place)], maps, retain_graph=True)
        torch.testing.assert_close(seed, expected[1])
