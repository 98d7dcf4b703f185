import pytest
import torch
from plain.prm import PeakRule
from torch import nn
from wsis.layers.peak_backward import PeakProgram, Window
from wsis.layers.peak_response import peak_response_maps, record
from wsis.layers.peaks import confident_peaks, peak_stimulation, upsample_maps

from tests.golden import fill
from tests.golden.conftest import assert_close

TOLERANCE = 1e-5  # of the maximum


@pytest.fixture(scope="module")
def convolutions(golden, arrays):
    """(name, layer) of every single convolution."""
    layers = []
    for case in golden.text(arrays["conv_cases"]):
        case = dict(case)
        name, shape = f"conv{case.pop('i')}", case.pop("weight_shape")
        kernel = case.pop("kernel")
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in case.items()}
        kernel = tuple(kernel) if isinstance(kernel, list) else kernel
        layer = nn.Conv2d(sizes.pop("cin"), sizes.pop("cout"), kernel, **sizes)
        assert list(layer.weight.shape) == shape
        state = {k: tuple(v.shape) for k, v in layer.state_dict(prefix=f"{name}.").items()}
        drawn = fill.state_dict(state, golden.prefix)
        layer.load_state_dict({k.rpartition(".")[2]: v for k, v in drawn.items()})
        layers.append((name, layer))
    return layers


@pytest.fixture(scope="module")
def network(golden, arrays):
    weights = golden.weights(arrays)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(12, 4, 1),
    )
    network.load_state_dict(weights)
    return network.eval()


def test_single_convolutions(convolutions, arrays):
    for name, layer in convolutions:
        tape = record(layer, torch.from_numpy(arrays[f"{name}_in"]))
        out = arrays[f"{name}_out"]
        assert_close(tape.output.detach(), out, TOLERANCE * abs(out).max(), name)
        gradient = torch.from_numpy(arrays[f"{name}_gout"])
        program = PeakProgram(tape.output, tape.images, over_batch=True)
        ours = torch.cat(
            [program.run(Window(one[None], (0, 0)), i) for i, one in enumerate(gradient)]
        )
        expected = arrays[f"{name}_gin"]
        assert_close(ours, expected, TOLERANCE * abs(expected).max(), name)


def test_single_convolutions_by_autograd(convolutions, arrays):
    for name, layer in convolutions:
        image = torch.from_numpy(arrays[f"{name}_in"]).requires_grad_()
        with PeakRule():
            out = layer(image)
        out.backward(torch.from_numpy(arrays[f"{name}_gout"]))
        expected = arrays[f"{name}_gin"]
        assert_close(image.grad, expected, TOLERANCE * abs(expected).max(), name)
        assert layer.weight.grad is None


def factors(arrays):
    return sorted(int(k[1:].removesuffix("_crm")) for k in arrays if k.endswith("_crm"))


def test_small_network(network, arrays):
    tape = record(network, torch.from_numpy(arrays["input"]))
    response = arrays["response"]
    assert_close(tape.output.detach(), response, TOLERANCE * abs(response).max(), "response")
    assert factors(arrays)
    for factor in factors(arrays):
        maps = upsample_maps(tape.output.detach(), factor)
        scores, peaks = peak_stimulation(maps, window=3, peak_filter="median")
        found = confident_peaks(maps, scores, peaks, class_threshold=0, peak_threshold=0.0)
        scale = abs(arrays[f"f{factor}_crm"]).max()
        assert_close(maps, arrays[f"f{factor}_crm"], TOLERANCE * scale, f"maps x {factor}")
        assert_close(scores, arrays[f"f{factor}_agg"], TOLERANCE * scale, f"scores x {factor}")
        assert found.tolist() == arrays[f"f{factor}_peaks"].tolist()
        expected = arrays[f"f{factor}_prm"]
        made = peak_response_maps(tape, found, factor=factor)[: len(expected)]
        for p, one in enumerate(expected):
            assert_close(made[p], one, TOLERANCE * one.max(), f"peak {p} x {factor}")
