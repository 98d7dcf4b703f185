import torch
from wsis.layers.peaks import peak_stimulation, upsample_maps

from tests.golden.conftest import assert_close


def peak_filter(case):
    """The filter as the layer takes it: a name, or a number."""
    given = case["filter"]
    if given is None or given in ("median", "mean", "max"):
        return given or "none"
    try:
        return float(given)
    except ValueError:
        return "none"


def test_peaks_scores_and_gradients(golden, arrays):
    cases = golden.text(arrays["cases"])
    assert cases
    for case in cases:
        name = case["name"]
        maps = torch.from_numpy(arrays[case["input"]]).requires_grad_()
        scores, peaks = peak_stimulation(
            maps, window=case["win"], peak_filter=peak_filter(case), gradient="undivided"
        )
        assert peaks.tolist() == arrays[f"{name}_peaks"].tolist(), name
        torch.testing.assert_close(
            scores.detach(),
            torch.from_numpy(arrays[f"{name}_agg"]),
            rtol=0,
            atol=1e-6,
            equal_nan=True,
        )
        scores.backward(torch.from_numpy(arrays[f"{name}_gout"]))
        assert_close(maps.grad, arrays[f"{name}_gin"], 0, name)


def test_upsampling(arrays):
    low = torch.from_numpy(arrays["in_e_low"])
    factor = arrays["in_e"].shape[-1] // low.shape[-1]
    assert_close(upsample_maps(low, factor), arrays["in_e"], 1e-5)
