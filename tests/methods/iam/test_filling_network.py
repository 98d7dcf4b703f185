import pytest
import torch
from wsis.errors import UsageError
from wsis.methods.iam.filling_network import FillingNetwork

CHANNELS = (8, 12, 16)


def network(**options):
    torch.manual_seed(0)
    options = {"channels": 4, "num_iterations": 6, "pyramid_width": 8} | options
    return FillingNetwork(CHANNELS, **options)


def problem(size=(64, 48), images=2, peaks=5):
    generator = torch.Generator().manual_seed(1)
    responses = torch.rand(peaks, *size, generator=generator)
    responses /= responses.sum(dim=(1, 2), keepdim=True)
    shapes = [[-(-side // stride) for side in size] for stride in (4, 8, 16)]
    features = [
        torch.rand(images, channels, *shape, generator=generator)
        for channels, shape in zip(CHANNELS, shapes, strict=True)
    ]
    return responses, torch.arange(peaks) % images, features


@pytest.mark.parametrize("size", [(64, 48), (61, 50), (33, 7), (5, 4)])
def test_any_size(size):
    responses, index, features = problem(size)
    for model in (network().train(), network().eval()):
        out = model(responses, index, features)
        assert out.shape == responses.shape
        assert bool(torch.isfinite(out).all())


def test_the_number_of_weights_of_the_original():
    count = sum(p.numel() for p in FillingNetwork((256, 512, 1024)).parameters())
    assert count == 1_405_715


def test_running_statistics_do_not_mix_peaks():
    responses, index, features = problem()
    model = network().train()
    for _ in range(3):
        model(responses, index, features)  # running statistics other than the initial ones
    model.eval()
    with torch.no_grad():
        together = model(responses, index, features)
        for peak in range(len(responses)):
            own = slice(peak, peak + 1)
            image = int(index[peak])
            alone = model(responses[own], index[own] * 0, [f[image : image + 1] for f in features])
            torch.testing.assert_close(alone, together[own], rtol=0, atol=1e-5)


def test_batch_statistics_mix_peaks_and_change_nothing():
    responses, index, features = problem()
    model = network(statistics="batch").eval().double()
    responses, features = responses.double(), [f.double() for f in features]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        together = model(responses, index, features)
        alone = model(responses[:1], index[:1], features)
    assert (together[:1] - alone).abs().max() > 1e-4
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():  # what the batch gives is what training gives
        training = model.train()(responses, index, features)
    torch.testing.assert_close(training, together, rtol=0, atol=1e-9)


def test_images_without_a_peak_take_no_part():
    responses, index, features = problem(images=2)
    more = [torch.cat([f[:1], 100 * torch.ones_like(f[:1]), f[1:]]) for f in features]
    model = network(statistics="batch").eval()
    with torch.no_grad():
        out = model(responses, index, features)
        same = model(responses, index * 2, more)
    torch.testing.assert_close(same, out, rtol=0, atol=1e-6)


def test_no_peaks():
    responses, index, features = problem()
    assert network().eval()(responses[:0], index[:0], features).shape == (0, 64, 48)


def test_many_peaks_in_pieces():
    responses, index, features = problem((16, 16), peaks=19)
    model = network().eval()
    with torch.no_grad():
        whole = model(responses, index, features)
        one = model(responses[18:], index[18:], features)
    torch.testing.assert_close(one, whole[18:], rtol=0, atol=1e-5)


def test_every_weight_gets_a_gradient():
    responses, index, features = problem()
    model = network().train()
    model(responses, index, features).sigmoid().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize(
    "options", [{"statistics": "mine"}, {"kernel_size": 4}, {"kernel_size": 2}]
)
def test_bad_options(options):
    with pytest.raises(UsageError, match="STATISTICS|odd"):
        network(**options)
    with pytest.raises(UsageError, match="three IN_FEATURES"):
        FillingNetwork((8, 8))


def test_mixed_precision_does_not_erase_the_responses():
    responses, index, features = problem()
    model = network().train()
    expected = model.encode(responses)
    plain = model(responses, index, features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode(responses), expected)
        mixed = model(responses, index, features)
    assert mixed.dtype == torch.float32
    assert model.encode(responses.half()).dtype == torch.float32
    shift = (mixed - plain).abs().mean() / plain.std()
    assert shift < 0.1


def test_weights_of_half_features_sum_to_one():
    _, _, features = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = network().train().weights_of(features)
    sums = weights.sum(dim=2)
    assert bool((((sums - 1).abs() < 1e-5) | (sums == 0)).all())
