"""The scale of pixels."""

import torch
from torch import nn
from wsis.modeling.network import PixelModule


def test_normalises_any_dtype():
    module = PixelModule(
        backbone=nn.Identity(), pixel_mean=[1.0, 2.0, 3.0], pixel_std=[1.0, 2.0, 4.0]
    )
    image = torch.tensor([3, 6, 11], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 5)
    wanted = torch.tensor([2.0, 2.0, 2.0]).view(3, 1, 1).expand(3, 2, 5)
    assert torch.equal(module.normalize(image), wanted)
    assert torch.equal(module.double().normalize(image), wanted.double())
    assert module.normalize(image[None].repeat(2, 1, 1, 1)).shape == (2, 3, 2, 5)
    assert not module.state_dict()
