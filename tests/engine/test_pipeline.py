"""Pipelines: order, overrides, class counts, and what users get wrong."""

from __future__ import annotations

import pytest
import yaml
from wsis.engine.pipeline import load_pipeline, split_overrides
from wsis.engine.status import relevant_config
from wsis.errors import UsageError

from tests.tiny import PIPELINE, ROOT

NAMES = [
    "classifier",
    "cam",
    "inter_pixel_label",
    "relation_network",
    "displacement_mean",
    "instances",
    "pseudo_labels",
    "mask_rcnn",
]


def names(stages):
    return [planned.name for planned in stages]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_pipeline_loads(path):
    pipeline = load_pipeline(path, [])
    assert pipeline.stages
    for planned in pipeline.stages:
        assert planned.cfg.SEED >= 0
        msra = "/MSRA/" in planned.cfg.MODEL.WEIGHTS  # the only weights made for BGR
        assert ("BGR" if msra else "RGB") == planned.cfg.INPUT.FORMAT
        assert relevant_config(planned)
        for product in planned.consumes:
            pipeline.producer(product, planned)


def test_stages_come_in_order_with_their_folders():
    pipeline = load_pipeline(PIPELINE, ["OUTPUT_DIR", "somewhere"])
    assert names(pipeline.stages) == NAMES
    assert [str(p.folder) for p in pipeline.stages[:2]] == [
        "somewhere/1_classifier",
        "somewhere/2_cam",
    ]
    assert pipeline.stages[1].cfg.OUTPUT_DIR == "somewhere/2_cam"


def test_selection():
    pipeline = load_pipeline(PIPELINE, [])
    assert names(pipeline.select(stage="cam")) == ["cam"]
    assert names(pipeline.select(first="instances")) == NAMES[5:]
    assert names(pipeline.select(last="cam")) == NAMES[:2]
    assert names(pipeline.select(first="cam", last="instances")) == NAMES[1:6]
    with pytest.raises(UsageError, match="no stage 'cams' in pipeline irnet_shapes; it has: class"):
        pipeline.select(stage="cams")
    with pytest.raises(UsageError, match="comes after"):
        pipeline.select(first="instances", last="cam")
    with pytest.raises(UsageError, match="excludes"):
        pipeline.select(stage="cam", last="cam")


def test_override_of_one_stage_leaves_the_others():
    overrides = ["SEED", "7", "classifier.SOLVER.MAX_ITER", "9", "cam.INPUT.SCALES", "(1.0, 2.0)"]
    stages = {p.name: p.cfg for p in load_pipeline(PIPELINE, overrides).stages}
    assert {cfg.SEED for cfg in stages.values()} == {7}
    assert stages["classifier"].SOLVER.MAX_ITER == 9
    assert stages["cam"].INPUT.SCALES == (1.0, 2.0)
    assert stages["mask_rcnn"].SOLVER.MAX_ITER > 9


def test_class_counts_come_from_the_data_set():
    for name, count in (("irnet_shapes", 4), ("irnet_voc", 20)):
        cfg = load_pipeline(ROOT / "configs" / f"{name}.yaml", []).stages[0].cfg
        assert cfg.MODEL.CAMNET.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES == count


def test_a_stage_config_runs_alone():
    alone = load_pipeline(ROOT / "configs" / "stages" / "irnet_shapes" / "classifier.yaml", [])
    within = load_pipeline(PIPELINE, [])
    assert names(alone.stages) == ["classifier"]
    assert alone.stages[0].folder == within.stages[0].folder
    assert relevant_config(alone.stages[0]) == relevant_config(within.stages[0])


def test_a_later_stage_alone_finds_what_it_needs_in_the_output_folder(tmp_path):
    path = ROOT / "configs" / "stages" / "irnet_shapes" / "cam.yaml"
    (tmp_path / "1_classifier").mkdir()
    (tmp_path / "1_classifier" / "manifest.json").write_text("{}")
    pipeline = load_pipeline(path, ["OUTPUT_DIR", str(tmp_path)])
    name, folder = pipeline.producer("classifier", pipeline.stages[0])
    assert (name, folder) == ("classifier", tmp_path / "1_classifier")
    empty = load_pipeline(path, ["OUTPUT_DIR", str(tmp_path / "none")])
    with pytest.raises(UsageError, match="cam needs 'classifier'"):
        empty.producer("classifier", empty.stages[0])


