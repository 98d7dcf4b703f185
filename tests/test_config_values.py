"""Which values config keys may have."""

import pytest
from wsis.config import stock_values
from wsis.config_values import check_values
from wsis.errors import UsageError


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("INPUT.CROP_SIDE", -5, "0 or more"),
        ("INPUT.LONGER_SIDE_RANGE", (9, 3), "two numbers, the smaller one first"),
        ("INPUT.LONGER_SIDE_RANGE", (9,), "a list of 2"),
        ("INPUT.LONGER_SIDE_RANGE", (0, 3), "1 or more"),
        ("INPUT.STRETCH", (64, -1), "0 or more"),
        ("INPUT.SCALES", (), "a list with at least one element"),
        ("INPUT.SCALES", ("a",), "a list of numbers"),
        ("INPUT.SCALES", (1.0, 0.0), "above 0"),
        ("MODEL.PIXEL_MEAN", [], "a list with at least one element"),
        ("MODEL.PIXEL_MEAN", [1.0, 2.0], "a list of 3"),
        ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "above 0"),
        ("MODEL.RESNETS.DEPTH", 0, "1 or more"),
        ("MODEL.IRNET.IN_FEATURES", ["res2"], "a list of 5"),
        ("MODEL.IRNET.IN_FEATURES", [1, 2, 3, 4, 5], "a list of words"),
        ("MODEL.IRNET.MEAN_DISPLACEMENT", [1.0], "a list of 2, or empty"),
        ("MODEL.IRNET.MEAN_DISPLACEMENT", ["a", 1.0], "a list of numbers"),
        ("MODEL.IRNET.LABEL.FOREGROUND_THRESHOLD", 1.5, "at most 1"),
        ("MODEL.CIM.DETECTION.AREA_RANGE", (0.9, 0.1), "two numbers, the smaller one first"),
        ("MODEL.CIM.DETECTION.MIN_SCORE", 2.0, "at most 1"),
        ("MODEL.BOXCASEG.THRESHOLD", 256, "at most 255"),
        ("MODEL.BOXCASEG.INFERENCE_SIDES", [64, 0], "whole numbers of 1 or more"),
        ("MODEL.BOXCASEG.INFERENCE_SIDES", [64.5], "whole numbers of 1 or more"),
        ("MODEL.BOXCASEG.INFERENCE_SIDES", [[64]], "a list of numbers"),
        ("MODEL.BOXCASEG.POINTS.SIDES", [0.1, 0.0], "above 0"),
        ("MODEL.IAM.KERNEL_SIZE", 4, "odd"),
        ("MODEL.RANDOM_WALKER.LONGER_SIDE", 0, "1 or more"),
        ("MODEL.RANDOM_WALKER.SUPERPIXELS", 0, "1 or more"),
        ("MODEL.BOXINST.NEIGHBOUR_DISTANCE", 0, "1 or more"),
        ("MODEL.CAM_INSTANCES.THRESHOLD", 1.5, "at most 1"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [-1]], "above 0"),
        ("SOLVER.BASE_LR", float("nan"), "finite"),
        ("SOLVER.BASE_LR", float("inf"), "finite"),
        ("SOLVER.STEPS", (-3,), "0 or more"),
        ("SOLVER.IMS_PER_BATCH", 0, "1 or more"),
        ("INPUT.MASK_FORMAT", "polygone", "one of polygon, bitmask; did you mean polygon?"),
        ("WSIS.EVALUATION.PROTOCOLS", ("voc", "coc"), "one of voc, coco, coco_bbox; did you mean"),
    ],
)
def test_impossible_values_are_refused(key, value, wanted):
    with pytest.raises(UsageError) as caught:
        check_values({"SEED": 3, key: value}, stock_values())
    assert str(caught.value).startswith(f"{key} is {value!r}; it must be {wanted}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.CROP_SIDE", 0),
        ("SEED", -1),
        ("SOLVER.STEPS", ()),
        ("MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", -1000.0),
        ("MODEL.PRM.NMS_THRESHOLD", 1.1),
        ("MODEL.CIM.DETECTION.MIN_SCORE", -1.0),
        ("MODEL.IRNET.MEAN_DISPLACEMENT", [-0.5, 0.5]),
        ("MODEL.PIXEL_MEAN", (-1.0, 0.0, 1.0)),
        ("MODEL.FPN.IN_FEATURES", ["res2"]),
        ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5, 0.6, 0.7, 0.75)),
        ("TEST.DETECTIONS_PER_IMAGE", -1),
        ("TEST.EVAL_PERIOD", -1),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", float("inf")),
        ("WSIS.PSEUDO_LABELS.MIN_SCORE", 2.0),
        ("MY.KEY", -7),
    ],
)
def test_unusual_values_are_accepted(key, value):
    check_values({key: value}, stock_values())


def test_the_defaults_are_accepted():
    """Also written as other types of lists, so that they are looked at."""
    defaults = stock_values()
    lists = {key: list(value) for key, value in defaults.items() if isinstance(value, tuple)}
    check_values(lists, defaults)
