import pytest
import torch
from torch import nn
from wsis.layers.peaks import upsample_maps
from wsis.modeling.backbones import TimmBackbone
from wsis.modeling.backbones.timm import create_body
from wsis.modeling.peak_responses import MapFrame


def padded():
    """Stride 8 by padded convolutions and a padded pooling, as in a ResNet."""
    return nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 2, 3, 2, 1))


def vgg():
    backbone = TimmBackbone(create_body("vgg11"), {"res3": "res3"})
    assert backbone.first_cell(128, 8) == 3.5
    return lambda image: backbone(image)["res3"]


@pytest.mark.parametrize(("make", "first"), [(padded, 0.0), (vgg, 3.5)])
def test_a_cell_lies_in_the_middle_of_what_it_sees(make, first):
    torch.manual_seed(0)
    network, side, cell = make(), 128, (7, 9)
    image = torch.rand(1, 3, side, side).requires_grad_()
    maps = network(image)
    # all gradients of both signs, so that the extent of what is seen shows
    maps[0, :, cell[0], cell[1]].sum().backward()
    seen = image.grad[0].abs().sum(dim=0) > 0
    middle = [
        (seen.any(dim=1 - axis).nonzero().min() + seen.any(dim=1 - axis).nonzero().max()) / 2
        for axis in (0, 1)
    ]
    frame = MapFrame((side, side), side // maps.shape[2], 1, (first, first))
    (place,) = frame.places(torch.tensor([cell]), tuple(maps.shape[2:])) * side - 0.5
    # where a pooling takes its maximum from moves the seen extent by less than its window
    assert (place - torch.tensor(middle)).abs().max() <= 1.5


@pytest.mark.parametrize("factor", [1, 8])
@pytest.mark.parametrize("first", [(0.0, 0.0), (3.5, 3.5), (1.0, 7.0)])
def test_maps_and_places_agree(factor, first):
    size, stride = (90, 122), 8
    maps = torch.zeros(1, 1, 12, 16)
    maps[0, 0, 5, 11] = 1.0
    large = upsample_maps(maps, factor)[0]
    frame = MapFrame(size, stride, factor, first)
    peak = (large[0] == large[0].max()).nonzero()[:1]
    (place,) = frame.places(peak, tuple(large.shape[1:]))
    shown = frame.on_image(large)[0]
    assert shown.shape == large[0].shape
    hot = (shown == shown.max()).nonzero()[0]
    step = 1 / torch.tensor(shown.shape)
    assert ((hot + 0.5) * step - place).abs().le(step).all()
    expected = torch.tensor([5 * stride + first[0], 11 * stride + first[1]]) + 0.5
    cell = stride / torch.tensor(size) / factor  # a peak lies on an enlarged cell
    assert (place - expected / torch.tensor(size)).abs().le(cell).all()


def test_borders_and_nothing():
    frame = MapFrame((20, 20), 8)
    places = frame.places(torch.tensor([[0, 3]]), (4, 4))
    torch.testing.assert_close(places, torch.tensor([[0.5 / 20, 1.0]]))
    assert frame.on_image(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
    one = torch.full((1, 1, 1), 2.0)
    assert frame.on_image(one).tolist() == [[[2.0]]]
