"""IRNet built from a small config: training, serving, other backbones."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from wsis.config import get_wsis_cfg
from wsis.errors import UsageError
from wsis.methods.irnet.branches import group_count
from wsis.methods.irnet.meta_arch import canvas_size, reduce_labels


def tiny_cfg(backbone="resnet"):
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "IRNet"
    cfg.MODEL.ROI_HEADS.NAME = "IRNetROIHeads"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.IRNET.INFERENCE_SIZE = 64
    cfg.MODEL.IRNET.DISPLACEMENT_WIDTH = 16
    cfg.MODEL.IRNET.BOUNDARY_WIDTH = 8
    cfg.MODEL.IRNET.TRAIN_RADIUS = 4
    if backbone == "resnet":
        cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
        cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 1)
    else:
        cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
        cfg.MODEL.TIMM.NAME = backbone
        cfg.MODEL.IRNET.IN_FEATURES = ["res1", "res2", "res3", "res4", "res5"]
    return cfg


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(tiny_cfg())


def sample(size, keys=(3, 7), seed=0):
    generator = np.random.default_rng(seed)
    grid = tuple((side - 1) // 4 + 1 for side in size)
    return {
        "image": torch.from_numpy(generator.integers(0, 256, (3, *size), dtype=np.uint8)),
        "keys": np.array(keys, dtype=np.int64),
        "cam": generator.random((len(keys), *grid), dtype=np.float32),
    }


def crop(side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(3, (2, 2), generator=generator, dtype=torch.uint8)
    label = blocks.repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1)
    return {
        "image": torch.rand(3, side, side, generator=generator) * 255,
        "inter_pixel_label": label,
    }


def test_two_iterations_train_the_branches_alone(model):
    model.train()
    assert not model.backbone.training
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.05)
    frozen = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    totals = []
    for _ in range(3):
        losses = model([crop(64), crop(64, seed=1)])
        assert all(name.startswith("loss_") for name in losses)
        total = sum(losses.values())
        optimiser.zero_grad()
        total.backward()
        assert all(p.grad is not None for p in trained)
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    assert all(torch.equal(v, frozen[k]) for k, v in model.backbone.state_dict().items())


def test_crops_of_different_sizes_and_unknown_padding(model):
    model.train()
    small, large = crop(32), crop(64, seed=1)
    together = model([small, large])
    assert all(torch.isfinite(v) for v in together.values())


def test_batch_of_different_sizes_equals_single_images(model):
    model.eval()
    batch = [sample((30, 41)), sample((70, 50), keys=(0,)), sample((1, 9)), sample((1, 1))]
    with torch.no_grad():
        together = model(batch)
        alone = [model([item])[0] for item in batch]
    for item, one, two in zip(batch, together, alone, strict=True):
        height, width = item["image"].shape[1:]
        grid = ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
        assert one["boundary"].shape == one["clusters"].shape == grid
        assert one["displacement"].shape == (2, *grid)
        assert one["instances"].pred_masks.shape[1:] == (height, width)
        assert set(one["instances"].pred_classes.tolist()) <= set(item["keys"].tolist())
        assert torch.equal(one["instances"].pred_masks, two["instances"].pred_masks)
        assert torch.equal(one["instances"].scores, two["instances"].scores)


def test_images_without_objects_and_without_cams(model):
    model.eval()
    empty = sample((20, 24), keys=())
    model.outputs = ("boundary", "instances", "semantic")
    found = model([empty])[0]
    assert len(found["instances"]) == 0
    assert found["instances"].pred_masks.shape == (0, 20, 24)
    assert found["semantic"].shape == (20, 24)
    assert (found["semantic"] == 0).all()
    dense = model([{"image": empty["image"]}])[0]
    assert dense.keys() == {"boundary", "displacement"}
    model.outputs = ("displacement",)
    only = model([{"image": empty["image"]}])[0]
    assert only.keys() == {"displacement"}
    torch.testing.assert_close(only["displacement"], dense["displacement"])
    model.outputs = ("boundary", "instances")


def test_result_at_another_size_and_unknown_output(model):
    model.eval()
    found = model([sample((20, 24)) | {"height": 41, "width": 47}])[0]
    assert found["instances"].pred_masks.shape[1:] == (41, 47)
    cfg = tiny_cfg()
    cfg.MODEL.IRNET.OUTPUTS = ["masks"]
    with pytest.raises(UsageError, match="MODEL.IRNET.OUTPUTS are some of .* not 'masks'"):
        build_model(cfg)


def test_mean_shift_acts_in_eval_mode_only_and_survives_a_state_dict(model):
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for mode, shift in ((True, 0.0), (False, 1.0)):
            model.train(mode)
            model.mean_shift.zero_()
            before = model.dense_maps(image)[1]
            model.mean_shift.copy_(torch.tensor([1.0, 2.0]))
            moved = before - model.dense_maps(image)[1]
            expected = shift * torch.tensor([1.0, 2.0]).view(2, 1, 1).expand_as(moved)
            torch.testing.assert_close(moved, expected)
    other = build_model(tiny_cfg())
    other.load_state_dict(model.state_dict())
    assert other.mean_shift.tolist() == [1.0, 2.0]
    model.mean_shift.zero_()


@pytest.mark.parametrize("align", [False, True])
def test_mobilenet_with_strides_2_to_32(align):
    cfg = tiny_cfg("mobilenetv2_100")
    cfg.MODEL.IRNET.ALIGN_CORNERS = align
    cfg.MODEL.IRNET.INFERENCE_SIZE = 65
    cfg.MODEL.IRNET.SIZE_DIVISOR, cfg.MODEL.IRNET.SIZE_REMAINDER = 32, 1
    model = build_model(cfg)
    losses = model([crop(65 - 1) | {"image": torch.rand(3, 65, 65)}])
    assert all(torch.isfinite(v) for v in losses.values())
    model.eval()
    found = model([sample((50, 97))])[0]
    assert found["boundary"].shape == (13, 25)
    assert found["instances"].pred_masks.shape[1:] == (50, 97)


def test_canvas_size():
    rule = {"fixed": 512, "divisor": 16}
    assert canvas_size((375, 512), **rule) == (512, 512)
    assert canvas_size((375, 513), **rule) == (384, 528)
    odd = {"fixed": 0, "divisor": 32, "remainder": 1}
    assert canvas_size((65, 66), **odd) == (65, 97)
    assert canvas_size((1, 2), **odd) == (1, 33)


def test_reduce_labels():
    row = torch.arange(16).view(1, 1, 16)
    assert reduce_labels(row, (1, 4)).flatten().tolist() == [2, 6, 10, 14]
    row = torch.arange(17).view(1, 1, 17)
    assert reduce_labels(row, (1, 5), align_corners=True).flatten().tolist() == [0, 4, 8, 12, 16]
    assert reduce_labels(row, (1, 1), align_corners=True).flatten().tolist() == [0]


@pytest.mark.parametrize(
    ("channels", "groups"), [(32, 4), (64, 8), (128, 16), (256, 16), (4, 1), (12, 1), (20, 2)]
)
def test_group_counts_divide(channels, groups):
    assert group_count(channels) == groups
    assert channels % groups == 0


def test_features_are_counted_and_named():
    cfg = tiny_cfg()
    cfg.MODEL.IRNET.IN_FEATURES = ["stem", "res2", "res3", "res4"]
    with pytest.raises(UsageError, match="5 IN_FEATURES .* not 4 and 16"):
        build_model(cfg)
    cfg.MODEL.IRNET.IN_FEATURES = ["stem", "res2", "res3", "res4", "res6"]
    with pytest.raises(UsageError, match="res6"):
        build_model(cfg)
