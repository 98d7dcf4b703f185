"""Pipelines: order, overrides, class counts, and what users get wrong."""

from __future__ import annotations

import pytest
import yaml
from PIL import Image
from wsis import stage
from wsis.config import get_wsis_cfg
from wsis.engine.manifest import relevant_config
from wsis.engine.pipeline import load_pipeline
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
        if planned.cfg.MODEL.WEIGHTS != "wsis://boxcaseg_ready":
            assert planned.sources.keys() >= set(planned.stage.consumes)


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
    said = "no stage 'cams' in pipeline irnet_shapes; it has: class.*; did you mean cam?"
    with pytest.raises(UsageError, match=said):
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


def test_a_stage_that_runs_a_network_starts_from_its_config():
    overrides = ["classifier.MODEL.RESNETS.DEPTH", "34", "cam.INPUT.SCALES", "(2.0,)"]
    stages = {p.name: p.cfg for p in load_pipeline(PIPELINE, overrides).stages}
    for name in ("classifier", "cam"):
        assert stages[name].MODEL.META_ARCHITECTURE == "CAMNet"
        assert stages[name].MODEL.RESNETS.DEPTH == 34
    assert stages["cam"].INPUT.SCALES == (2.0,)
    assert stages["classifier"].INPUT.SCALES != (2.0,)
    assert stages["instances"].MODEL.META_ARCHITECTURE == "IRNet"
    assert (
        stages["instances"].MODEL.WEIGHTS
        == "output/irnet_shapes/4_relation_network/model_final.pth"
    )


def test_weights_that_a_stage_is_given_win_over_those_of_an_earlier_stage(tmp_path):
    def start(*words, path=PIPELINE):
        planned = {p.name: p for p in load_pipeline(path, words).stages}["relation_network"]
        assert ("classifier" in planned.sources) is bool(planned.cfg.WSIS.INIT_FROM)
        return planned.cfg.WSIS.INIT_FROM, planned.cfg.MODEL.WEIGHTS

    key, earlier = "relation_network.MODEL.WEIGHTS", "relation_network.WSIS.INIT_FROM"
    assert start() == ("classifier", "")
    assert start(key, "own.pth") == ("", "own.pth")
    assert start(key, "")[0] == "classifier"
    assert start(key, "own.pth", earlier, "classifier")[0] == "classifier"
    assert start("MODEL.WEIGHTS", "own.pth")[0] == "classifier", "those of all stages"
    path = tmp_path / "p.yaml"
    path.write_text(
        "_BASE_: configs/irnet_shapes.yaml\n"
        "STAGES: {relation_network: {MODEL: {WEIGHTS: own.pth}}}\n"
    )
    assert start(path=path) == ("", "own.pth")
    assert start(earlier, "classifier", path=path)[0] == "classifier"


def test_stages_are_listed_anew_where_one_is_new():
    whole = load_pipeline(ROOT / "configs" / "irnet_voc.yaml", [])
    stages = f"{{{': , '.join(NAMES[:4])}: , semantic_labels: }}"
    semantic = load_pipeline(ROOT / "configs" / "irnet_voc.yaml", ["STAGES", stages])
    assert names(semantic.stages) == [*NAMES[:4], "semantic_labels"]
    assert relevant_config(semantic.stages[3]) == relevant_config(whole.stages[3])


def test_a_base_of_another_network_replaces_the_first(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "_BASE_: configs/irnet_shapes.yaml\nSTAGES:\n  mask_rcnn:\n"
        "    _BASE_: detectron2://COCO-Detection/retinanet_R_50_FPN_1x.yaml\n"
        "    SOLVER: {MAX_ITER: 7}\n"
    )
    cfg = load_pipeline(path, []).stages[-1].cfg
    assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    assert cfg.MODEL.RETINANET.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN[0]) == ("BGR", 103.53)  # of its weights
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (7, 0.01)
    assert cfg.MODEL.RESNETS.DEPTH == 50
    assert list(cfg.DATASETS.TRAIN) == ["shapes_train"]


