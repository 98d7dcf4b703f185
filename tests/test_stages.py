"""What must hold for every registered stage: it names only what is there."""

from pkgutil import resolve_name

import numpy as np
import pytest
import torch
import wsis.networks  # noqa: F401  (registers the mappers)
from wsis.config import METHOD_NODES, flatten, get_wsis_cfg
from wsis.data.mappers import MAPPER_REGISTRY
from wsis.engine.manifest import _NEVER, look_up
from wsis.stage import _STAGES, Later
from wsis.stages import OF_POINTS, cam_artifact, count_points

STAGES = pytest.mark.parametrize("stage", _STAGES.values(), ids=list(_STAGES))
LEVELS = {
    "box_segmenter": "box",
    "boxinst": "box",
    "boxinst_masks": "box",
    "box_masks": "box",
    "filled_masks": "box",
    "grabcut_masks": "box",
    "proxy_masks": "box",
    "point_clusters": "point",
    "point_peak_classifier": "point",
    "point_filling_network": "point",
    "filled_points": "point",
    "retrieved_points": "point",
    "point_masks": "point",
    "walked_masks": "point",
    "prompted_box_masks": "box",
    "prompted_point_instances": "point",
    "mask_rcnn": "mask",  # the pseudo labels'
    "supervised_mask_rcnn": "mask",
}
# They decide how much is done at once.
MEMORY_ONLY = {*_NEVER, "MODEL.BOXCASEG.MAX_CROPS", "MODEL.CIM.PROPOSAL_CHUNK"}
MEMORY_ONLY |= {"MODEL.PROMPTED_MASKS.PROMPTS_AT_ONCE"}


@STAGES
def test_keys_exist(stage):
    cfg = get_wsis_cfg()
    own = [key for key in (getattr(stage, "model_key", ""),) if key]
    for key in (*stage.config_keys, *stage.file_keys, *stage.evaluation_keys, *stage.config, *own):
        look_up(cfg, key)


@STAGES
def test_functions_that_are_imported_later_are_there(stage):
    for value in vars(stage).values():
        value = getattr(value, "func", value)  # a partial's
        if isinstance(value, Later):
            assert callable(resolve_name(value.name)), value


@STAGES
def test_names_are_known(stage):
    if stage.kind in ("train", "infer"):
        assert stage.mapper in MAPPER_REGISTRY
    if stage.kind == "infer" and not stage.model_key:
        makers = [other for other in _STAGES.values() if other.produces == stage.weights_from]
        assert {maker.kind for maker in makers} == {"train"}
    made = {other.produces for other in _STAGES.values()}
    assert set(stage.consumes) <= made
    assert stage.produces not in stage.consumes


def test_products_that_stages_do_without():
    starts = {name for name, stage in _STAGES.items() if not stage.consumes}
    assert starts == {
        *("classifier", "peak_classifier", "box_segmenter", "boxinst"),
        *("proposals", "supervised_mask_rcnn", "filled_masks", "grabcut_masks"),
        *("point_peak_classifier", "walked_masks"),
        *("prompted_box_masks", "prompted_point_instances"),
    }
    assert _STAGES["response_instances"].consumes == ("peak_classifier",)


@STAGES
def test_supervision(stage):
    assert stage.supervision == LEVELS.get(stage.name, "image")


@STAGES
def test_what_makes_masks_of_points_counts_them(stage):
    of_points = stage.supervision == "point" and stage.produces == "instances"
    assert of_points == (stage.tally is count_points)


def test_points_of_one_mask_and_of_none_are_counted():
    """The first mask has two points of its class, and one of another class, which is in its own."""
    masks = np.zeros((3, 4, 6), dtype=bool)
    masks[0, :, :4], masks[1, 1, 1], masks[2, 3, 5] = True, True, True
    places = [([0, 0], 7), ([3.9, 3], 7), ([1, 1], 8), ([6, 4], 8), ([5, 0], 7), ([5, 3], 7)]
    annotations = [{"point": point, "category_id": kind} for point, kind in places]
    record = {"height": 4, "width": 6, "annotations": annotations}
    counts = count_points({"masks": masks, "classes": np.array([7, 8, 8])}, record)
    assert counts == {"points": 6, "points_sharing_a_mask": 2, "points_without_mask": 2}
    nothing = {"masks": masks[:0], "classes": np.zeros(0, dtype=np.int64)}
    assert count_points(nothing, record)["points_without_mask"] == 6
    record["annotations"] = []
    assert set(count_points(nothing, record).values()) == {0}
    said = OF_POINTS["remarks"]["points_sharing_a_mask"].format_map(counts)
    assert said.startswith("2 of 6 points share their mask with another point")


@pytest.mark.parametrize("node", METHOD_NODES)
def test_every_key_of_a_method_makes_some_stage_stale(node):
    cfg = get_wsis_cfg()
    named = {
        key
        for stage in _STAGES.values()
        for key in (*stage.config_keys, *stage.file_keys, *stage.config)
    }
    named |= {stage.model_key for stage in _STAGES.values() if getattr(stage, "model_key", "")}
    covered = {leaf for key in named for leaf in flatten(look_up(cfg, key), key)}
    assert flatten(look_up(cfg, node), node).keys() - covered <= MEMORY_ONLY


def test_cam_artifact():
    output = {
        "logits": torch.zeros(3),
        "keys": torch.tensor([1]),
        "cam": torch.rand(1, 2, 3),
        "high_res": torch.rand(1, 8, 12),
    }
    kept = cam_artifact(output)
    assert {k: v.dtype for k, v in kept.items()} == {
        "keys": np.int64,
        "cam": np.float32,
        "high_res": np.float16,
    }
