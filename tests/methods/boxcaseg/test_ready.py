"""boxcaseg_ready.yaml and the network that comes with WSIS: masks of boxes without training."""

from __future__ import annotations

import hashlib
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
import wsis
import wsis.ready
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import Boxes
from wsis.data.artifacts import ProductReader
from wsis.engine.checkpoint import build_network
from wsis.engine.manifest import digest_of_weights
from wsis.engine.pipeline import load_pipeline
from wsis.errors import UsageError, WSISError
from wsis.modeling.checkpoint import read_state_dict
from wsis.reading import read_yaml
from wsis.trained_stage import open_run

from tests.tiny import ROOT, manifest_of, train_net_here

CONFIG = ROOT / "configs" / "boxcaseg_ready.yaml"
RECIPE = ROOT / "configs" / "boxcaseg_ready_train.yaml"
LABELS = "3_pseudo_labels/pseudo_labels.json"
TINY = [
    ("MODEL.FPN.OUT_CHANNELS", "48"),
    ("SOLVER.MAX_ITER", "2"),
    ("SOLVER.IMS_PER_BATCH", "2"),
    ("SOLVER.BASE_LR", "0.001"),
    ("INPUT.MIN_SIZE_TRAIN", "(64,)"),
    ("INPUT.MIN_SIZE_TEST", "64"),
]
REAL = wsis.ready.FOLDER / "boxcaseg_ready.pth"
RANDOM = ("mask_rcnn.MODEL.TIMM.WEIGHTS", "")


def run(shapes_root, output, *arguments, config=CONFIG, extra=(RANDOM,)):
    boxes = ("DATA.TRAIN", str(shapes_root / "shapes" / "boxes_train.json"))
    return train_net_here(
        *arguments,
        datasets=shapes_root,
        output=output,
        config=config,
        extra=[*TINY, boxes, *extra],
    )