def test_a_stage_may_start_from_another_one(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "_BASE_: configs/cim_shapes.yaml\n"
        "STAGES: {proposal_detections: {_BASE_: mined_instances, SEED: 8}}\n"
    )
    cfg = load_pipeline(path, ["mined_instances.MODEL.CIM.DETECTION.LIMIT", "3"]).stages[-3].cfg
    assert (cfg.SEED, cfg.MODEL.CIM.DETECTION.LIMIT) == (8, 3)
    assert cfg.MODEL.CIM.DETECTION.TARGETS == "classes"


@pytest.mark.parametrize(
    "text",
    [
        "{FORMAT: voc, ROOT: birds, SPLIT: train}",
        "{'NAME': 'birds', 'FORMAT': 'voc', 'ROOT': 'birds', 'SPLIT': 'train'}",
    ],
    ids=["yaml", "python"],
)
def test_data_from_the_command_line(text):
    name = "birds" if "NAME" in text else "irnet_shapes_train"
    for planned in load_pipeline(PIPELINE, ["DATA.TRAIN", text]).stages:
        assert list(planned.cfg.DATASETS.TRAIN) == list(planned.cfg.WSIS.IMAGES) == [name]
        assert list(planned.cfg.DATASETS.TEST) == []  # those of the base belong to other images
        assert planned.cfg.MODEL.CAMNET.NUM_CLASSES == 20
        assert yaml.safe_load(planned.cfg.dump())["WSIS"]["DATASETS"][0]["ROOT"] == "birds"


def test_data_have_roles():
    """VOC's figures are of train; whoever names other images is left with none of these sets."""
    voc = ROOT / "configs" / "cim_voc.yaml"
    stages = {p.name: p.cfg for p in load_pipeline(voc, []).stages}
    train, val = ("voc_2012_trainaug_instance",), ("voc_2012_val_instance",)
    assert train + val == stages["proposals"].WSIS.IMAGES
    assert stages["proposal_detections"].WSIS.IMAGES == stages["mask_rcnn"].DATASETS.TEST == val
    assert train == stages["mined_instances"].WSIS.IMAGES
    assert stages["mined_instances"].WSIS.EVALUATION.IMAGES == ("voc_2012_train_instance",)
    assert stages["proposal_detections"].WSIS.EVALUATION.IMAGES == ()
    pipeline = load_pipeline(voc, ["DATA.TRAIN", "shapes_train"])
    assert "proposal_detections" not in names(pipeline.stages)  # of val only
    assert pipeline.stages[-1].folder.name == "10_mask_rcnn"  # numbers stay when val comes back
    for planned in pipeline.stages:
        named = {*planned.cfg.DATASETS.TRAIN, *planned.cfg.DATASETS.TEST, *planned.cfg.WSIS.IMAGES}
        assert named | set(planned.cfg.WSIS.EVALUATION.IMAGES) == {"shapes_train"}
        assert planned.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4


def test_a_stage_that_others_need_runs_without_val():
    coco = ROOT / "configs" / "irnet_coco.yaml"
    pipeline = load_pipeline(coco, ["DATA.TRAIN", "shapes_train"])
    (planned,) = pipeline.select(stage="displacement_mean")
    assert planned.cfg.WSIS.IMAGES == ("shapes_train",)


def test_a_stage_with_other_images_is_not_evaluated_on_those_of_the_pipeline():
    words = ["cam.DATA.TRAIN", "voc_2012_val_instance"]
    (planned,) = load_pipeline(ROOT / "configs" / "irnet_voc.yaml", words).select(stage="cam")
    assert planned.cfg.WSIS.IMAGES == ("voc_2012_val_instance",)
    assert planned.cfg.WSIS.EVALUATION.IMAGES == ()


def test_a_folder_that_changed_is_read_again(tmp_path, monkeypatch):
    """In one process, as in a notebook: the classes are those of the folders that are there."""
    monkeypatch.chdir(tmp_path)
    for name in ("wren", "robin"):
        (tmp_path / "birds" / name).mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(tmp_path / "birds" / name / "a.png")
        cfg = load_pipeline(PIPELINE, ["DATA.TRAIN", "birds"]).stages[0].cfg
    assert list(cfg.WSIS.CLASSES) == ["robin", "wren"]
    assert cfg.MODEL.CAMNET.NUM_CLASSES == 2


