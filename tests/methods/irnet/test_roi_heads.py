"""Dense maps and clusters to instances."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from wsis.methods.irnet.random_walk import random_walk
from wsis.methods.irnet.roi_heads import IRNetROIHeads, strongest, upsample

from tests.layers.allocations import Allocations

SIZES = ((38, 63), (38, 63))  # of the image, of the result


def scene():
    """Two touching objects of one class; a closed boundary between them and around them."""
    clusters = torch.zeros(10, 16, dtype=torch.int64)
    clusters[2:8, 2:8], clusters[2:8, 8:14] = 1, 2
    boundary = torch.full((10, 16), 0.05)
    boundary[1], boundary[8], boundary[:, 1], boundary[:, 14] = 0.99, 0.99, 0.99, 0.99
    boundary[2:8, 7:9] = 0.9
    cam = torch.zeros(1, 10, 16)
    cam[0, 2:8, 2:8], cam[0, 2:8, 8:14] = 0.9, 0.8
    return {"boundary": boundary, "cam": cam, "keys": torch.tensor([6])}, clusters


def test_touching_objects_of_one_class_are_separated():
    features, clusters = scene()
    found = IRNetROIHeads()(**features, clusters=clusters, sizes=SIZES)
    kept = found[found.scores > 0]
    assert len(kept) == 2
    assert kept.pred_classes.tolist() == [6, 6]
    assert kept.scores.max() == 1
    left, right = kept.pred_masks
    assert left[20, 16]
    assert right[20, 44]
    assert not (left & right).any()
    assert kept.pred_boxes.tensor.shape == (2, 4)
    x0, y0, x1, y1 = kept.pred_boxes.tensor[0].tolist()
    assert left[int(y0) : int(y1), int(x0) : int(x1)].sum() == left.sum()


def test_a_collapsed_field_falls_back_to_components_of_the_cams():
    features, clusters = scene()
    features["cam"] = torch.zeros(2, 10, 16)
    features["cam"][0, 2:8, 2:6], features["cam"][0, 2:8, 10:14] = 0.5, 0.4
    features["cam"][1, 2:8, 2:5] = 0.1
    features["keys"] = torch.tensor([2, 6])
    one = torch.zeros_like(clusters)
    found = IRNetROIHeads(fallback=True)(**features, clusters=one, sizes=SIZES)
    assert found.pred_classes.tolist() == [2, 2, 6]  # the weak class is there, too
    left, right, weak = found.pred_masks
    assert left[20, 16]
    assert right[20, 48]
    assert not (left & right).any()
    assert not left[20, 30]  # the walk would have gone there
    assert (weak & left).any()
    assert found.scores[0] > found.scores[1] > 0.5

    walked = IRNetROIHeads()(**features, clusters=one, sizes=SIZES)
    assert set(walked.pred_classes.tolist()) == {2}


@pytest.mark.parametrize("fallback", [False, True])
def test_an_image_without_tags_has_no_instances(fallback):
    features, clusters = scene()
    features["cam"] = features["cam"][:0]
    features["keys"] = features["keys"][:0]
    one = torch.zeros_like(clusters)
    found = IRNetROIHeads(fallback=fallback)(**features, clusters=one, sizes=SIZES)
    assert found.pred_masks.shape == (0, *SIZES[1])


def test_no_fallback_where_there_are_clusters():
    features, clusters = scene()
    off, on = (
        IRNetROIHeads(fallback=switch)(**features, clusters=clusters, sizes=SIZES)
        for switch in (False, True)
    )
    assert torch.equal(off.pred_masks, on.pred_masks)
    assert torch.equal(off.scores, on.scores)


def test_strongest_equals_argmax_of_everything():
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(37, 5, 7, generator=generator) * torch.rand(37, 1, 1, generator=generator)
    for groups in (torch.zeros(37, dtype=torch.long), torch.arange(37) // 5):
        winners, scores = strongest(
            maps, groups, background=0.6, image_size=(18, 27), output_size=(18, 27), stride=4
        )
        large = functional.interpolate(
            maps[None], scale_factor=4.0, mode="bilinear", align_corners=False
        )[0, :, :18, :27]
        for group in groups.unique():
            large[groups == group] /= large[groups == group].max()
        everything = torch.cat([torch.full((1, 18, 27), 0.6), large])
        assert torch.equal(winners + 1, everything.argmax(dim=0))
        expected = torch.where(winners >= 0, everything.max(dim=0).values, 0)
        torch.testing.assert_close(scores, expected)


def test_groups_need_not_be_numbered_and_cost_no_loop():
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(48, 3, 4, generator=generator)
    sizes = {"image_size": (12, 16), "output_size": (12, 16), "stride": 4}
    counted = []
    for groups in (torch.arange(48) // 24, torch.randint(0, 9, (48,), generator=generator)):
        with Allocations() as made:
            found = strongest(maps, groups, background=0.3, **sizes)
        counted.append(made.operations)
        named = strongest(maps, groups * 7 - 20, background=0.3, **sizes)
        assert all(torch.equal(a, b) for a, b in zip(found, named, strict=True))
    with Allocations() as made:
        strongest(maps[:33], torch.arange(33), background=0.3, **sizes)  # as many chunks
    assert max(counted) - made.operations < 15


def test_many_clusters_are_held_once():
    clusters = torch.arange(400).view(20, 20)
    boundary = torch.rand(20, 20, generator=torch.Generator().manual_seed(3))
    heads, cam = IRNetROIHeads(exp_times=1), torch.ones(2, 20, 20)
    with Allocations() as made:
        heads(boundary, cam, torch.arange(2), clusters, ((80, 80), (80, 80)))
    assert made.at_least(800 * 20 * 20) == 1
    assert made.at_least(800 * 20 * 20 // 2) == 1  # nothing else comes near


def test_upsampling_puts_cells_where_they_lie():
    ramp = torch.arange(5.0).view(1, 1, 5).expand(1, 3, 5)
    exact = upsample(ramp, (9, 17), (9, 17), stride=4, align_corners=True)
    torch.testing.assert_close(exact[0, 4], torch.arange(17.0) / 4)
    # two more pixels than 4 k + 1: they take the last cell's value
    padded = upsample(ramp, (9, 19), (9, 19), stride=4, align_corners=True)
    torch.testing.assert_close(padded[0, 4], (torch.arange(19.0) / 4).clamp(max=4))
    # a file of twice the working size, corner to corner
    large = upsample(ramp, (9, 17), (17, 33), stride=4, align_corners=True)
    torch.testing.assert_close(large[0, 3], torch.arange(33.0) / 8)
    areas = upsample(ramp, (9, 17), (9, 17), stride=4)
    torch.testing.assert_close(areas[0, 4, 2:], torch.arange(2.0, 17) / 4 - 0.375)


def test_per_class_normalisation_saves_a_weak_class():
    features, clusters = scene()
    cam = features["cam"]
    weak = torch.zeros_like(cam)
    weak[0, 2:8, 8:14] = 0.05
    cam[0, 2:8, 8:14] = 0
    features["cam"], features["keys"] = torch.cat([cam, weak]), torch.tensor([2, 9])
    for per_class, classes in ((False, {2}), (True, {2, 9})):
        heads = IRNetROIHeads(per_class_normalisation=per_class)
        found = heads(**features, clusters=clusters, sizes=SIZES)
        assert set(found.pred_classes.tolist()) == classes


def test_semantic_labels_and_cams_of_another_grid():
    features, clusters = scene()
    label = IRNetROIHeads().semantic(**features, sizes=SIZES)
    assert label.dtype == torch.uint8
    assert label.shape == (38, 63)
    assert set(label.unique().tolist()) == {0, 7}
    half = functional.interpolate(features["cam"][None], scale_factor=0.5, mode="nearest")[0]
    other = IRNetROIHeads().semantic(**features | {"cam": half}, sizes=SIZES)
    assert (other == label).float().mean() > 0.9


def test_all_zero_and_missing_cams():
    features, clusters = scene()
    zero = features | {"cam": torch.zeros(1, 10, 16)}
    none = features | {"cam": torch.zeros(0, 10, 16), "keys": torch.zeros(0, dtype=torch.long)}
    for given in (zero, none):
        found = IRNetROIHeads()(**given, clusters=clusters, sizes=SIZES)
        assert len(found) == 0
        assert found.pred_masks.shape == (0, 38, 63)
        label = IRNetROIHeads().semantic(**given, sizes=SIZES)
        assert np.all(label.numpy() == 0)


def test_leaving_out_empty_channels_changes_nothing():
    features, clusters = scene()
    cam, boundary = features["cam"], features["boundary"]
    indicator = functional.one_hot(clusters, 3).permute(2, 0, 1)
    every = random_walk((cam[:, None] * indicator).flatten(0, 1), boundary)
    channels, maps = IRNetROIHeads()._candidates(cam, clusters)
    torch.testing.assert_close(random_walk(maps, boundary), every[3 * channels[0] + channels[1]])
    assert (every[0] == 0).all()
    assert channels[1].tolist() == [1, 2]
