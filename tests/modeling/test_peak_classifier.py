import pytest
import torch
from wsis.errors import DataError, UsageError
from wsis.modeling.peak_classifier import build_peak_classifier, parse_filter

from tests.modeling.test_image_classifier import image, tiny_camnet_cfg


def tiny_cfg(**options):
    """A small ResNet-18 with three classes whose peaks all count."""
    cfg = tiny_camnet_cfg()
    cfg.MODEL.RESNETS.NORM = "BN"
    keys = cfg.MODEL.PEAK_CLASSIFIER
    keys.IN_FEATURE = "res4"
    keys.NUM_CLASSES = cfg.MODEL.CAMNET.NUM_CLASSES
    keys.SUB_PIXEL_FACTOR = 4
    keys.PEAK_THRESHOLD = keys.CLASS_THRESHOLD = -1e9
    for name, value in options.items():
        setattr(keys, name, value)
    return cfg


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_peak_classifier(tiny_cfg()).eval()


def test_responses_of_images_of_several_sizes(model):
    images = [model.normalize(image(*size, seed)) for size, seed in (((48, 64), 0), ((33, 40), 1))]
    images.append(images[0].flip(-1))
    together = model.respond(images)
    for one, found in zip(images, together, strict=True):
        (alone,) = model.respond([one])
        assert torch.equal(alone.peaks, found.peaks)
        torch.testing.assert_close(alone.responses, found.responses, rtol=1e-4, atol=1e-7)
        assert found.responses.shape == (len(found.peaks), *one.shape[1:])
        assert found.class_maps.shape[0] == found.scores.shape[0] == model.num_classes
        assert torch.equal(found.values, found.class_maps[tuple(found.peaks.unbind(1))])
        assert set(found.features) == {"res4"}
        assert len(found.peaks) == len(found.all_peaks) > 0


def test_tags_replace_the_class_threshold(model):
    model.class_threshold = float("inf")
    x = model.normalize(image(40, 52))
    assert len(model.respond([x])[0].peaks) == 0
    found = model.respond([x, x, x], tags=[[1], [], None], back_propagate=False)
    assert found[0].peaks[:, 0].unique().tolist() == [1]
    assert len(found[1].peaks) == len(found[2].peaks) == 0
    assert found[0].responses is None


def test_the_highest_peaks(model):
    x = model.normalize(image(64, 64))
    everything = model.respond([x], back_propagate=False)[0]
    model.max_peaks = 2
    found = model.respond([x, x], back_propagate=False)[1]
    torch.testing.assert_close(found.values.sort().values, everything.values.sort().values[-2:])
    rows = found.peaks.tolist()
    assert rows == sorted(rows)


