"""Training with image-level supervision cannot see masks or boxes; evaluation still does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from wsis.data.artifacts import ProductReader
from wsis.data.mappers import build_mapper
from wsis.engine.manifest import Images
from wsis.engine.pipeline import load_pipeline
from wsis.engine.trainer import Trainer, build_train_loader
from wsis.stage import TrainStage

from tests.test_bad_input import own_pipeline
from tests.tiny import PIPELINE, TINY, train_net_here

WEAK_STAGES = ("classifier", "relation_network")


def rewrite(root, change):
    """Apply a change to the training annotations of a copy of the shapes."""
    path = root / "shapes" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return root


def scramble_masks(content):
    """Other places, other shapes, another number of objects; the tags stay."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    generator = np.random.default_rng(5)
    kept = []
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        x0, y0 = generator.integers(0, width // 2), generator.integers(0, height // 2)
        x1, y1 = int(x0) + width // 3, int(y0) + height // 3
        annotation["bbox"] = [int(x0), int(y0), x1 - int(x0), y1 - int(y0)]
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        annotation["segmentation"] = [[float(value) for corner in corners for value in corner]]
        if generator.random() < 0.7:
            kept.append(annotation)
    content["annotations"] = kept


def scramble_tags(content):
    """Every image gets other classes, and the objects follow."""
    for image in content["images"]:
        image["image_labels"] = [label % 4 + 1 for label in image["image_labels"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = annotation["category_id"] % 4 + 1


@pytest.fixture(scope="module")
def roots(shapes_root, tmp_path_factory):
    """The data sets as they are, with scrambled masks and boxes, and with scrambled tags."""
    found = {"original": shapes_root}
    for name, change in (("masks", scramble_masks), ("tags", scramble_tags)):
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(shapes_root, folder, dirs_exist_ok=True)
        found[name] = rewrite(folder, change)
    return found


@pytest.fixture
def planned_on(roots, tiny_run, tmp_path, monkeypatch):
    """``(root name, stage name) -> (planned stage, dataset dicts, mapper)``."""

    def plan(root, stage):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(roots[root]))
        words = [word for pair in TINY for word in pair]
        words += ["OUTPUT_DIR", str(tmp_path / root), "SOLVER.MAX_ITER", "1", "MODEL.DEVICE", "cpu"]
        (planned,) = load_pipeline(PIPELINE, words).select(stage=stage)
        labels = ProductReader(tiny_run / "3_inter_pixel_label", "inter_pixel_label")
        mapper = build_mapper(
            planned.cfg,
            planned.stage.mapper,
            is_train=True,
            products={"inter_pixel_label": labels},
        )
        return planned, Images().named(planned.cfg.DATASETS.TRAIN), mapper

    return plan


def test_all_weak_training_stages_are_tested():
    """Whoever adds one to this pipeline must add it here."""
    stages = [planned.stage for planned in load_pipeline(PIPELINE, []).stages]
    weak = [s.name for s in stages if isinstance(s, TrainStage) and s.supervision != "mask"]
    assert tuple(weak) == WEAK_STAGES


def batches_of(planned, dicts, mapper, count=3):
    loader = iter(build_train_loader(planned.cfg, dicts, mapper))
    return [sample for _ in range(count) for sample in next(loader)]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a == b


@pytest.mark.parametrize("stage", WEAK_STAGES)
def test_batches_do_not_know_masks_and_boxes(planned_on, stage):
    original = batches_of(*planned_on("original", stage))
    scrambled = batches_of(*planned_on("masks", stage))
    for one, other in zip(original, scrambled, strict=True):
        assert one.keys() == other.keys()
        assert not {"annotations", "instances", "instance_file_name"} & one.keys()
        for key in one.keys() - {"file_name"}:
            assert same(one[key], other[key]), key


def loss_of(planned, dicts, mapper):
    planned.folder.mkdir(parents=True)
    trainer = Trainer(planned.cfg, dicts, mapper=mapper, weights="")
    trainer.train()
    found = {k: v[0] for k, v in trainer.storage.latest().items() if "loss" in k}
    assert found["total_loss"] > 0
    return found


@pytest.mark.parametrize("stage", WEAK_STAGES)
def test_losses_do_not_know_masks_and_boxes(planned_on, stage):
    assert loss_of(*planned_on("original", stage)) == loss_of(*planned_on("masks", stage))


def test_the_classifier_knows_the_tags(planned_on):
    original = loss_of(*planned_on("original", "classifier"))
    assert original != loss_of(*planned_on("tags", "classifier"))


def figures(output, stage):
    entries = json.loads((output / "metrics.json").read_text())["stages"]
    return [entry for entry in entries if entry["stage"] == stage]


def test_pseudo_labels_stay_and_figures_change_with_the_masks(roots, tiny_run, tmp_path):
    """Everything made of the tags is still done with other masks; what is measured differs."""
    output = shutil.copytree(tiny_run, tmp_path / "copy")
    run = {"datasets": roots["masks"], "output": output}
    listed = train_net_here("--list-stages", **run)
    assert [line.split()[2] for line in listed.stdout.splitlines()[2:]] == ["done"] * 8
    done = train_net_here("--eval-only", **run)
    assert done.returncode == 0, done.stderr
    for stage in ("cam", "inter_pixel_label", "instances"):
        assert figures(output, stage) != figures(tiny_run, stage), stage
    assert figures(output, "classifier") == figures(tiny_run, "classifier")


def test_other_tags_make_every_stage_stale(roots, tiny_run):
    listed = train_net_here("--list-stages", datasets=roots["tags"], output=tiny_run)
    assert [line.split()[2] for line in listed.stdout.splitlines()[2:]] == ["stale"] * 8


def test_a_data_set_without_any_mask_is_enough(shapes_root, tiny_run, tmp_path):
    """``tags_train.json`` gives the very pseudo labels that the full annotations give."""
    folder = tmp_path / "data_tags"
    folder.mkdir()
    shutil.copy(shapes_root / "shapes" / "tags_train.json", folder / "mine.json")
    (folder / "images").symlink_to(shapes_root / "shapes" / "JPEGImages")
    done = train_net_here(
        "--until-stage",
        "pseudo_labels",
        datasets=tmp_path,
        output=tmp_path / "out",
        config=own_pipeline(folder),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    path = "7_pseudo_labels/pseudo_labels.json"
    ours, full = (json.loads((o / path).read_text()) for o in (tmp_path / "out", tiny_run))
    assert ours["annotations"] == full["annotations"]
