import pytest
import torch
from wsis.layers.peaks import (
    confident_peaks,
    find_peaks,
    local_maxima,
    peak_stimulation,
    upsample_maps,
)


def plain_maxima(maps, window):
    """One cell after the other; of equal values the first of the window counts."""
    found = torch.zeros_like(maps, dtype=torch.bool)
    height, width = maps.shape[-2:]
    reach = window // 2
    for n, c, y, x in torch.cartesian_prod(*(torch.arange(s) for s in maps.shape)).tolist():
        around = [
            (-float(maps[n, c, v, u]), v, u)
            for v in range(max(0, y - reach), min(height, y + reach + 1))
            for u in range(max(0, x - reach), min(width, x + reach + 1))
        ]
        found[n, c, y, x] = min(around)[1:] == (y, x)
    return found


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 5)])
def test_maxima_against_a_loop(window, size):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 3, (2, 2, *size), generator=generator).float()
    assert torch.equal(local_maxima(maps, window=window), plain_maxima(maps, window))


def test_hand_worked():
    maps = torch.tensor([[[[1.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]]]])
    scores, peaks = peak_stimulation(maps, peak_filter="none")
    assert peaks.tolist() == [[0, 0, 0, 0], [0, 0, 0, 3], [0, 0, 2, 0]]
    assert scores.item() == 3
    scores, peaks = peak_stimulation(maps, peak_filter=2.0)
    assert peaks.tolist() == [[0, 0, 0, 3], [0, 0, 2, 0]]
    assert scores.item() == 4
    for name, count in (("max", 1), ("mean", 3), ("median", 3)):
        assert find_peaks(maps, peak_filter=name).sum() == count, name


def test_a_class_without_peaks_is_nan_and_has_no_gradient():
    maps = torch.rand(1, 2, 4, 4, requires_grad=True)
    for gradient in ("undivided", "mean"):
        scores, peaks = peak_stimulation(maps, peak_filter=9.0, gradient=gradient)
        assert scores.isnan().all()
        assert peaks.shape == (0, 4)
        (slope,) = torch.autograd.grad(scores.sum(), maps)
        assert not slope[0].any()


def test_the_mean_gradient_is_the_true_one():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 2, 4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    torch.autograd.gradcheck(lambda x: peak_stimulation(x, gradient="mean")[0], maps)
    undivided, mean = (
        torch.autograd.grad(peak_stimulation(maps, gradient=g)[0].sum(), maps)[0]
        for g in ("undivided", "mean")
    )
    counts = undivided.sum(dim=(2, 3), keepdim=True)
    assert counts.max() > 1
    torch.testing.assert_close(mean * counts, undivided)


def test_flipped_maps_have_flipped_peaks():
    maps = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(2))
    assert torch.equal(find_peaks(maps.flip(-1)), find_peaks(maps).flip(-1))


def test_thresholds():
    maps = torch.zeros(1, 3, 2, 2)
    maps[0, :, 0, 0] = torch.tensor([30.0, 31.0, 40.0])
    peaks = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]])
    scores = torch.tensor([[5.0, 0.0, float("nan")]])
    kept = confident_peaks(maps, scores, peaks, class_threshold=0.0, peak_threshold=30.0)
    assert kept.tolist() == [[0, 1, 0, 0]]
    assert confident_peaks(maps, scores, peaks[:0]).shape == (0, 4)


def test_the_highest_peak_of_a_certain_class_counts_at_any_height():
    maps = torch.zeros(1, 3, 1, 5)
    maps[0, :, 0] = torch.tensor(
        [[-3.0, -4.0, -2.0, -4.0, -3.0], [-3.0, -4.0, -2.0, -4.0, -3.0], [40.0, 0, 31, 0, 1]]
    )
    _, peaks = peak_stimulation(maps, peak_filter="none")
    scores = torch.tensor([[float("inf"), 5.0, float("inf")]])
    kept = confident_peaks(maps, scores, peaks, class_threshold=0.0, peak_threshold=30.0)
    assert kept.tolist() == [[0, 0, 0, 2], [0, 2, 0, 0], [0, 2, 0, 2]]


def test_upsampling_keeps_corners():
    maps = torch.rand(1, 2, 3, 4)
    large = upsample_maps(maps, 4)
    assert large.shape == (1, 2, 12, 16)
    torch.testing.assert_close(
        large[..., [0, -1], :][..., [0, -1]], maps[..., [0, -1], :][..., [0, -1]]
    )
    assert upsample_maps(maps, 1) is maps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "odd number"),
        ({"window": 1}, "odd number"),
        ({"peak_filter": "most"}, "peak filter 'most'"),
        ({"gradient": "half"}, "gradient of peak stimulation"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        peak_stimulation(torch.rand(1, 1, 3, 3), **options)
    with pytest.raises(ValueError, match="factor"):
        upsample_maps(torch.rand(1, 1, 3, 3), 0)


def test_half_maps_do_not_overflow():
    maps = torch.zeros(1, 1, 9, 81).half()
    maps[..., ::2, ::2] = 3000.0  # 205 peaks: their sum is beyond half precision
    maps.requires_grad_()
    scores, peaks = peak_stimulation(maps, peak_filter="mean", gradient="mean")
    assert len(peaks) == 205
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[3000.0]]
    scores.sum().backward()
    assert maps.grad.dtype == torch.float16
    assert maps.grad.sum() == pytest.approx(1, rel=1e-2)
