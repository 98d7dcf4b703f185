"""Whose run OUTPUT_DIR holds."""

from __future__ import annotations

import pytest
from wsis.engine.listing import other_run
from wsis.engine.manifest import DONE, RUNNING, Manifest
from wsis.engine.pipeline import load_pipeline

from tests.tiny import ROOT, train_net_here

CAM = ("1_classifier", "2_cam", "3_cam_instances", "4_pseudo_labels", "5_mask_rcnn")
IRNET = ("1_classifier", "2_cam", "3_inter_pixel_label", "4_relation_network")
IRNET += ("5_displacement_mean", "6_instances", "7_pseudo_labels", "8_mask_rcnn")
READY = ("1_box_masks", "2_proxy_masks", "3_pseudo_labels", "4_mask_rcnn")
POINTS = ("1_point_masks", "2_pseudo_labels", "3_mask_rcnn")
SEMANTIC = "{classifier: , cam: , inter_pixel_label: , relation_network: , semantic_labels: }"
WALKED = "{walked_masks: , pseudo_labels: , mask_rcnn: }"


def note(output, names, method="", status=DONE):
    """Run folders as far as `other_run` looks into them."""
    for name in names:
        (output / name).mkdir(parents=True, exist_ok=True)
        product = "ab" if status == DONE else ""
        Manifest(name.partition("_")[2], "infer", status, {}, {}, product).write(output / name)
        (output / name / "config.yaml").write_text(f"WSIS: {{METHOD: '{method}'}}\n")


def said(output, name, *words, **selection):
    words = ["DATA.TRAIN", "shapes_train", "OUTPUT_DIR", str(output), *words]
    pipeline = load_pipeline(ROOT / "configs" / f"{name}.yaml", words, networks=False)
    return other_run(pipeline, pipeline.select(**selection))


@pytest.mark.parametrize(
    ("there", "method", "name", "words", "selection"),
    [
        ((), "", "irnet_shapes", (), {}),
        (IRNET, "IRNet", "irnet_shapes", (), {}),
        (IRNET[:2], "IRNet", "irnet_shapes", (), {}),
        (IRNET, "IRNet", "irnet_shapes", ("STAGES", SEMANTIC), {}),  # docs/methods/irnet.md
        ((*IRNET[:4], "5_semantic_labels"), "IRNet", "irnet_shapes", (), {}),
        (IRNET, "", "irnet_shapes", ("STAGES", SEMANTIC), {}),  # no config tells the method
        # the classifier of another method serves as it is
        (CAM[:2], "CAM instances", "irnet_shapes", (), {}),
        (POINTS, "BoxCaseg", "points_photos", ("STAGES", WALKED), {"last": "walked_masks"}),
        (("1_walked_masks", *POINTS), "BoxCaseg", "points_photos", ("STAGES", WALKED), {}),
    ],
)
def test_a_pipeline_goes_on_in_its_folder(tmp_path, there, method, name, words, selection):
    note(tmp_path, there, method)
    assert said(tmp_path, name, *words, **selection) == ""


@pytest.mark.parametrize(
    ("there", "method", "name", "words", "told"),
    [
        (CAM, "CAM instances", "irnet_shapes", (), f"{', '.join(CAM[2:])} of CAM instances"),
        (IRNET, "IRNet", "cam_instances_shapes", (), f"{', '.join(IRNET[2:])} of IRNet"),
        (POINTS, "BoxCaseg", "boxcaseg_ready", (), f"{', '.join(POINTS)} of BoxCaseg"),
        (READY, "", "points_photos", (), ", ".join(READY)),
        (POINTS, "BoxCaseg", "points_photos", ("STAGES", WALKED), "1_point_masks of BoxCaseg"),
        (("1_supervised_mask_rcnn",), "", "boxinst_photos", (), "1_supervised_mask_rcnn"),
        (("2_cam", "10_mask_rcnn"), "", "boxinst_photos", (), "2_cam, 10_mask_rcnn"),
    ],
)
def test_another_pipeline_is_told(tmp_path, there, method, name, words, told):
    note(tmp_path, there, method)
    assert f"holds the run of another pipeline than {name}: {told}; name another OUTPUT_DIR" in (
        said(tmp_path, name, *words)
    )


def test_what_a_failed_attempt_has_left_is_no_run(tmp_path):
    note(tmp_path, READY[:1], "BoxCaseg", RUNNING)
    (tmp_path / "1_other").mkdir()
    (tmp_path / "1_other" / "manifest.json").write_text("{")
    assert said(tmp_path, "points_photos") == ""


def test_it_is_refused_before_anything_is_written(shapes_root, tmp_path, caplog):
    note(tmp_path, POINTS, "BoxCaseg")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = train_net_here(datasets=shapes_root, output=tmp_path)
    assert done.returncode == 2
    assert f"error: OUTPUT_DIR {tmp_path} holds the run of another pipeline" in done.stderr
    done = train_net_here("--list-stages", datasets=shapes_root, output=tmp_path)
    assert done.returncode == 0
    assert f"OUTPUT_DIR {tmp_path} holds the run of another pipeline" in caplog.text
    assert "not yet run" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
