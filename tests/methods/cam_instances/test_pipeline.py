"""CAM instances end to end on tiny shapes, through the command line."""

import json

from wsis.data.artifacts import ProductReader

from tests.tiny import ROOT, manifest_of, train_net_here

CONFIG = ROOT / "configs" / "cam_instances_shapes.yaml"


def go(output, datasets, *arguments, extra=()):
    done = train_net_here(
        *arguments, datasets=datasets, output=output, config=CONFIG,
        extra=[("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.0"), *extra],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


def test_from_tags_to_a_trained_network(shapes_root, tmp_path):
    text = go(tmp_path, shapes_root)
    assert "cam_instances" in text
    cams = ProductReader(tmp_path / "2_cam", "cam")
    product = ProductReader(tmp_path / "3_cam_instances", "cam_instances")
    count = 0
    keys = list(product.keys())
    for key in keys:
        arrays, cam = product[key], cams[key]
        assert arrays["masks"].shape[1:] == cam["high_res"].shape[1:]
        assert set(arrays["classes"].tolist()) <= set(cam["keys"].tolist())
        count += len(arrays["classes"])
    labels = json.loads((tmp_path / "4_pseudo_labels" / "pseudo_labels.json").read_text())
    assert labels["info"]["method"] == "CAM instances"
    assert len(labels["annotations"]) == count > 0
    assert (tmp_path / "5_mask_rcnn" / "model_final.pth").is_file()
    measured = {
        entry["stage"] for entry in json.loads((tmp_path / "metrics.json").read_text())["stages"]
    }
    assert {"classifier", "cam", "cam_instances", "mask_rcnn"} <= measured

    before = manifest_of(tmp_path, "cam")
    stage = ("--stage", "cam_instances", "--force")
    go(tmp_path, shapes_root, *stage, extra=[("MODEL.CAM_INSTANCES.LARGEST_ONLY", "True")])
    assert manifest_of(tmp_path, "cam") == before  # another method's key leaves it as it is
    for key in keys:
        classes = product[key]["classes"].tolist()
        assert len(classes) == len(set(classes))
