"""A GPU does what the CPU does: layers, training of every network, and every stage that runs one.

Each test runs on a CUDA device that computes on the CPU (`tests.fake_cuda`), which finds tensors on
two devices and counts how often the GPU is waited for, and on a real one where there is one.
"""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from plain.stages import Stages
from torch.utils._pytree import tree_leaves, tree_map
from wsis.engine.image_stages import _to_arrays
from wsis.layers.crf import crf_labels
from wsis.layers.masks import mask_boxes, mask_nms
from wsis.layers.peaks import peak_stimulation, upsample_maps
from wsis.layers.precision import full_precision
from wsis.methods.boxcaseg.crops import add_neighbours, resize_crops
from wsis.methods.boxcaseg.losses import pairwise_loss, projection_loss
from wsis.methods.iam.filling import fill, filling_weights
from wsis.methods.irnet.displacement import cluster_centroids, refine_centroids
from wsis.methods.irnet.losses import relation_losses
from wsis.methods.irnet.random_walk import random_walk
from wsis.methods.irnet.roi_heads import strongest
from wsis.stage import _STAGES, InferStage

from tests.fake_cuda import CudaTensor, FakeCuda
from tests.modeling.test_registry import CASES, OURS
from tests.tiny import ROOT, TINY_BOXCASEG, make_shapes, resize_shapes, tiny_overrides

DEVICES = ["fake", pytest.param("cuda", marks=pytest.mark.gpu)]
if not torch.cuda.is_available():
    DEVICES.pop()


@pytest.mark.gpu
def test_there_is_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, as all tests of this file for a real one")


def on(device):
    """Where "cuda" is this device; a `FakeCuda` or None."""
    return FakeCuda() if device == "fake" else contextlib.nullcontext()


def fetched(values):
    """Tensors of any nest, on the CPU."""
    return tree_map(lambda v: v.inner if isinstance(v, CudaTensor) else v.cpu(), values)


def test_the_fake_device_refuses_what_a_gpu_refuses_and_counts_what_waits():
    with FakeCuda() as fake:
        there = torch.arange(4.0, device="cuda")
        with pytest.raises(AssertionError, match=r"\(4,\) on the CPU, beside"):
            there + torch.arange(4.0)
        with pytest.raises(AssertionError, match="on the CPU, beside"):
            torch.cat([there, torch.zeros(0)])
        with pytest.raises(TypeError, match="to numpy"):
            np.asarray(there)
        assert (there.device.type, there.is_cuda, fake.waits.total()) == ("cuda", True, 0)
        assert there[there > 1].sum().item() == 5
        assert there.cpu().numpy().tolist() == there.tolist() == [0, 1, 2, 3]
        assert +fake.waits == {"index": 1, "_local_scalar_dense": 1, "to the CPU": 2}
    assert torch.zeros(2).to("cpu").device.type == "cpu"