@pytest.mark.parametrize(
    "text",
    [
        "[{NAME: birds_of_%s, FORMAT: voc, ROOT: birds, SPLIT: train}]",
        "[{'NAME': 'birds_of_%s', 'FORMAT': 'voc', 'ROOT': 'birds', 'SPLIT': 'train'}]",
    ],
    ids=["yaml", "python"],
)
def test_data_sets_from_the_command_line(text, request):
    name = f"birds_of_{request.node.callspec.id}"
    overrides = ["WSIS.DATASETS", text % request.node.callspec.id]
    for key in ("WSIS.IMAGES", "DATASETS.TRAIN", "DATASETS.TEST"):
        overrides += [key, f"[{name}]"]
    for planned in load_pipeline(PIPELINE, overrides).stages:
        assert list(planned.cfg.DATASETS.TRAIN) == [name]
        assert planned.cfg.MODEL.CAMNET.NUM_CLASSES == 20
        assert yaml.safe_load(planned.cfg.dump())["WSIS"]["DATASETS"][0]["ROOT"] == "birds"


def filter_of(path, *overrides):
    (planned,) = load_pipeline(path, list(overrides)).select(stage="peak_classifier")
    return planned.cfg.MODEL.PEAK_CLASSIFIER.FILTER


@pytest.mark.parametrize("text", ["0.5", "-3", "1e-3", "median"])
def test_a_word_may_be_a_number(text, tmp_path):
    path = ROOT / "configs" / "prm_shapes.yaml"
    key = "MODEL.PEAK_CLASSIFIER.FILTER"
    assert filter_of(path, key, text) == text
    assert filter_of(path, f"peak_classifier.{key}", text) == text
    assert filter_of(path, key, repr(text)) == text
    stage = ROOT / "configs" / "stages" / "prm_shapes" / "peak_classifier.yaml"
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {stage}\nMODEL:\n  PEAK_CLASSIFIER:\n    FILTER: {text}\n")
    found = filter_of(own)
    assert found == text or float(found) == float(text)
    with pytest.raises(UsageError, match="Type mismatch"):
        load_pipeline(path, ["MODEL.META_ARCHITECTURE", "[1]"])
    with pytest.raises(UsageError, match="Type mismatch"):
        load_pipeline(path, ["MODEL.PEAK_CLASSIFIER.WINDOW", "three"])


def test_split_overrides():
    assert split_overrides(["A.B", "1", "cam.C", "2"], ["cam"]) == (
        ["A.B", "1"],
        {"cam": ["C", "2"]},
    )
    with pytest.raises(UsageError, match="'A' has no value"):
        split_overrides(["A"], [])
    with pytest.raises(UsageError, match="'cams.C' is neither a config key nor <stage>.KEY"):
        split_overrides(["cams.C", "2"], ["cam"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
        (["SOLVER.MAX_ITR", "1"], "SOLVER.MAX_ITR; did you mean SOLVER.MAX_ITER?"),
        (["DATASETS.TRAIN", "shapes_train"], r'a list is written "\[a, b\]"'),
        (["DATASETS.TEST", "('nowhere',)"], "DATASETS.TEST: there is no data set 'nowhere'"),
        (
            ["DATASETS.TEST", "('voc_2012_val_instance',)"],
            r"voc_2012_val_instance has 20; number 1 is '\w+' in the first and 'aeroplane' in the",
        ),
        (["SOLVER.MAX_ITER", "many"], "MAX_ITER"),
        (["SOLVER.MAX_ITER", "-1"], "MAX_ITER is -1; it must be 0 or more"),
        (["MODEL.ROI_MASK_HEAD.USE_IGNORE", "True"], "set MODEL.ROI_MASK_HEAD.NAME Confidence"),
        (["DATASETS.TRAIN", "('nowhere',)"], "nowhere"),
    ],
)
def test_wrong_overrides_are_usage_errors(overrides, message):
    with pytest.raises(UsageError, match=message):
        load_pipeline(PIPELINE, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WSIS: {STAGES: [absent.yaml]}", "no config file .*absent.yaml"),
        ("WSIS: {STAGE: no_such_stage}", "no stage 'no_such_stage'; registered are: .*classifier"),
        ("MODEL: {}", "names neither WSIS.STAGES"),
        ("WSIS: [", "not readable YAML"),
        ("", "not a set of keys"),
        ("- a\n- b", "not a set of keys"),
        ("WSIS: {STAGE: classifier, NO_KEY: 1}\nDATASETS: {TRAIN: [shapes_train]}", "NO_KEY"),
        ("WSIS: {STAGE: classifier}", "name a data set"),
    ],
)
def test_wrong_files_are_usage_errors(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_pipeline(path, [])
