"""iam_inference: from a picture to peaks, responses, activation maps and masks."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from wsis.methods.iam.convert import convert_filling
from wsis.methods.iam.roi_heads import refine_by_crf
from wsis.methods.prm.convert import peak_classifier_from_original

from tests.golden import fill
from tests.golden.conftest import assert_close
from tests.golden.packed import unpack
from tests.golden.prm_models import prm_cfg

LEVELS = {"p2": "res2", "p3": "res3", "p4": "res4"}


@pytest.fixture(scope="module")
def case(golden):
    arrays = golden.load("iam_inference")
    settings = golden.text(arrays["settings"])
    parts = [
        fill.state_dict(golden.text(arrays[f"{part}_shapes"]), golden.prefix)
        for part in ("prm", "filling")
    ]
    cfg = prm_cfg(
        len(parts[0]["0.classifier.0.bias"]), factor=settings["sub_pixel_locating_factor"]
    )
    cfg.MODEL.META_ARCHITECTURE = "IAM"
    cfg.MODEL.ROI_HEADS.NAME = "IAMROIHeads"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.PEAK_CLASSIFIER.CLASS_THRESHOLD = float(settings["class_threshold"])
    cfg.MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD = settings["peak_threshold"]
    cfg.MODEL.PEAK_CLASSIFIER.WINDOW = settings["win_size"]
    cfg.MODEL.PEAK_CLASSIFIER.FILTER = settings["filter"]
    cfg.MODEL.IAM.CHANNELS = settings["channel_num"]
    cfg.MODEL.IAM.KERNEL_SIZE = settings["kernel"]
    cfg.MODEL.IAM.ITERATIONS = settings["iterate_num"]
    cfg.MODEL.IAM.STATISTICS = "batch"
    cfg.MODEL.IAM.NMS_THRESHOLD = 1.1
    model = build_model(cfg).eval()
    state = peak_classifier_from_original(parts[0]) | convert_filling(parts[1], "filling.")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)
    return arrays, model, {"image": image}


def near(found, expected, relative, what):
    assert_close(found, expected, relative * np.abs(expected).max(), what)


def test_peaks_responses_and_features(case):
    arrays, model, sample = case
    assert_close(model.peak_classifier.normalize(sample["image"])[None], arrays["input"], 1e-5)
    (found,) = model.respond([sample])
    near(found.scores[None], arrays["agg"], 1e-4, "agg")
    near(found.class_maps[None], arrays["crm"], 1e-4, "crm")
    np.testing.assert_array_equal(found.peaks, arrays["peaks"][:, 1:])
    near(found.responses, arrays["prm"], 1e-4, "prm")
    for name, ours in LEVELS.items():
        near(found.features[ours].mean(dim=(2, 3)), arrays[f"{name}_mean"], 1e-4, name)
        if f"{name}_slice" in arrays:
            expected = arrays[f"{name}_slice"]
            near(found.features[ours][0, : len(expected)], expected, 1e-4, name)


def test_activation_maps_and_masks(case):
    arrays, model, sample = case
    found = model([sample])[0]
    assert_close(found["activation"], arrays["iam"], 1e-3, "iam")
    expected = unpack(arrays["crf"], arrays["iam"].shape)
    refined = refine_by_crf(torch.from_numpy(arrays["image"]), found["activation"])
    assert ((refined > 0.5).numpy() == expected).mean() >= 0.995
    # The instances are these masks, in the order of their scores; empty ones are left out.
    instances = found["instances"]
    kept = instances.peak.tolist()
    assert sorted(kept) == np.flatnonzero(expected.any(axis=(1, 2))).tolist()
    assert (instances.pred_masks.numpy() == expected[kept]).mean() >= 0.995
    np.testing.assert_array_equal(instances.pred_classes, arrays["peaks"][kept, 1])
