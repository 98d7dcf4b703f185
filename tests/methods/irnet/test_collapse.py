"""A collapsed displacement field, end to end: it is said, and the CAMs take over where wanted."""

import shutil

import numpy as np
import pytest
from wsis.data.artifacts import ProductReader

from tests.tiny import manifest_of, train_net_here


@pytest.mark.parametrize("fallback", [False, True])
def test_the_last_lines_say_that_the_field_has_collapsed(tiny_run, shapes_root, tmp_path, fallback):
    output = shutil.copytree(tiny_run, tmp_path / "out")
    done = train_net_here(
        "--stage", "instances", "--force", datasets=shapes_root, output=output,
        extra=[
            ("MODEL.IRNET.CLUSTER_THRESHOLD", "1000.0"),  # every displacement is weak
            ("MODEL.IRNET.FALLBACK", str(fallback)),
        ],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    images = manifest_of(output, "instances")["counts"]["images"]
    said = f"the displacement field has collapsed on {images} of {images} images"
    assert said in done.stdout + done.stderr
    found = ProductReader(output / "6_instances", "instances")
    cams = ProductReader(output / "2_cam", "cam")
    for key in list(found.keys()):
        tags, classes = cams[key]["keys"], found[key]["classes"]
        assert set(classes.tolist()) <= set(tags.tolist())
        if fallback:  # no class of the picture loses its pixels to another
            active = cams[key]["cam"].max(axis=(1, 2)) > 0.5
            assert set(tags[active].tolist()) == set(classes.tolist())
            assert np.all(found[key]["scores"] > 0)