def some(*size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def with_gradients(function, *inputs, given=()):
    """The result of ``function``, summed up, and the gradients of the inputs."""
    inputs = [value.clone().requires_grad_() for value in inputs]
    made = function(*inputs, *given)
    total = sum(made.values()) if isinstance(made, dict) else made.square().sum()
    return [total.detach(), *torch.autograd.grad(total, inputs)]


def winners(maps):
    groups = torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    sizes = {"image_size": (80, 96), "output_size": (77, 99)}
    return strongest(maps, groups, background=0.25, stride=4, **sizes)


def filled(maps, weights, index):
    return with_gradients(partial(fill, num_iterations=7), maps, weights, given=(index,))


def relations(logits, field, labels):
    return with_gradients(partial(relation_losses, radius=4), logits, field, given=(labels,))


def box_losses(logits, labels):
    return [projection_loss(logits, labels), pairwise_loss(logits)]


def neighboured(images, labels, chosen):
    torch.manual_seed(0)
    return add_neighbours(images, labels, chosen, probability=1.0)


IMAGE = (some(30, 40, 3) * 255).to(torch.uint8)
SEEDS = (some(2, 30, 40) * 3).long()
FIELD = some(2, 20, 24) * 6 - 3
LAYERS = {
    "centroids": (refine_centroids, FIELD),
    "centroids of two": (refine_centroids, torch.stack([FIELD, FIELD / 2])),
    "clusters": (lambda field: cluster_centroids(field, refine_centroids(field)), FIELD),
    "walk": (random_walk, some(3, 20, 24), some(20, 24, seed=1)),
    "winners": (winners, some(3, 20, 24)),
    "relation losses": (relations, some(2, 1, 24, 24), some(2, 2, 24, 24), SEEDS[:, :24, :24]),
    "CRF of two labels": (partial(crf_labels, num_labels=2), IMAGE, SEEDS[0] // 2),
    "CRF of three": (partial(crf_labels, num_labels=3), IMAGE, SEEDS),
    "peaks": (lambda maps: peak_stimulation(upsample_maps(maps, 8)), some(2, 5, 7, 6)),
    "suppression": (partial(mask_nms, threshold=0.3), some(6, 20, 20) > 0.4, some(6)),
    "boxes": (mask_boxes, some(6, 20, 20) > 0.99),
    "filling": (
        filled,
        some(3, 4, 9, 8),
        filling_weights(some(2, 36, 9, 8), 3),
        SEEDS[0, 0, :3] // 2,
    ),
    "crops": (
        partial(resize_crops, size=(32, 32)),
        IMAGE.permute(2, 0, 1),
        torch.tensor([[0, 0, 20, 30], [5, 5, 40, 29]]),
    ),
    "neighbours": (neighboured, some(4, 3, 16, 16), some(4, 16, 16).round(), some(4) >= 0),
    "losses of boxes": (box_losses, some(2, 16, 16), some(2, 16, 16).round()),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, device):
    function, *inputs = LAYERS[name]
    expected = function(*inputs)
    with on(device):
        found = fetched(function(*(value.to("cuda") for value in inputs)))
    for one, other in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if device == "fake" or one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        else:  # a decision may hang on the last bit
            assert one.shape == other.shape
            assert float((one != other).double().mean()) < 0.01


def trained(name, device):
    """Losses and gradients of a step of a network."""
    cfg, batch, _ = CASES[name]()
    cfg.MODEL.DEVICE = device
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for module in model.modules():  # its random numbers are the device's own
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(1)
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {n: loss.detach() for n, loss in losses.items()}, gradients


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OURS)
def test_training(name, device):
    losses, gradients = trained(name, "cpu")
    with on(device):
        found, steps = fetched(trained(name, "cuda"))
    assert steps.keys() == gradients.keys()
    exact = device == "fake"  # a real one draws random numbers of its own
    for key, loss in losses.items():
        limits = {"rel": 1e-4, "abs": 1e-6} if exact else {"rel": 0.2, "abs": 0.05}
        assert float(found[key]) == pytest.approx(float(loss), **limits), key
    least = 1e-3 * max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, gradient in gradients.items() if exact else ():
        largest = max(float(gradient.abs().max()), least)
        assert float((steps[key] - gradient).abs().max()) < 0.05 * largest, key


# Stages that do something on a GPU, after those that they read: a shipped pipeline's, some added.
PIPELINES = {
    "irnet_shapes": "classifier cam inter_pixel_label relation_network displacement_mean instances "
    "semantic_labels",
    "prm_shapes": "peak_classifier proposals peak_instances retrieved_points response_instances",
    "iam_shapes": "peak_classifier proposals filling_network filled_instances filled_points",
    "cim_shapes": "peak_classifier proposals proposal_crops class_peaks point_clusters "
    "complete_instances mined_instances point_instances proposal_detections",
    "boxcaseg_shapes": "box_segmenter box_masks point_masks",
    "boxinst_shapes": "boxinst boxinst_masks",
}
SMALL = (
    ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1e9"),
    ("MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "3"),
    ("WSIS.PROPOSALS.MAX_COUNT", "40"),
    ("MODEL.CIM.HEAD_DIM", "32"),
    ("MODEL.IAM.ITERATIONS", "4"),
    ("MODEL.DEVICE", "cpu"),
    ("MODEL.WEIGHTS", ""),
    ("MODEL.BOXCASEG.POINTS.ROUNDS", "2"),
    ("DATALOADER.NUM_WORKERS", "0"),
)
# How often the GPU is waited for, for each tiny picture: not for each convolution, step or class.
WAITS = {"cam": 3, "inter_pixel_label": 21, "displacement_mean": 2, "instances": 18}
WAITS |= {"semantic_labels": 6, "peak_instances": 19, "retrieved_points": 19}
WAITS |= {"response_instances": 19, "filled_instances": 39, "filled_points": 39}
WAITS |= {"class_peaks": 12, "mined_instances": 15, "point_instances": 8}
WAITS |= {"proposal_detections": 14, "box_masks": 3, "point_masks": 12, "boxinst_masks": 8}
# Of the others, images that pass a network together share operations.
ONE_BY_ONE = {"inter_pixel_label", "filled_instances", "filled_points", "point_masks"}


def on_gpu(stage):
    return isinstance(stage, InferStage) and not stage.model_key or getattr(stage, "on_device", 0)


def test_every_stage_that_uses_a_gpu_has_a_limit():
    assert {name for name, stage in _STAGES.items() if on_gpu(stage)} == set(WAITS)


@pytest.fixture(scope="module", params=PIPELINES)
def stages(request, tmp_path_factory):
    """Tiny pipelines with random weights; a stage is made on the CPU when it is asked for."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    lines = "".join(f"  {stage}:\n" for stage in PIPELINES[name].split())
    config = folder / "tiny.yaml"
    config.write_text(f"_BASE_: {ROOT / 'configs' / name}.yaml\nSTAGES:\n{lines}")
    extra = (*(TINY_BOXCASEG if name == "boxcaseg_shapes" else ()), *SMALL)
    if name == "boxinst_shapes":  # Detectron2 allows no other with depth 18
        extra = (*extra, ("MODEL.RESNETS.RES2_OUT_CHANNELS", "64"))
    words = tiny_overrides(config, (*extra, ("OUTPUT_DIR", str(folder / "out"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(make_shapes(folder, train=3, val=1)))
        resize_shapes(folder / "shapes", [(60, 64), (60, 64), (64, 56), (60, 64)])
        yield Stages(config, words)


def same(found, expected, name):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].shape == array.shape, (name, key)
        assert found[key].dtype == array.dtype, (name, key)
        one, two = found[key].astype(float), array.astype(float)
        limit = 1 if key == "levels" else 1e-3 * np.abs(two).max(initial=1e-3)
        assert (np.abs(one - two) > limit).sum() <= 0.01 * two.size, (name, key)


# "cpu": several images together give what each gives alone, there too
@pytest.mark.parametrize("device", ["cpu", *DEVICES])
def test_stages(stages, device):
    for name, folder in stages.folders.items():
        if not on_gpu(folder.planned.stage):
            continue
        stages.make(name)
        records = [*folder.dataset_dicts, folder.dataset_dicts[0]]
        with contextlib.nullcontext() if device == "cpu" else on(device) as fake:
            kind = "cpu" if device == "cpu" else "cuda"
            prepare, finish = stages.maker(name, MODEL__DEVICE=kind)
            counts = []
            for batch in (records[:1], records):
                samples = [prepare(record) for record in batch]
                if fake:
                    fake.waits.clear()
                    fake.operations = 0
                with full_precision(torch.device(kind)):
                    found = [_to_arrays(one) for one in finish(samples)]
                if fake:
                    most = WAITS[name] * len(batch)
                    assert 0 < fake.waits.total() <= most, (name, len(batch), +fake.waits)
                    counts.append(fake.operations / len(batch))
                for record, one in zip(batch, found, strict=True):
                    same(one, folder.reader[record["image_key"]], name)
            if fake and name not in ONE_BY_ONE:
                assert counts[1] < 0.9 * counts[0], name
