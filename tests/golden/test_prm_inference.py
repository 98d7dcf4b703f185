import pytest
import torch

from tests.golden.conftest import assert_close
from tests.golden.prm_models import build_prm, prm_cfg


@pytest.fixture(scope="module")
def settings(golden, arrays):
    return golden.text(arrays["settings"])


@pytest.fixture(scope="module")
def model(golden, arrays):
    state = golden.weights(arrays)
    return build_prm(prm_cfg(len(state["0.classifier.0.bias"])), state).eval()


def apply_settings(model, case):
    name = case["filter"]
    model.window, model.peak_filter = case["win_size"], name
    model.factor = case["sub_pixel_locating_factor"]
    model.class_threshold = case["class_threshold"]
    model.peak_threshold = case["peak_threshold"]


def test_normalisation(model, arrays):
    image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)
    assert_close(model.normalize(image)[None], arrays["input"], 1e-5)


def runs(arrays):
    return sorted(k.removesuffix("_prm") for k in arrays if k.endswith("_prm"))


def test_peaks_and_responses(model, arrays, settings):
    assert runs(arrays)
    for run in runs(arrays):
        apply_settings(model, settings[run])
        (found,) = model.respond(list(torch.from_numpy(arrays["input"])))
        crm = arrays[f"{run}_crm"][0]
        assert_close(found.class_maps, crm, 1e-5 * abs(crm).max(), f"{run} class maps")
        assert_close(found.scores, arrays[f"{run}_agg"][0], 1e-5 * abs(crm).max(), f"{run} scores")
        assert found.all_peaks.tolist() == arrays[f"{run}_all_peaks"][:, 1:].tolist()
        assert found.peaks.tolist() == arrays[f"{run}_peaks"][:, 1:].tolist()
        for p, expected in enumerate(arrays[f"{run}_prm"]):
            assert_close(found.responses[p], expected, 1e-5 * expected.max(), f"{run} peak {p}")


def test_class_threshold(model, arrays, settings):
    apply_settings(model, settings["ct"])
    (found,) = model.respond(list(torch.from_numpy(arrays["input"])), back_propagate=False)
    assert found.peaks.tolist() == arrays["ct_peaks"][:, 1:].tolist()
    assert found.responses is None


def test_a_batch_gives_what_each_image_gives(model, arrays, settings):
    """Flipped image and a smaller one beside it; chunks of one peak."""
    run = runs(arrays)[-1]
    apply_settings(model, settings[run])
    image = torch.from_numpy(arrays["input"])[0]
    batch = [image, image[:, :64, :96], image.flip(-1)]
    alone = [model.respond([one])[0] for one in batch]
    before, model.memory = model.memory, 1
    together = model.respond(batch)
    model.memory = before
    for one, other in zip(alone, together, strict=True):
        assert one.peaks.tolist() == other.peaks.tolist()
        for p, response in enumerate(one.responses):
            assert_close(other.responses[p], response, 1e-5 * float(response.max()), f"peak {p}")
    assert len(together[0].peaks) == len(arrays[f"{run}_peaks"])
