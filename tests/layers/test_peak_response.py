"""Peak back-propagation against autograd, for the networks that it is to serve."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from plain.prm import plain_responses
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from wsis.config import get_wsis_cfg
from wsis.layers import peak_response
from wsis.layers.peak_backward import PeakProgram
from wsis.layers.peak_response import normalize_response, peak_response_maps, record
from wsis.layers.peaks import peak_stimulation, upsample_maps
from wsis.modeling.backbones import TimmBackbone
from wsis.modeling.backbones.timm import create_body


def perturb(network):
    """Statistics and weights of batch norm other than 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval().double()  # no rounding that would flip a ReLU


def trunk(name, last):
    network = perturb(torchvision.models.get_model(name, weights=None))
    extractor = create_feature_extractor(network, [last])
    return lambda x: extractor(x)[last]


def highest_cells(maps, count):
    """Rows (image, channel, y, x) of the highest cells of each image."""
    rows = []
    for n, one in enumerate(maps):
        for place in one.flatten().topk(count).indices.tolist():
            rest, x = divmod(place, one.shape[2])
            rows.append([n, *divmod(rest, one.shape[1]), x])
    return torch.tensor(rows)


def by_autograd(network, images, peaks, factor=1):
    """Image by image, peak by peak."""
    return torch.cat(
        [
            plain_responses(
                lambda x: upsample_maps(network(x), factor),
                images[n : n + 1],
                F.pad(peaks[peaks[:, 0] == n, 1:], (1, 0)),
            )
            for n in peaks[:, 0].unique().tolist()
        ]
    )


def assert_same(ours, expected):
    assert ours.shape == expected.shape
    assert torch.isfinite(expected).all()
    difference = (ours - expected).abs().amax(dim=(1, 2)) / expected.amax(dim=(1, 2))
    assert float(difference.max()) < 2e-5
    torch.testing.assert_close(ours.sum(dim=(1, 2)), torch.ones(len(ours)).to(ours))


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", "layer4"),
        ("mobilenet_v2", "features.7"),
        ("vgg11_bn", "features.14"),
        ("densenet121", "features.transition1"),
        ("googlenet", "inception4a"),
        ("regnet_x_400mf", "trunk_output.block2"),
        ("squeezenet1_1", "features.7"),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_torchvision_trunks(name, last):
    torch.manual_seed(0)
    network = trunk(name, last)
    images = torch.randn(2, 3, 64, 88).double()
    with torch.no_grad():
        peaks = highest_cells(network(images), 2)
    tape = record(network, images)
    torch.testing.assert_close(tape.output, network(images).detach())
    assert_same(peak_response_maps(tape, peaks), by_autograd(network, images, peaks))


@pytest.mark.parametrize("size", [(65, 97), (64, 86)])
def test_the_trunk_of_photographs(size):
    """TensorFlow's padding, even and not, and ReLU6, which is at its limit in many cells."""
    torch.manual_seed(0)
    body = perturb(create_body("tf_efficientnet_lite0", output_stride=16))
    backbone = TimmBackbone(body, {"res5": "blocks.5"}).eval()
    images = torch.randn(2, 3, *size).double() * 2

    def network(x):
        return backbone(x)["res5"]

    with torch.no_grad():
        peaks = highest_cells(network(images), 2)
    tape = record(network, images)
    assert_same(peak_response_maps(tape, peaks), by_autograd(network, images, peaks))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "RunningStatsBN"])
def test_detectron2_resnet(norm):
    from detectron2.modeling import build_backbone

    cfg = get_wsis_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 1, 1)
    cfg.MODEL.WSIS_RESNETS.DILATIONS = (1, 1, 2, 1)
    torch.manual_seed(0)
    backbone = perturb(build_backbone(cfg))
    images = torch.randn(2, 3, 60, 81).double()

    def network(x):
        return backbone(x)["res4"]

    with torch.no_grad():
        maps = upsample_maps(network(images), 4)
    peaks = highest_cells(maps, 3)
    ours = peak_response_maps(record(network, images), peaks, factor=4)
    assert_same(ours, by_autograd(network, images, peaks, factor=4))