def test_one_stage_may_have_other_data():
    words = ["box_segmenter.DATA.TRAIN", "[voc_2012_train_instance, shapes_train]"]
    first, second, *_ = load_pipeline(ROOT / "configs" / "boxcaseg_voc.yaml", words).stages
    train = ("voc_2012_train_instance", "shapes_train", "duts_tr_single")
    assert train == first.cfg.DATASETS.TRAIN
    assert second.cfg.WSIS.IMAGES == ("voc_2012_trainaug_instance",)


def test_a_saved_config_is_complete(tmp_path):
    """Detectron2 alone needs nothing else: classes, weights, sizes of images."""
    words = ["OUTPUT_DIR", str(tmp_path)]
    for planned in load_pipeline(PIPELINE, words).stages:
        path = tmp_path / "config.yaml"
        path.write_text(planned.complete_config())
        cfg = get_wsis_cfg()
        cfg.merge_from_file(str(path))
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.CAMNET.NUM_CLASSES == 4
        if planned.name in ("classifier", "relation_network", "mask_rcnn"):
            assert str(planned.folder / "model_final.pth") == cfg.MODEL.WEIGHTS
        assert (128 if planned.name == "mask_rcnn" else 0) == cfg.INPUT.MIN_SIZE_TEST


def test_modules_of_ones_own_bring_stages_and_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_module.py").write_text(
        "from detectron2.config import CfgNode\n"
        "from wsis.stage import DeriveStage, register_stages\n"
        "register_stages(DeriveStage(name='mine', title='', produces='mine', function=len,\n"
        "                            config_keys=('MODEL.MY',)))\n"
        "def add_keys(cfg):\n    cfg.MODEL.MY = CfgNode({'KEY': 3})\n"
    )
    path = tmp_path / "p.yaml"
    path.write_text(
        "_BASE_: configs/base/shapes.yaml\nWSIS: {IMPORTS: ['my_own_module:add_keys']}\n"
        "STAGES: {mine: {MODEL: {MY: {KEY: 4}}}}\n"
    )
    try:
        (planned,) = load_pipeline(path, []).stages
        assert planned.cfg.MODEL.MY.KEY == 4
        assert relevant_config(planned)["MODEL.MY.KEY"] == 4
        path.write_text(path.read_text().replace("add_keys", "no_function"))
        with pytest.raises(UsageError, match="the module has no such function"):
            load_pipeline(path, [])
    finally:
        stage._STAGES.pop("mine", None)


def test_a_project_of_detectron2_in_the_last_stage(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "_BASE_: configs/irnet_shapes.yaml\n"
        "WSIS: {IMPORTS: ['detectron2.projects.point_rend:add_pointrend_config']}\n"
        "STAGES: {mask_rcnn: {MODEL: {ROI_MASK_HEAD: {NAME: PointRendMaskHead}}}}\n"
    )
    cfg = load_pipeline(path, []).stages[-1].cfg
    assert cfg.MODEL.POINT_HEAD.NUM_CLASSES == 4
    assert cfg.INPUT.MASK_FORMAT == "bitmask"


def test_a_pipeline_is_no_config():
    with pytest.raises(KeyError, match="a pipeline of several networks; run it with train_net"):
        get_wsis_cfg().merge_from_file(str(PIPELINE))


def test_a_stage_that_needs_what_no_stage_makes(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("DATA: {TRAIN: shapes_train}\nSTAGES: {classifier: , instances: }\n")
    with pytest.raises(UsageError, match="instances needs 'relation_network', which no stage bef"):
        load_pipeline(path, [])


def test_a_stage_without_val_has_nothing_to_do():
    voc = ROOT / "configs" / "cim_voc.yaml"
    pipeline = load_pipeline(voc, ["DATA.TRAIN", "shapes_train"])
    with pytest.raises(UsageError, match="proposal_detections .* nothing to do without DATA.VAL"):
        pipeline.select(stage="proposal_detections")
