"""Against the steps that the documentation of transformers gives, one prompt at a time."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from wsis.errors import DataError
from wsis.methods.prompted_masks.segment_anything import load_segment_anything

from tests.methods.prompted_masks.networks import KINDS, save_tiny

BOXES = [[3.0, 4.0, 30.0, 40.5], [10.0, 0.0, 70.0, 50.0], [50.2, 10.7, 69.0, 21.0]]
POINTS = [[3.0, 4.0], [60.5, 40.25], [20.0, 10.0]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: save_tiny(root / kind, kind) for kind in KINDS}


@pytest.fixture
def copy(folders, tmp_path):
    """A copy of the folder of SAM, to be damaged."""
    return shutil.copytree(folders["sam"], tmp_path / "copy")


def picture(height=50, width=70):
    values = np.random.default_rng(0).integers(0, 256, (3, height, width))
    return torch.from_numpy(values.astype(np.uint8))


def documented(folder, image, **prompt):
    """Masks and scores of one prompt, from an image in any form that the processor takes."""
    import transformers

    network = transformers.AutoModelForMaskGeneration.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(images=image.permute(1, 2, 0).numpy(), return_tensors="pt", **prompt)
    with torch.no_grad():
        outputs = network(**inputs)
    sizes = [inputs[k] for k in ("original_sizes", "reshaped_input_sizes") if k in inputs]
    masks = processor.post_process_masks(outputs.pred_masks, *sizes)
    return masks[0][0], outputs.iou_scores[0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["boxes", "points"])
def test_masks_are_those_of_the_documented_steps(folders, kind, what):
    image, model = picture(), load_segment_anything(str(folders[kind]))
    given = BOXES if what == "boxes" else POINTS
    found = list(model.candidates(image, what, torch.tensor(given), at_once=2))
    assert len(found) == 3
    for prompt, (masks, scores) in zip(given, found, strict=True):
        words = {"input_boxes": [[prompt]]}
        if what == "points":
            words = {"input_points": [[[prompt]]], "input_labels": [[[1]]]}
        expected, expected_scores = documented(folders[kind], image, **words)
        assert masks.shape == expected.shape == (3, 50, 70)
        assert masks.dtype == torch.bool
        torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-4)
        assert int((masks != expected).sum()) <= 3  # pixels whose logit rounds to 0
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("at_once", [1, 7, 300])
def test_many_prompts_in_batches_are_as_alone(folders, at_once):
    model, generator = load_segment_anything(str(folders["sam"])), np.random.default_rng(1)
    points = torch.from_numpy(generator.random((20, 2)) * (70, 50))
    alone = list(model.candidates(picture(), "points", points, at_once=20))
    for (a, s), (b, t) in zip(
        model.candidates(picture(), "points", points, at_once=at_once), alone, strict=True
    ):
        torch.testing.assert_close(s, t, rtol=1e-4, atol=1e-4)
        assert int((a != b).sum()) <= 3


def test_an_image_is_embedded_once(folders, monkeypatch):
    model, calls = load_segment_anything(str(folders["sam"])), []
    encoder = model.network.vision_encoder
    encoder.register_forward_hook(lambda *_: calls.append(1))
    points = torch.rand(9, 2, dtype=torch.float64) * 40
    assert len(list(model.candidates(picture(), "points", points, at_once=2))) == 9
    assert len(calls) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (400, 1), (3, 3), (3, 90), (2, 700)])
def test_thin_images(folders, kind, size):
    """Three rows are no three channels, and no side becomes 0 pixels."""
    model = load_segment_anything(str(folders[kind]))
    box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    ((masks, scores),) = model.candidates(picture(*size), "boxes", box, at_once=4)
    assert masks.shape == (3, *size)
    assert bool(torch.isfinite(scores).all())


def refused(folder):
    with pytest.raises(DataError) as error:
        load_segment_anything(str(folder))
    said = str(error.value)
    assert "\n" not in said
    return said


def test_a_folder_of_pickled_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    said = refused(copy)
    assert f"{copy} has no weights as safetensors" in said
    assert "can run code" in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "bert"}'),
        ("config.json", b'{"model_type": "nonsense"}'),
        ("config.json", b"[]"),
        ("processor_config.json", b"\xff"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("model.safetensors", b""),
    ],
)
def test_damaged_files(copy, name, content):
    (copy / name).write_bytes(content)
    assert f"{copy} holds no Segment Anything model that transformers" in refused(copy)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
def test_lost_files(copy, name):
    (copy / name).unlink()
    assert f"{copy} holds no Segment Anything model" in refused(copy)


def test_weights_that_are_missing_or_of_another_shape(copy):
    weights = load_file(copy / "model.safetensors")
    name = "mask_decoder.iou_token.weight"
    save_file(weights | {name: torch.zeros(1, 8)}, copy / "model.safetensors", {"format": "pt"})
    told = f"lacks 1 of the model's weights, or has them in another shape, first {name}"
    assert told in refused(copy)
    del weights[name]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert told in refused(copy)


def test_no_code_of_the_folder_or_of_the_hub_is_run(copy, tmp_path, monkeypatch):
    """Neither a model's own class nor an attention kernel that its config names."""
    ran = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((copy / "config.json").read_text())
    evil = {"AutoModelForMaskGeneration": "evil.Model", "AutoConfig": "evil.Config"}
    kernel = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}
    config |= {"auto_map": evil, **kernel}
    for part in ("vision_config", "mask_decoder_config"):
        config[part] |= kernel
    (copy / "config.json").write_text(json.dumps(config))
    processor = json.loads((copy / "processor_config.json").read_text())
    processor |= {"auto_map": {"AutoProcessor": "evil.Processor"}}
    (copy / "processor_config.json").write_text(json.dumps(processor))
    model = load_segment_anything(str(copy))
    for config in (model.network.config, model.network.config.vision_config):
        assert config._attn_implementation == "sdpa"
    assert list(model.candidates(picture(), "boxes", torch.tensor(BOXES), at_once=3))
    assert not ran.exists()


def test_sam_2_as_it_lies_on_the_hub(folders, tmp_path):
    """Its folders are of the model of videos, and name the processor of these."""
    folder = shutil.copytree(folders["sam2"], tmp_path / "video")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "sam2_video"}
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["processor_class"] = "Sam2VideoProcessor"
    (folder / "processor_config.json").write_text(json.dumps(processor))
    image, boxes = picture(), torch.tensor(BOXES)
    pairs = zip(
        load_segment_anything(str(folder)).candidates(image, "boxes", boxes, at_once=3),
        load_segment_anything(str(folders["sam2"])).candidates(image, "boxes", boxes, at_once=3),
        strict=True,
    )
    for (masks, _), (expected, _) in pairs:
        assert torch.equal(masks, expected)


def test_half_precision_is_read_as_single(folders, copy):
    weights = load_file(copy / "model.safetensors")
    half = {name: value.half() for name, value in weights.items()}
    save_file(half, copy / "model.safetensors", {"format": "pt"})
    network = load_segment_anything(str(copy)).network
    assert {value.dtype for value in network.parameters()} == {torch.float32}
