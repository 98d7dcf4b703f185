"""What networks have in common."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn
from wsis.errors import DataError, UsageError
from wsis.modeling.network import (
    PixelModule,
    by_size,
    in_batches,
    mask_instances,
    network,
    options_of,
    require_finite,
    result_size,
    shapes_of,
)


def test_images_of_one_size_go_together_up_to_so_many_pixels():
    images = [torch.full(size, float(n)) for n, size in enumerate([(3, 2, 5), (3, 5, 2)] * 4)]
    assert by_size(images) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert by_size(images, pixels=30) == [[0, 2, 4], [1, 3, 5], [6], [7]]
    assert by_size(images[:3], pixels=0) == [[0], [1], [2]]
    sizes = []

    def total(some):
        sizes.append(len(some))
        return torch.stack(some).flatten(1).sum(dim=1)

    found = in_batches(total, images, images, pixels=30)
    assert (sizes, found) == ([3, 3, 1, 1], [30.0 * n for n in range(8)])
    assert in_batches(total, [], []) == []


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


@dataclass
class Options:
    min_area: float
    score: str = "class"
    other: int = 3


def test_options_are_the_keys_in_lower_case():
    keys = CfgNode({"MIN_AREA": 0.5, "SCORE": "mask", "UNKNOWN": 1})
    assert options_of(Options, keys) == {"min_area": 0.5, "score": "mask"}


@network
class Scaled(nn.Module):
    body: nn.Module
    factor: float = 2.0

    def __post_init__(self):
        self.bias = nn.Parameter(torch.ones(1) * self.factor)

    @classmethod
    def from_config(cls, cfg):
        return {"body": nn.Linear(2, 1)} | options_of(cls, cfg)


def test_a_network_is_a_module_that_a_config_builds_too():
    made = Scaled(CfgNode({"FACTOR": 3.0}))
    assert made.factor == 3
    assert list(made.state_dict()) == ["bias", "body.weight", "body.bias"]
    assert Scaled(body=nn.Identity()).factor == 2
    assert "(body): Linear" in repr(made)
    assert made in {made}
    with pytest.raises(TypeError, match="unexpected keyword argument 'scale'"):
        Scaled(body=nn.Identity(), scale=1)


def test_features_by_name():
    known = {"res4": ShapeSpec(channels=8), "res5": ShapeSpec(channels=16)}
    assert [s.channels for s in shapes_of(known, ["res5", "res4"], "MODEL.X")] == [16, 8]
    with pytest.raises(UsageError, match="MODEL.X names 'p2', but the backbone has res4, res5"):
        shapes_of(known, ["res4", "p2"], "MODEL.X")


def test_results():
    sample = {"image": torch.zeros(3, 4, 6), "image_key": "a"}
    assert result_size(sample) == (4, 6)
    assert result_size(sample | {"height": 8, "width": 12}) == (8, 12)
    require_finite(torch.zeros(2), sample, "the maps")
    with pytest.raises(DataError, match="image a: the maps are not finite; its training diverged"):
        require_finite(torch.tensor([1.0, float("nan")]), sample, "the maps")
    masks = torch.zeros(1, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    found = mask_instances(masks, torch.tensor([3]), torch.ones(1), peak=torch.tensor([7]))
    assert found.image_size == (4, 6)
    assert found.pred_boxes.tensor.tolist() == [[2, 1, 5, 3]]
    assert found.peak.tolist() == [7]
    assert len(mask_instances(masks[:0], torch.zeros(0), torch.zeros(0))) == 0