class Odd(nn.Module):
    """In-place changes, constants, signs, leaky and clamped limits, resampling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.third = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = F.leaky_relu(self.first(x * 2.0 - 0.5), 0.1)
        y = self.second(x)
        x = x + 1.0
        x.relu_()
        y = torch.sub(torch.add(y, y, alpha=0.5) + y, x / 2, alpha=0.75)
        y = (torch.ones_like(y) - (torch.full_like(y, 1.5) - y)).clamp(min=0.0, max=3.0)
        small = F.avg_pool2d(F.pad(y, (1, 2, 0, 1)), 2)
        large = F.interpolate(small, y.shape[2:], mode="bilinear", align_corners=False)
        near = F.interpolate(small, y.shape[2:], mode="nearest")[:, :, :, :]
        return self.third(
            torch.cat([large, near * torch.tensor([1.0, 2, 1, 2, 1, 1]).view(1, -1, 1, 1)], 1)
        )


def test_odd_operations():
    torch.manual_seed(3)
    network = Odd().eval()
    images = torch.randn(2, 3, 17, 22)
    with torch.no_grad():
        before = network(images)
    peaks = highest_cells(before, 3)
    tape = record(network, images)
    torch.testing.assert_close(tape.output, before)
    assert_same(peak_response_maps(tape, peaks), by_autograd(network, images, peaks))


def test_nothing_is_left_behind():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    image = torch.randn(1, 3, 12, 12)
    kept = image.clone()
    peak = torch.tensor([[0, 1, 3, 4]])
    with torch.no_grad():
        first = peak_response_maps(record(network, image), peak)
    with torch.inference_mode():
        second = peak_response_maps(record(network, image), peak)
    assert torch.equal(first, second.clone())
    assert torch.equal(image, kept)
    assert not image.requires_grad
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    network(image).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_groups_and_no_peaks():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    images = torch.randn(2, 3, 20, 24)
    tape = record(network.eval(), images)
    _, peaks = peak_stimulation(tape.output.detach())
    assert len(peaks) > 20
    together = peak_response_maps(tape, peaks)
    one_by_one = peak_response_maps(tape, peaks, memory=1)
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-7)
    none = peak_response_maps(tape, peaks[:0])
    assert none.shape == (0, 20, 24)
    torch.testing.assert_close(peak_response_maps(tape, peaks.flip(0)), together.flip(0))


def test_a_silent_peak_gives_zeros():
    network = nn.Conv2d(3, 1, 1).eval()
    nn.init.constant_(network.weight, -1.0)
    found = peak_response_maps(
        record(network, torch.rand(1, 3, 4, 4)), torch.tensor([[0, 0, 1, 1]])
    )
    assert not found.any()


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1)), "Silu"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)),
            "NativeGroupNorm",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2)), "transposed"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ChannelShuffle(2), nn.Conv2d(4, 2, 1)),
            "ChannelShuffle|View",
        ),
    ],
)
def test_other_networks_are_refused_by_name(network, name):
    tape = record(network.eval(), torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match=f"peaks cannot be traced back through .*({name})"):
        peak_response_maps(tape, torch.tensor([[0, 0, 1, 1]]))


def test_training_mode_gates_and_constants_are_refused():
    image, peak = torch.randn(1, 3, 8, 8), torch.tensor([[0, 0, 1, 1]])
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="training mode"):
        peak_response_maps(record(network.train(), image), peak)
    with pytest.raises(ValueError, match="gate"):
        peak_response_maps(record(lambda x: x * x.relu(), image), peak)
    with pytest.raises(ValueError, match="do not depend on the images"):
        peak_response_maps(record(lambda x: torch.ones(1, 1, 3, 3), image), peak)


def test_an_unsupported_side_branch_does_no_harm():
    layer = nn.Conv2d(3, 2, 1)
    nn.init.constant_(layer.weight, 1.0)

    seen = {}

    def network(x):
        made = layer(x)
        seen["gate"] = made.sigmoid()
        return made

    tape = record(network, torch.rand(1, 3, 5, 5))
    assert seen["gate"].requires_grad
    found = peak_response_maps(tape, torch.tensor([[0, 0, 2, 3]]))
    assert found[0, 2, 3] == 1


def refused(network, name):
    tape = record(network, torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match=name):
        PeakProgram(*tape)
    with pytest.raises(ValueError, match="peaks cannot be traced back through .*" + name):
        peak_response_maps(tape, torch.tensor([[0, 0, 2, 2]]))


def written_views(first, second):
    """Networks with a branch that goes through memory which is written to in parts."""

    def part_of_a_buffer(x):
        b = torch.zeros_like(x)
        b[:, :, 1:] = x[:, :, 1:]
        return first(x).relu() + second(b).relu()

    def whole_buffer_by_a_view(x):
        b = torch.zeros_like(x)
        b[:].add_(x)
        return first(x).relu() + second(b).relu()

    def part_of_a_map(x):
        y = first(x).relu()
        y[:, :, 1:] += second(x)[:, :, 1:]
        return y

    return part_of_a_buffer, whole_buffer_by_a_view, part_of_a_map


def test_writing_into_a_part_is_refused_by_name():
    torch.manual_seed(0)
    for network in written_views(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)):
        refused(network, "CopySlices")


def test_writing_into_a_whole_tensor_is_not():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 2, 1).double(), nn.Conv2d(3, 2, 1).double()

    def network(x):
        total = torch.zeros(1, 2, 8, 8).double()
        total += first(x).relu_()
        scaled = torch.full_like(x, 2.0)
        scaled.mul_(x)
        part = second(scaled)
        part.relu_()
        return total.add_(part)

    images = torch.randn(1, 3, 8, 8).double()
    peaks = torch.tensor([[0, 0, 2, 3], [0, 1, 5, 5]])
    ours = peak_response_maps(record(network, images), peaks)
    assert_same(ours, by_autograd(network, images, peaks))


def test_writing_over_what_a_convolution_saw_is_refused_by_name():
    first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def network(x):
        y = first(x).relu()
        made = second(y)
        y[:, :, 2:5].zero_()
        return made

    refused(network, "Convolution, whose arguments are written to afterwards")


def test_mixed_precision_around_makes_no_difference():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    image, peak = torch.randn(1, 3, 9, 9), torch.tensor([[0, 1, 3, 3]])
    plain = peak_response_maps(record(network, image), peak)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(peak_response_maps(record(network, image), peak), plain)


def test_no_tf32_while_peaks_are_traced(monkeypatch):
    convolutions = torch.backends.cudnn
    before, convolutions.allow_tf32 = convolutions.allow_tf32, True
    layer, seen = nn.Conv2d(3, 2, 1), []

    def network(x):
        seen.append(convolutions.allow_tf32)
        return layer(x)

    def reduce(gradient):
        seen.append(convolutions.allow_tf32)
        return normalize_response(gradient)

    monkeypatch.setattr(peak_response, "normalize_response", reduce)
    try:
        tape = record(network, torch.rand(1, 3, 5, 5))
        peak_response_maps(tape, torch.tensor([[0, 0, 2, 3]]))
        assert seen == [False, False]
        assert convolutions.allow_tf32
    finally:
        convolutions.allow_tf32 = before


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small"])
def test_refusals_of_whole_networks(name):
    trunk = torchvision.models.get_model(name, weights=None).eval()
    trunk = getattr(trunk, "features", None) or nn.Sequential(*list(trunk.children())[:-2])
    tape = record(trunk, torch.zeros(1, 3, 32, 32))
    if name == "mobilenet_v3_small":
        with pytest.raises(ValueError, match="Hardswish"):
            PeakProgram(*tape)
    else:
        PeakProgram(*tape)
