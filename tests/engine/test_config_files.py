"""Config files and the command line: what has the last word, and what users get wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from wsis.engine.config_files import read_overrides
from wsis.engine.pipeline import load_pipeline
from wsis.errors import UsageError

from tests.engine.test_pipeline import NAMES, names
from tests.tiny import PIPELINE, ROOT


def test_a_later_file_has_the_last_word_and_bases_may_lie_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "first.yaml", tmp_path / "deep" / "second.yaml"
    first.write_text(
        "_BASE_: configs/irnet_shapes.yaml\n"  # of the checkout
        "SOLVER: {BASE_LR: 0.3}\n"
        "STAGES: {classifier: {SOLVER: {MAX_ITER: 9}}, cam: {SEED: 5}}\n"
    )
    second.parent.mkdir()
    second.write_text("_BASE_: first.yaml\nSEED: 6\nOUTPUT_DIR: out\n")
    pipeline = load_pipeline(second, [])
    assert names(pipeline.stages) == NAMES
    stages = {p.name: p.cfg for p in pipeline.stages}
    assert {cfg.SOLVER.BASE_LR for cfg in stages.values()} == {0.3}
    assert stages["classifier"].SOLVER.MAX_ITER == 9
    assert {cfg.SEED for cfg in stages.values()} == {6}
    assert {cfg.SEED for cfg in (p.cfg for p in load_pipeline(first, []).stages)} == {1, 5}
    assert pipeline.output_dir == Path("out")


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
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {path}\nMODEL: {{PEAK_CLASSIFIER: {{FILTER: {text}}}}}\n")
    found = filter_of(own)
    assert found == text or float(found) == float(text)
    with pytest.raises(UsageError, match="Type mismatch"):
        load_pipeline(path, ["MODEL.META_ARCHITECTURE", "[1]"])
    with pytest.raises(UsageError, match="Type mismatch"):
        load_pipeline(path, ["MODEL.PEAK_CLASSIFIER.WINDOW", "three"])


def test_a_rate_may_be_a_whole_number(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {PIPELINE}\nSOLVER: {{WEIGHT_DECAY: 0}}\n")
    (planned,) = load_pipeline(own, ["SOLVER.BASE_LR", "1"]).select(stage="mask_rcnn")
    assert repr(planned.cfg.SOLVER.BASE_LR) == "1.0"
    assert repr(planned.cfg.SOLVER.WEIGHT_DECAY) == "0.0"


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {PIPELINE}\nOUTPUT_DIR: ~/runs/birds\n")
    pipeline = load_pipeline(own, (), networks=False)
    assert pipeline.output_dir == tmp_path / "runs" / "birds"
    assert pipeline.stages[1].folder == tmp_path / "runs" / "birds" / "2_cam"


def test_a_pipeline_of_wsis_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("irnet_shapes.yaml", "configs/irnet_shapes.yaml"):
        assert load_pipeline(name, (), networks=False).name == "irnet_shapes"
    for name in ("irnet_shapes", "irnet_shape.yaml", "configs/irnet_shape.yaml"):
        with pytest.raises(UsageError, match="no config file .*; did you mean irnet_shapes.yaml"):
            load_pipeline(name, ())


def test_the_command_line_is_read_as_a_file():
    words = ["A.B", "1", "A.C", "x", "cam.C", "2", "DATA.VAL", "", "cam.DATA.TRAIN", "[a, b]"]
    found = read_overrides(words, ["cam", "mask_rcnn"])
    assert {name: (part.lines, part.data) for name, part in found.parts.items()} == {
        "": ((("command line", {"A": {"B": "1", "C": "x"}}),), {"VAL": None}),
        "cam": ((("command line", {"C": "2"}),), {"TRAIN": ["a", "b"]}),
        "mask_rcnn": ((("command line", {}),), {}),
    }
    words = ["A", "1", "A.B", "(1, 2)"]
    assert read_overrides(words, []).parts[""].lines[0][1] == {"A": {"B": "(1, 2)"}}
    with pytest.raises(UsageError, match="'A' has no value"):
        read_overrides(["A"], [])
    said = "'cams.C' is neither a config key nor <stage>.KEY; stages: cam; did you mean cam?"
    with pytest.raises(UsageError, match=said):
        read_overrides(["cams.C", "2"], ["cam"])


def test_a_path_may_begin_with_a_bracket():
    assert read_overrides(["A", "[a]b"], []).parts[""].lines[0][1] == {"A": "[a]b"}


def test_a_file_on_which_many_build_is_read_once(tmp_path, monkeypatch):
    """Doubled at each of 40 levels: without that, 2^40 files."""
    (tmp_path / "0.yaml").write_text("_BASE_: configs/irnet_shapes.yaml\nSEED: 3")
    for level in range(1, 41):
        base = f"{level - 1}.yaml"
        (tmp_path / f"{level}.yaml").write_text(f"_BASE_: [{base}, {base}]")
    assert load_pipeline(tmp_path / "40.yaml", ()).stages[0].cfg.SEED == 3


def test_lines_for_one_stage_win_over_those_for_all():
    words = ["cam.SEED", "5", "SEED", "6"]
    assert [p.cfg.SEED for p in load_pipeline(PIPELINE, words).stages[:2]] == [6, 5]


def test_a_file_that_adds_lines_to_a_stage_leaves_its_start(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(
        "_BASE_: configs/cim_shapes.yaml\nSTAGES: {proposal_detections: {_BASE_: mined_instances}}"
    )
    second.write_text("_BASE_: first.yaml\nSTAGES: {proposal_detections: {SEED: 8}}")
    words = ["mined_instances.MODEL.CIM.DETECTION.LIMIT", "3"]
    cfg = load_pipeline(second, words).stages[-3].cfg
    assert (cfg.WSIS.STAGE, cfg.SEED) == ("proposal_detections", 8)
    assert cfg.MODEL.CIM.DETECTION.LIMIT == 3


@pytest.mark.parametrize(
    ("config", "stages"),
    [
        ("irnet_shapes", "{classifier: , cam: {SEED: 5}, cam_instances: , pseudo_labels: }"),
        ("irnet_shapes", "{cam: {INPUT: {SCALES: [1.0]}, DATA: {TRAIN: shapes_val}}}"),
        ("points_photos", "{walked_masks: , point_masks: {_BASE_: wsis://boxcaseg_ready}}"),
    ],
)
def test_stages_on_the_command_line_count_as_in_a_file(config, stages, tmp_path):
    """Lines for some of the stages, or a new list where one of them is new."""
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: configs/{config}.yaml\nSTAGES: {stages}\n")
    base, words = ROOT / "configs" / f"{config}.yaml", ["DATA.TRAIN", "shapes_train"]
    found = [load_pipeline(base, ["STAGES", stages, *words]), load_pipeline(own, words)]
    first, second = ({one.name: one.cfg for one in pipeline.stages} for pipeline in found)
    assert first == second
    assert [*first] == [*second]
    told = load_pipeline(
        base, ["cam.SEED", "6", "STAGES", "{cam: {SEED: 5}}"] if "cam" in first else words
    )
    assert [one.cfg.SEED for one in told.stages if one.name == "cam"] in ([6], [])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[cam]", "command line: STAGES is not a set of stage names"),
        ("{cam: 3}", "command line: stage cam is 3, not a set of KEY"),
        ("{cams: }", "STAGES names cams, but the pipeline .* mask_rcnn; did you mean cam"),
        ("{proposals: }", "STAGES names proposals, but the pipeline that it builds on has class"),
        ("cam", "command line: STAGES is not a set of stage names"),
    ],
)
def test_wrong_stages_on_the_command_line(stages, message):
    with pytest.raises(UsageError, match=message):
        load_pipeline(PIPELINE, ["STAGES", stages])


LAUGHS = (
    "{a: &a [x], "
    + ", ".join(
        f"{y}: &{y} [{', '.join([f'*{x}'] * 20)}]"
        for x, y in zip("abcdefg", "bcdefgh", strict=True)
    )
    + "}"
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
        (["SOLVER.MAX_ITR", "1"], "SOLVER.MAX_ITR; did you mean SOLVER.MAX_ITER?"),
        (["INPUT.SCALES", "1.0"], r'a list is written "\[a, b\]"'),
        (["SOLVER.MAX_ITER", "ten"], "SOLVER.MAX_ITER is 'ten'; it takes a whole number, as 160"),
        (["SOLVER.STEPS", "3,\n4"], r"SOLVER.STEPS is '3,\\n4'; it takes a list"),
        (["SOLVER.BASE_LR", "1" + 400 * "0"], "SOLVER.BASE_LR is .*; it takes a number, as 0.05"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is ''; it must be the path of a folder"),
        (["data.train", "birds"], r"'data.train' is neither a config key .*; did you mean DATA\?"),
        (["DATASETS.TRAIN", "[a]"], "DATASETS.TRAIN is filled in from DATA; name data sets there"),
        (["cam.WSIS.EVALUATION.IMAGES", "[a]"], "WSIS.EVALUATION.IMAGES is filled in from DATA"),
        (["cam.WSIS.IMAGES", "[a]"], "stage cam: WSIS.IMAGES names roles of DATA .*, not 'a'"),
        (["DATA.TEST", "a"], "DATA has no role 'TEST'; roles are TRAIN, VAL, SALIENT"),
        (["DATA.TRIAN", "a"], "has no role 'TRIAN'; roles are TRAIN, .*; did you mean TRAIN"),
        (["DATE.TRAIN", "a"], r"config key: DATE; did you mean DATA\?$"),
        (["OUTPUT_DIR", "None"], "OUTPUT_DIR has no value"),
        (["SLOVER.MAX_ITER", "1"], r"config key: SLOVER; did you mean SOLVER\?$"),
        (["cam.WSIS.IMAGES", "[trian]"], "not 'trian'; did you mean TRAIN"),
        (["DATA.VAL", "{FORMAT: Cocoo, IMAGES: a}"], "FORMAT is .*, not Cocoo; did you mean coco"),
        (["DATA.VAL", "{FORMAT: coco, JSN: a}"], "unknown 'JSN'; .*; did you mean JSON"),
        (["DATA.VAL", "nowhere"], r"DATA.VAL: there is no data set \(nor a path\) 'nowhere'"),
        (["DATA.VAL", "{FORMAT: voc"], "not readable YAML"),
        (["DATA.TRAIN", ""], "stage classifier needs DATA.TRAIN: a folder of class folders"),
        (["DATA.TRAIN", "."], "DATA.TRAIN: . is no COCO JSON, no VOC tree"),
        (["DATA.VAL", "shapes_salient"], "shapes_salient has salient images and no classes"),
        (
            ["DATA.VAL", "voc_2012_val_instance"],
            r"voc_2012_val_instance has 20; number 1 is '\w+' in the first and 'aeroplane' in the",
        ),
        (["SOLVER.MAX_ITER", "many"], "MAX_ITER"),
        (["SOLVER.MAX_ITER", "-1"], "MAX_ITER is -1; it must be 0 or more"),
        (["MODEL.ROI_MASK_HEAD.USE_IGNORE", "True"], "set MODEL.ROI_MASK_HEAD.NAME Confidence"),
        (["DATA.TRAIN", "[]"], "stage classifier needs DATA.TRAIN"),
        (["DATA.TRAIN", LAUGHS], r"DATA.TRAIN: .*|command line: .* aliases written out"),
        (["OUTPUT_DIR", "-" * 100_000 + "1"], "command line: (RecursionError|MemoryError)"),
        (["SEED.X", "3"], r"command line: SEED is \{'X': '3'\}; it takes one value"),
        (["SOLVER", "3"], "SOLVER is '3'; it takes keys of its own, as SOLVER"),
        (["_BASE_", "x"], "reserved key '_BASE_' can only be used in files"),
        (["DATA", "x"], "DATA is 'x'; it has the roles TRAIN"),
        (["SOLVER.MAX_ITER", "None"], "SOLVER.MAX_ITER has no value"),
        (["SEED=1"], "overrides come with a space: 'SEED 1'"),
        (["WSIS.IMPORTS", "[a]"], "WSIS.IMPORTS is read from config files only"),
        (
            ["STAGES", "{classifier: {WSIS: {IMPORTS: [a]}}}"],
            "WSIS.IMPORTS is read from config files only",
        ),
        (["mask_rcnn.OUTPUT_DIR", "x"], "OUTPUT_DIR is one for all stages"),
        (["TEST.EXPECTED_RESULTS", "[1]"], "TEST.EXPECTED_RESULTS .* is not served"),
        (["CUDNN_BENCHMARK", "True"], "CUDNN_BENCHMARK True is not served"),
        (["DATALOADER.SAMPLER_TRAIN", "X"], "DATALOADER.SAMPLER_TRAIN X is not served"),
        (["INPUT.CROP.ENABLED", "True"], "classifier: INPUT.CROP is Detectron2's"),
        (["cam.TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED needs MODEL.META_ARCHITECTURE Gen"),
    ],
)
def test_wrong_overrides_are_usage_errors(overrides, message):
    with pytest.raises(UsageError, match=message):
        load_pipeline(PIPELINE, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "_BASE_: configs/irnet_shapes.yaml\nmask_rcnn: {SEED: 1}",
            "the lines of a stage stand below STAGES",
        ),
        (
            "_BASE_: configs/irnet_shapes.yaml\nDATA: {TRAIN: a}\nDATA: {VAL: b}",
            "DATA occurs twice, again in line 3",
        ),
        ("_BASE_: absent.yaml", "_BASE_ names absent.yaml, which is no file in"),
        ("_BASE_: irnet_shape.yaml", "or configs/; did you mean irnet_shapes.yaml"),
        (
            "_BASE_: configs/irnet_shapes.yaml\nSTAGE: {cam: {}}",
            "config key: STAGE; did you mean STAGES",
        ),
        ("_BASE_: https://host/x.yaml", "_BASE_ names the address https://host/x.yaml; download"),
        ("STAGES: {classifier: {_BASE_: http://host/x.yaml}}", "_BASE_ names the address"),
        ("_BASE_: p.yaml", "builds on itself"),
        ("STAGES: {classifier: {_BASE_: loop.yaml}}", "loop.yaml builds on itself"),
        ("_BASE_: detectron2://COCO-Detection/rpn_R_50_C4_1x.yaml", "which is no file in"),
        ("_BASE_: 3", "_BASE_ is 3; it is the path of a file"),
        ("STAGES: {no_such_stage: }", "no stage 'no_such_stage'; registered are: .*classifier"),
        ("STAGES: {classifier: 3}", "stage classifier is 3, not a set of KEY: value lines"),
        ("STAGES: [classifier]", "STAGES is not a set of stage names"),
        ("STAGES: {classifier: {_BASE_: [cam, cam]}}", "names 2 stages"),
        ("STAGES: {classifier: {_BASE_: cam}}", "'cam', which is no stage or file"),
        (
            "_BASE_: configs/irnet_shapes.yaml\nSTAGES: {cam: {_BASE_: clasifier}}",
            r"'clasifier', which is no stage or file; did you mean classifier\?",
        ),
        ("STAGES: {classifier: {_BASE_: detectron2://x.yaml}}", "model zoo has no such config"),
        ("STAGES: {classifier: {_BASE_: detectron2:///etc/passwd}}", "zoo has no such config"),
        ("STAGES: {classifier: {_BASE_: detectron2://../x.yaml}}", "zoo has no such config"),
        ("STAGES: {classifier: {_BASE_: detectron2://COCO-Detection}}", "zoo has no such config"),
        ("_BASE_: configs/prm_shapes.yaml\nSTAGES: {classifier: }", "STAGES names classifier, but"),
        ("SOLVER: {1: 2}", "1 is no key; keys are words"),
        ("STAGES: {classifier: }\nWSIS: {IMPORTS: x}", "IMPORTS is 'x'; it is a list"),
        ("STAGES: {classifier: }\nWSIS: 3", "p.yaml: WSIS is 3; it takes keys of its own, as WSIS"),
        ("STAGES: {classifier: {MODEL: {RPN: }}}", "classifier: MODEL.RPN is None; it takes keys"),
        ("STAGES: {classifier: }\nSEED: {A: 1}", "SEED is {'A': 1}; it takes one value"),
        ("STAGES: {clasifier: }", "no stage 'clasifier'.*; did you mean classifier"),
        ("STAGES: {classifier: }\nSOLVER: {BASE_L: 1}", "p.yaml: .*mean SOLVER.BASE_LR"),
        ("STAGES: {classifier: {_BASE_: configs/irnet_voc.yaml}}", "is a pipeline"),
        ("MODEL: {}", "has no STAGES: it is no pipeline"),
        ("WSIS: {STAGE: cam}", "is the config of one stage.* run its pipeline with --stage"),
        ("DATA: {TEST: a}", "DATA has no role 'TEST'"),
        ("DATA: [a]", r"DATA is \['a'\]; it has the roles"),
        ("WSIS: [", "not readable YAML"),
        ("WSIS: " + LAUGHS, "not readable YAML: it has more than .* aliases written out"),
        ("STAGES: [/dev/zero]", "STAGES is not a set of stage names"),
        ('STAGES: {classifier: }\nOUTPUT_DIR: "a\\0b"', "OUTPUT_DIR has a null character"),
        ("_BASE_: /dev/zero", "_BASE_ names /dev/zero, which is no file in /dev or configs/$"),
        ("", "not a set of KEY: value lines"),
        ("- a\n- b", "not a set of KEY: value lines"),
        ("STAGES: {classifier: {NO_KEY: 1}}\nDATA: {TRAIN: shapes_train}", "NO_KEY"),
        ("STAGES: {classifier: }", "needs DATA.TRAIN"),
        (
            "STAGES: {classifier: }\nWSIS: {IMPORTS: [no_such_module]}",
            "IMPORTS names no_such_module",
        ),
    ],
)
def test_wrong_files_are_usage_errors(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    (tmp_path / "loop.yaml").write_text("_BASE_: loop.yaml")
    with pytest.raises(UsageError, match=message):
        load_pipeline(path, [])


def test_the_command_line_starts_a_stage_from_another_config():
    def stage(base):
        return load_pipeline(PIPELINE, ["mask_rcnn._BASE_", base]).stages[-1].cfg

    cfg = stage("base/mask_rcnn_r50_fpn_coco.yaml")
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.FPN.OUT_CHANNELS) == (50, 256)
    cfg = stage(
        "[detectron2://Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml, base/boxcaseg_retrain.yaml]"
    )
    assert cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads"
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "ConfidenceMaskHead"
    with pytest.raises(UsageError, match=r"command line: _BASE_ names nope.yaml, which is no file"):
        stage("nope.yaml")
    with pytest.raises(UsageError, match="is a pipeline .it has DATA.; a stage starts from a netw"):
        stage("configs/irnet_voc.yaml")
    with pytest.raises(UsageError, match="command line: _BASE_ is .'a': 1.; it is the path"):
        stage("{a: 1}")


def test_a_stage_starts_from_one_that_its_pipeline_leaves_out():
    """Its lines in the base file count; where a network is used, those of its training do, too."""
    tags = load_pipeline(ROOT / "configs" / "iam_shapes.yaml", [])
    points = load_pipeline(ROOT / "configs" / "iam_shapes_point.yaml", [])
    tags, points = ({p.name: p.cfg for p in one.stages} for one in (tags, points))
    assert "filled_instances" not in points
    pairs = {"filling_network": "point_filling_network", "filled_instances": "filled_points"}
    for old, new in pairs.items():
        assert points[new].SOLVER == tags[old].SOLVER
        assert points[new].MODEL.IAM.SAMPLER == tags[old].MODEL.IAM.SAMPLER
        assert points[new].MODEL.IAM.CRF == tags[old].MODEL.IAM.CRF
    assert points["filled_points"].MODEL.IAM.NMS_THRESHOLD == 1.1
    assert points["filled_points"].MODEL.PEAK_CLASSIFIER.MAX_PEAKS == 0