def test_the_loss_of_mixed_sizes_is_that_of_single_images(model):
    batch = [
        {"image": image(40, 52), "image_labels": [0, 2]},
        {"image": image(33, 48, 1), "image_labels": []},
        {"image": image(40, 52, 2), "image_labels": torch.tensor([0.0, 1.0, 0.0])},
    ]
    assert model.num_classes == 3
    losses = [model.losses([sample])["loss_classification"] for sample in batch]
    loss = model.losses(batch)["loss_classification"]
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    model.train()
    loss = model.losses(batch)["loss_classification"]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_filter_that_no_peak_passes_still_trains():
    torch.manual_seed(0)
    model = build_peak_classifier(tiny_cfg(FILTER="1e6"))
    loss = model.losses([{"image": image(40, 52), "image_labels": [1]}])["loss_classification"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert model.classifier.weight.grad.abs().sum() > 0


def test_without_stimulation_scores_are_means():
    torch.manual_seed(0)
    model = build_peak_classifier(tiny_cfg(STIMULATE=False)).eval()
    with torch.no_grad():
        scores, maps, _ = model(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(scores, maps.mean(dim=(2, 3)))


def test_maps_that_are_not_finite(model):
    model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        model.respond([torch.randn(3, 32, 32)])


def test_options():
    assert parse_filter("median") == "median"
    assert parse_filter("0.5") == 0.5
    with pytest.raises(UsageError, match="IN_FEATURE names 'res9'"):
        build_peak_classifier(tiny_cfg(IN_FEATURE="res9"))


def half_maps(model):
    """As if the 1x1 convolution ran in half precision."""
    model.classifier.register_forward_hook(lambda module, given, made: made.half())
    return model


BATCH = [
    {"image": image(40, 52), "image_labels": [0, 2]},
    {"image": image(33, 48, 1), "image_labels": [1]},
]


@pytest.mark.parametrize("kind", ["half maps", "autocast"])
def test_mixed_precision_trains(model, kind):
    """Autocast on a CPU enlarges in float32, that of a GPU in half precision, as the other kind."""
    expected = model.losses(BATCH)["loss_classification"]
    if kind == "half maps":
        half_maps(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        loss = model.losses(BATCH)["loss_classification"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_mixed_precision_leaves_responses_as_they_are(model):
    x = model.normalize(image(48, 64))
    (expected,) = model.respond([x])
    for back_propagate in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = model.respond([x], back_propagate=back_propagate)
        assert torch.equal(found.class_maps, expected.class_maps)
        assert found.features["res4"].dtype == torch.float32
        if back_propagate:
            assert torch.equal(found.responses, expected.responses)


def test_each_tag_has_a_peak_however_low(model):
    """A threshold that suits frequent classes leaves rare ones without; a tag is certain."""
    x = model.normalize(image(40, 52))
    model.peak_threshold = 1e6
    tagged, untagged = model.respond([x, x], tags=[[0, 2], None], back_propagate=False)
    assert tagged.peaks[:, 0].tolist() == [0, 2]
    assert torch.equal(tagged.values, tagged.class_maps[[0, 2]].amax(dim=(1, 2)))
    assert len(untagged.peaks) == 0


def test_tags_are_ids_or_vectors(model):
    x = model.normalize(image(40, 52))
    for tags in ([1], [1.0] * 0 + [0.0, 1.0, 0.0], torch.tensor([False, True, False])):
        (found,) = model.respond([x], tags=[tags], back_propagate=False)
        assert found.peaks[:, 0].unique().tolist() == [1]
        assert model.tags_of({"image_labels": tags}) == [1]
    assert model.tags_of({}) is None
    for bad in ([-1], [3], torch.ones(4)):
        with pytest.raises(DataError, match=r"MODEL\.PEAK_CLASSIFIER\.NUM_CLASSES"):
            model.respond([x], tags=[bad], back_propagate=False)
        with pytest.raises(DataError, match="image lost: "):
            model.tags_of({"image_labels": bad, "image_key": "lost"})
        with pytest.raises(DataError, match=r"MODEL\.PEAK_CLASSIFIER\.NUM_CLASSES"):
            model.losses([{"image": image(40, 52), "image_labels": bad}])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"WINDOW": 4}, "WINDOW is 4; it must be an odd number"),
        ({"WINDOW": 1}, "WINDOW is 1"),
        ({"FILTER": "middle"}, "FILTER is 'middle'; it must be one of median, mean"),
        ({"FILTER": "nan"}, "FILTER is nan"),
        ({"SUB_PIXEL_FACTOR": 0}, "SUB_PIXEL_FACTOR is 0; it must be 1 or more"),
        ({"GRADIENT": "divided"}, "GRADIENT is 'divided'; it must be one of undivided, mean"),
        ({"MAX_PEAKS": -1}, "MAX_PEAKS is -1"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(UsageError, match=r"^MODEL\.PEAK_CLASSIFIER\." + said):
        build_peak_classifier(tiny_cfg(**options))


def unsupported_cfg():
    cfg = tiny_cfg(IN_FEATURE="res3")
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME = "mobilenetv3_small_100"
    return cfg


def test_a_backbone_that_peaks_cannot_pass():
    with pytest.raises(
        UsageError, match=r"mobilenetv3_small_100\): .* through product of two maps"
    ) as error:
        build_peak_classifier(unsupported_cfg(), traceable=True)
    assert "MODEL.BACKBONE" in str(error.value)
    assert build_peak_classifier(unsupported_cfg()).num_classes == 3  # CIM needs no more


def test_the_check_of_the_backbone_changes_nothing():
    states = []
    for traceable in (False, True):
        torch.manual_seed(0)
        model = build_peak_classifier(tiny_cfg(), traceable=traceable)
        assert all(module.training for module in model.modules())
        assert all(p.grad is None for p in model.parameters())
        states.append(model.state_dict() | {"drawn": torch.rand(1)})
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_given_points_take_the_place_of_peaks(model):
    """Neither threshold nor tags count; one peak for each point, in their order, also of equal."""
    x = model.normalize(image(48, 64))
    model.peak_threshold = float("inf")
    rows = torch.tensor([[2, 0.9, 0.1], [0, 0.2, 0.8], [2, 0.9, 0.1]])
    given, none, found = model.respond(
        [x] * 3, tags=[[1], [1], None], points=[rows, rows[:0], None]
    )
    assert len(none.peaks) == len(found.peaks) == 0
    assert none.responses.shape == (0, 48, 64)
    assert given.peaks[:, 0].tolist() == [2, 0, 2]
    assert torch.equal(given.responses[0], given.responses[2])
    torch.testing.assert_close(given.responses.sum(dim=(1, 2)), torch.ones(3))
    places = given.frame.places(given.peaks[:, 1:], tuple(given.class_maps.shape[1:]))
    cell = model.backbone.output_shape()["res4"].stride / torch.tensor([48, 64])
    assert ((places - rows[:, 1:]).abs() <= cell).all()
    assert torch.equal(given.values, given.class_maps[tuple(given.peaks.unbind(1))])
    model.max_peaks = 1
    (highest,) = model.respond([x], points=[rows[:2]])
    torch.testing.assert_close(highest.values, given.values[:2].max()[None])


def test_a_point_of_a_found_peak_has_its_response(model):
    x = model.normalize(image(48, 64))
    (found,) = model.respond([x])
    places = found.frame.places(found.peaks[:, 1:], tuple(found.class_maps.shape[1:]))
    inside = ((places > 0) & (places < 1)).all(dim=1)  # else it was moved to the border
    rows = torch.cat([found.peaks[:, :1], places], dim=1)[inside]
    (given,) = model.respond([x], points=[rows])
    assert torch.equal(given.peaks, found.peaks[inside])
    assert torch.equal(given.responses, found.responses[inside])
