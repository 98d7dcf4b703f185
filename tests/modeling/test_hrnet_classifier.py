import torch
from wsis.modeling.backbones import HRNetClassifierTrunk
from wsis.modeling.backbones.norm import RunningStatsBatchNorm2d


def tiny(**options):
    sizes = {"modules": (1, 1, 1), "blocks": 1, "stem_channels": 8, "first_planes": 4}
    channels = (4, 8, 16, 32)
    return HRNetClassifierTrunk(
        channels, planes=(4, 8, 16, 32), final_channels=24, first_blocks=1, **sizes, **options
    )


def test_shapes_and_modes():
    torch.manual_seed(0)
    trunk = tiny()
    picture = torch.rand(2, 3, 64, 96)
    found = trunk.train()(picture)["final"]
    assert found.shape == (2, 24, 2, 3)
    assert trunk.output_shape()["final"].stride == trunk.size_divisibility == 32
    assert torch.equal(found, trunk.eval()(picture)["final"])


def test_frozen_parts():
    trunk = tiny()
    training = {name.split(".")[0] for name, p in trunk.named_parameters() if p.requires_grad}
    assert {"transition2", "stage3", "stage4", "incre_modules", "final_layer"} <= training
    assert not training & {"conv1", "bn1", "layer1", "transition1", "stage2"}
    norms = [m for m in trunk.stage4.modules() if isinstance(m, RunningStatsBatchNorm2d)]
    assert norms
    assert all(m.weight.requires_grad for m in norms)


def test_all_trains_where_nothing_is_frozen():
    trunk = tiny(freeze_at=0)
    trunk(torch.rand(1, 3, 32, 32))["final"].sum().backward()
    assert all(p.grad is not None for p in trunk.parameters())