@pytest.fixture(scope="module")
def finished(shapes_root, ready_folder, tmp_path_factory):
    """A run on boxes and nothing else, to its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsis.ready.FOLDER", ready_folder)
        output = tmp_path_factory.mktemp("ready_run")
        done = run(shapes_root, output)
        assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture
def picture(shapes_root, finished):
    """The first picture of the run that has boxes, and what the run made of it."""
    reader = ProductReader(finished / "1_box_masks", "box_masks")
    key = next(key for key in sorted(reader.keys()) if len(reader[key]["boxes"]) > 1)
    (path,) = (shapes_root / "shapes" / "JPEGImages").glob(f"{key}.*")
    return cv2.imread(str(path)), reader[key]


def test_boxes_become_masks_and_a_network_without_a_segmenters_training(finished, shapes_root):
    given = json.loads((shapes_root / "shapes" / "boxes_train.json").read_text())["annotations"]
    found = json.loads((finished / LABELS).read_text())["annotations"]
    assert sorted(a["bbox"] for a in found) == sorted(a["bbox"] for a in given)
    assert [path.parent.name for path in finished.glob("*/model_final.pth")] == ["4_mask_rcnn"]


def test_the_run_knows_its_weights(finished, ready, shapes_root, tmp_path):
    weights = ready / "boxcaseg_ready.pth"
    assert manifest_of(finished, "box_masks")["inputs"]["weights"] == digest_of_weights(weights)
    said = read_yaml(finished / "1_box_masks" / "config.yaml")["MODEL"]
    assert said["WEIGHTS"] == "wsis://boxcaseg_ready"
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    done = run(shapes_root, output, "--verify")
    assert done.returncode == 0
    assert done.stdout.count("as written") == 4


def test_weights_of_another_release_are_told(
    finished, ready, shapes_root, tmp_path, monkeypatch, caplog
):
    """A run of an older release goes stale; its finished masks are not mixed with other ones."""
    output, folder = tmp_path / "out", tmp_path / "ready"
    shutil.copytree(finished, output)
    shutil.copytree(ready, folder)
    monkeypatch.setattr("wsis.ready.FOLDER", folder)
    path = folder / "boxcaseg_ready.pth"
    stored = torch.load(path, weights_only=True)
    next(iter(stored["model"].values())).add_(1)
    torch.save(stored, path)
    refused = run(shapes_root, output)
    assert refused.returncode == 1
    assert "stage box_masks in" in refused.stderr
    assert "is stale: its input 'weights' has changed" in refused.stderr
    assert run(shapes_root, output, "--list-stages").stdout.count("its input 'weights'") == 4
    caplog.clear()
    wsis.Predictor(output, stage="proxy_masks")
    (told,) = caplog.messages
    assert told == f"{output / '1_box_masks'} was made with other weights than it has now"
    path.unlink()
    lost = run(shapes_root, output)
    assert lost.returncode == 1
    assert f"the installation of WSIS lacks {path}; install it again" in lost.stderr


def test_unknown_networks_are_told(ready, shapes_root, tmp_path):
    unknown = ("box_masks.MODEL.WEIGHTS", "wsis://boxcaseg")
    refused = run(shapes_root, tmp_path / "out", extra=[RANDOM, unknown])
    assert refused.returncode == 2
    said = "WSIS comes with no network 'boxcaseg'; it has boxcaseg_ready; did you mean"
    assert said in refused.stderr
    assert not (tmp_path / "out" / "1_box_masks").exists()
    none = run(shapes_root, tmp_path / "out", extra=[("box_masks.MODEL.WEIGHTS", "")])
    assert none.returncode == 2
    assert "stage box_masks needs 'box_segmenter', which no stage before it" in none.stderr
    for name in ("boxcaseg_readi", "wsis://../boxcaseg_ready", "", "/"):
        with pytest.raises(WSISError, match="that comes with WSIS|comes with no network"):
            wsis.Predictor(name)


def test_an_infer_stage_may_run_a_network_of_the_users_own(finished, ready, shapes_root, tmp_path):
    """Which need not be called anything, and has a digest of its own."""
    path = tmp_path / "own.pth"
    shutil.copy(ready / "boxcaseg_ready.pth", path)
    words = ("--until-stage", "pseudo_labels")
    own = [("box_masks.MODEL.WEIGHTS", str(path))]
    done = run(shapes_root, tmp_path / "out", *words, extra=own)
    assert done.returncode == 0, done.stderr[-3000:]
    there, here = (
        json.loads((folder / LABELS).read_text())["annotations"]
        for folder in (finished, tmp_path / "out")
    )
    assert here == there
    path.write_bytes(b"")
    assert run(shapes_root, tmp_path / "out", *words, extra=own).returncode == 1


def test_missing_weights_of_its_own_are_told(ready, shapes_root, tmp_path):
    own = ("box_masks.MODEL.WEIGHTS", str(tmp_path / "own.pth"))
    refused = run(shapes_root, tmp_path / "out", extra=[RANDOM, own])
    assert refused.returncode == 1
    said = f"box_masks starts from {own[1]}, which does not exist; correct {own[0]}\n"
    assert refused.stderr.endswith(said)  # there is nothing to train: not "" for random weights


def test_an_opened_run_fetches_nothing(ready, finished, tmp_path, monkeypatch):
    """Its files may be a stranger's: neither weights nor timm's trunk come from an address."""
    asked = []
    monkeypatch.setattr("wsis.modeling.checkpoint.PathManager.get_local_path", asked.append)
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    config = output / "1_box_masks" / "config.yaml"
    said = read_yaml(config)
    said["MODEL"] |= {"WEIGHTS": "https://example.org/a.pth"}
    said["MODEL"]["TIMM"] |= {"WEIGHTS": "https://example.org/b.pth", "PRETRAINED": True}
    config.write_text(json.dumps(said))
    for stage in ("box_masks", "proxy_masks"):
        with pytest.raises(UsageError, match=r"has its weights from https://example.org/a.pth, .*"):
            wsis.Predictor(output, stage=stage)
    own = wsis.Predictor(output, "box_masks", weights=ready / "boxcaseg_ready.pth")
    assert (own.cfg.MODEL.TIMM.WEIGHTS, own.cfg.MODEL.TIMM.PRETRAINED) == ("", False)
    wsis.Predictor(output)
    assert asked == []


def test_the_predictor_gives_what_the_run_made(
    ready, finished, picture, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)  # no checkout and no configs
    image, kept = picture
    given = kept["boxes"].astype(float)
    for predictor in (
        wsis.Predictor("boxcaseg_ready"),
        wsis.Predictor("wsis://boxcaseg_ready"),
        wsis.Predictor(finished, stage="box_masks"),
    ):
        found = predictor(image, boxes=given)["instances"]
        np.testing.assert_array_equal(found.pred_masks.numpy(), kept["masks"])
        np.testing.assert_array_equal(found.scores.numpy(), kept["scores"])
        np.testing.assert_array_equal(found.pred_boxes.tensor.numpy(), given)
        assert found.pred_classes.tolist() == [0] * len(given)
    assert wsis.Predictor("boxcaseg_ready").metadata.thing_classes == ["object"]
    found = wsis.Predictor(finished, stage="proxy_masks")(image, boxes=given)
    merged = found["instances"]
    assert merged.pred_masks.sum(dim=0).max() == 1
    least = float(merged.scores.max())
    best = wsis.Predictor(finished, stage="proxy_masks", min_score=least)(image, boxes=given)
    kept = (merged.scores >= least).numpy()
    assert 0 < kept.sum() < len(given)
    np.testing.assert_array_equal(best["instances"].pred_boxes.tensor.numpy(), given[kept])
    np.testing.assert_array_equal(best["confidence"], found["confidence"][kept])
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_boxes_of_any_form(ready, picture):
    image, kept = picture
    predictor, given = wsis.Predictor("boxcaseg_ready"), kept["boxes"]
    first = predictor(image, boxes=given.tolist())["instances"]
    for boxes in (given, torch.from_numpy(given), Boxes(torch.from_numpy(given)), tuple(given)):
        assert torch.equal(predictor(image, boxes=boxes)["instances"].pred_masks, first.pred_masks)
    turned = predictor(image, boxes=given[::-1], classes=list(range(len(given))))["instances"]
    assert torch.equal(turned.pred_masks.flip(0), first.pred_masks)
    assert turned.pred_classes.tolist() == list(range(len(given)))
    for none in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        empty = predictor(image, boxes=none)["instances"]
        assert (len(empty), empty.pred_masks.shape) == (0, (0, *image.shape[:2]))
        assert len(empty.pred_boxes) == 0
    assert len(predictor(image, boxes=given, classes=torch.arange(len(given)))["instances"])
    assert predictor(image, boxes=given[:1], classes="object")["instances"].pred_classes == 0


def test_boxes_may_have_names(ready, finished, picture):
    """Any, where the network knows none; those of the run, where a typo would be a new class."""
    image, kept = picture
    predictor, given = wsis.Predictor("boxcaseg_ready"), kept["boxes"][[0, 0, 0]]
    cases = {("cat", "ant", "cat"): [1, 2, 1], ("bee", "object", "ant"): [3, 0, 2]}
    for names, numbers in cases.items():
        found = predictor(image, boxes=given, classes=names)["instances"]
        assert found.pred_classes.tolist() == numbers
        assert [predictor.metadata.thing_classes[i] for i in numbers] == [*names]
    with pytest.raises(UsageError, match="1 entries for 3 boxes"):
        predictor(image, boxes=given, classes=["elk"])
    assert predictor.metadata.thing_classes == ["object", "cat", "ant", "bee"]
    of_run = wsis.Predictor(finished, stage="box_masks")
    of_run.metadata.thing_classes[:] = ["object"]  # as of a run whose one class has that name
    with pytest.raises(UsageError, match="not 'cat'"):
        of_run(image, boxes=given[:1], classes=["cat"])


def test_boxes_are_cut_at_the_image_and_keep_their_mask(ready):
    """Fractions, boxes of a pixel, and images that are worked on at another size."""
    predictor = wsis.Predictor("boxcaseg_ready")
    image = np.random.default_rng(0).integers(0, 256, (1100, 1000, 3), dtype=np.uint8)
    boxes = [[-50, -3.5, 400, 1e6], [10, 10, 10.5, 10.5], [999, 1099, 1000, 1100]]
    found = predictor(image, boxes=boxes)["instances"]
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 400, 1100], *boxes[1:]]
    assert found.image_size == found.pred_masks.shape[1:] == image.shape[:2]
    assert not found.pred_masks[0, :, 405:].any()
    assert not found.pred_masks[1, 20:].any()
    least = float(found.scores[1:].min())
    strict = wsis.Predictor("boxcaseg_ready", min_score=least)(image, boxes=boxes)
    kept = found.scores >= least
    assert torch.equal(strict["instances"].pred_boxes.tensor, found.pred_boxes.tensor[kept])
    strict = wsis.Predictor("boxcaseg_ready", min_score=1.0)
    assert len(strict(image, boxes=boxes)["instances"]) == 0


def test_a_box_without_any_mask_keeps_its_place(ready, tmp_path):
    """Where the map says nothing the mask is empty, and the others are still at theirs."""
    stored = torch.load(ready / "boxcaseg_ready.pth", weights_only=True)["model"]
    flat = {k: v.zero_() if k.startswith("roi_heads") else v for k, v in stored.items()}
    torch.save(flat, tmp_path / "flat.pth")
    predictor = wsis.Predictor("boxcaseg_ready", weights=tmp_path / "flat.pth")
    found = predictor(np.zeros((30, 40, 3), np.uint8), boxes=[[0, 0, 9, 9], [5, 5, 30, 20]])
    assert len(found["instances"]) == 2
    assert not found["instances"].pred_masks.any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "stage box_masks makes masks of boxes; give boxes="),
        ({"boxes": [1, 2, 3, 4]}, r"has the shape \(4,\), not \(K, 4\)"),
        ({"boxes": [[1, 2, 3]]}, r"has the shape \(1, 3\), not \(K, 4\)"),
        ({"boxes": [[1, 2, 3, 4], [1, 2, 3]]}, "no array of numbers"),
        ({"boxes": "abcd"}, "no array of numbers"),
        ({"boxes": {"a": 1}}, "no array of numbers"),
        ({"boxes": [[0, 0, 5, 5], [30, 20, 10, 10]]}, r"box 1 has no area \(30, 20 to 10, 10\)"),
        ({"boxes": [[5, 5, 5, 9]]}, "box 0 has no area"),
        ({"boxes": [[60, 5, 70, 9]]}, "box 0 .* lies outside its image of 40 x 30"),
        ({"boxes": [[0, 0, 5, 5], [0, 0, float("nan"), 5]]}, "box 1 is not finite"),
        ({"boxes": [[0, 0, float("inf"), 5]]}, "box 0 is not finite"),
        ({"boxes": [[0.1, 0.1, 0.5, 0.9]]}, "lie within the first pixel, as shares of it do"),
        ({"boxes": [[0, 0, 5, 5]], "classes": [0, 1]}, "classes has 2 entries for 1 boxes"),
        ({"boxes": [[0, 0, 5, 5]], "classes": [-1]}, "class ids from 0"),
        ({"boxes": [[0, 0, 5, 5]], "classes": [0.5]}, "class ids from 0"),
    ],
)
def test_what_are_no_boxes_is_told(ready, words, said):
    predictor = wsis.Predictor("boxcaseg_ready")
    with pytest.raises(UsageError, match=said):
        predictor(np.zeros((30, 40, 3), np.uint8), **words)


def test_a_detector_takes_no_boxes(ready, finished):
    predictor = wsis.Predictor(finished)
    image = np.zeros((30, 40, 3), np.uint8)
    with pytest.raises(UsageError, match="mask_rcnn finds objects by itself and takes no boxes"):
        predictor(image, boxes=[[0, 0, 5, 5]])
    with pytest.raises(UsageError, match="classes are those of boxes; give boxes="):
        predictor(image, classes=[0])


def test_a_folder_of_that_name_comes_first(ready, finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "4_mask_rcnn", tmp_path / "boxcaseg_ready" / "4_mask_rcnn")
    monkeypatch.chdir(tmp_path)
    assert wsis.Predictor("boxcaseg_ready").cfg.WSIS.STAGE == "mask_rcnn"
    assert wsis.Predictor("wsis://boxcaseg_ready").cfg.WSIS.STAGE == "box_masks"


@pytest.mark.parametrize("name", ["boxcaseg_ready_train", "boxcaseg_photos"])
def test_training_may_start_from_it(ready, shapes_root, tmp_path, name):
    """Their network is that of the weights, name by name, in single precision."""
    start = ("box_segmenter.MODEL.WEIGHTS", "wsis://boxcaseg_ready")  # boxcaseg_photos has it
    salient = shapes_root / "shapes" / "salient"
    entry = f"{{FORMAT: salient, IMAGES: {salient}/images, MASKS: {salient}/masks}}"
    extra = [("DATA.SALIENT", entry), ("SOLVER.MAX_ITER", "0")]
    extra += [start] if name == "boxcaseg_ready_train" else []
    config, words = RECIPE.with_stem(name), ("--stage", "box_segmenter")
    done = run(shapes_root, tmp_path / "out", *words, config=config, extra=extra)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = read_state_dict(ready / "boxcaseg_ready.pth")
    made = read_state_dict(tmp_path / "out" / "1_box_segmenter" / "model_final.pth")
    assert made.keys() == stored.keys()
    for name, value in made.items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, stored[name].to(value.dtype))
    digest = digest_of_weights(ready / "boxcaseg_ready.pth")
    assert manifest_of(tmp_path / "out", "box_segmenter")["inputs"]["weights"] == digest


def test_detectron2_alone_loads_it(ready):
    cfg = open_run("wsis://boxcaseg_ready").stages[0].cfg
    network = build_network(cfg)
    DetectionCheckpointer(network).load(cfg.MODEL.WEIGHTS)
    stored = read_state_dict(ready / "boxcaseg_ready.pth")
    assert all(torch.equal(v, stored[k].to(v.dtype)) for k, v in network.state_dict().items())


def test_one_file_describes_the_network():
    """What makes masks and what trains the network agree in every key of the network."""
    alone = open_run("wsis://boxcaseg_ready").stages[0].cfg
    keys = (
        "IN_FEATURES",
        "OWN_SHARE",
        "OUTWARDS",
        "INFERENCE_SIDES",
        "INFERENCE_FLIP",
        "THRESHOLD",
    )
    for path, stage in ((CONFIG, "box_masks"), (RECIPE, "box_segmenter")):
        cfg = load_pipeline(path, []).select(stage=stage)[0].cfg
        for node in ("BACKBONE", "FPN", "PIXEL_MEAN", "PIXEL_STD"):
            assert cfg.MODEL[node] == alone.MODEL[node]
        assert cfg.INPUT.FORMAT == alone.INPUT.FORMAT
        assert cfg.MODEL.TIMM.OUT_FEATURES == alone.MODEL.TIMM.OUT_FEATURES
        for key in keys:
            assert cfg.MODEL.BOXCASEG[key] == alone.MODEL.BOXCASEG[key]


def test_the_network_that_comes_with_wsis():
    assert REAL.stat().st_size <= 8_000_000
    card = REAL.with_suffix(".md").read_text()
    assert hashlib.sha256(REAL.read_bytes()).hexdigest() in card
    assert "configs/boxcaseg_ready_train.yaml" in card
    for name, value in read_state_dict(REAL).items():
        assert bool(value.isfinite().all()), name
        assert value.dtype == torch.float16 if value.ndim > 1 else value.ndim < 2
    image = np.full((120, 160, 3), 200, np.uint8)
    cv2.circle(image, (80, 60), 40, (30, 60, 200), -1)
    truth = (image != 200).any(axis=2)
    found = wsis.Predictor("boxcaseg_ready")(image, boxes=[[39, 19, 121, 101]])["instances"]
    mask = found.pred_masks[0].numpy()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85  # the filled box: 0.75


def test_points_become_masks_without_training(shapes_root, tmp_path):
    """A mask for every point, no two on one pixel; by the network that really comes with WSIS."""
    points = shapes_root / "shapes" / "points_train.json"
    keys = {"POINTS.RATIOS": "[1.0]", "POINTS.SIDE": 64, "INFERENCE_FLIP": False}
    small = [(f"point_masks.MODEL.BOXCASEG.{key}", str(value)) for key, value in keys.items()]
    words = {
        "config": ROOT / "configs" / "points_photos.yaml",
        "extra": [RANDOM, ("DATA.TRAIN", str(points)), *small],
    }
    done = run(shapes_root, tmp_path / "out", "--until-stage", "pseudo_labels", **words)
    assert done.returncode == 0, done.stderr[-3000:]
    given = json.loads(points.read_text())["annotations"]
    reader = ProductReader(tmp_path / "out" / "1_point_masks", "instances")
    made = {key: reader[key] for key in reader.keys()}  # noqa: SIM118
    assert sum(len(arrays["masks"]) for arrays in made.values()) == len(given)
    for arrays in made.values():
        assert arrays["masks"].sum(axis=0).max(initial=0) <= 1
        assert ((arrays["scores"] >= 0) & (arrays["scores"] <= 1)).all()
    labels = json.loads((tmp_path / "out" / "2_pseudo_labels" / "pseudo_labels.json").read_text())
    assert len(given) / 2 < len(labels["annotations"]) <= len(given)
