"""The heads' first convolution, before or after the features are enlarged."""

import torch
from torch.nn.functional import conv2d
from wsis.methods.boxcaseg.heads import convolve, enlarge


def test_convolving_first_gives_values_and_gradients_of_enlarging_first():
    torch.manual_seed(0)
    shapes = ((3, 9, 14), (2, 9, 14), (4, 5, 7), (1, 1, 1))
    weight, bias = torch.randn(6, 10, 1, 1).double(), torch.randn(6).double()
    found = []
    for joins in (False, True):
        maps = [torch.randn(2, *s, dtype=torch.float64, requires_grad=True) for s in shapes]
        for number, one in enumerate(maps):
            one.data.copy_(torch.linspace(-1, number + 1, one.numel()).sin().view_as(one))
        given = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
        seen = [torch.cat([enlarge(one, (9, 14)) for one in maps], dim=1)] if joins else maps
        result = conv2d(seen[0], *given) if joins else convolve(seen, *given)
        found.append([result, *torch.autograd.grad(result.square().sum(), [*maps, *given])])
    assert found[0][0].shape == (2, 6, 9, 14)
    for first, joined in zip(*found, strict=True):
        torch.testing.assert_close(first, joined, rtol=1e-12, atol=1e-12)
