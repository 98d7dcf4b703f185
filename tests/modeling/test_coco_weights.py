"""Detectors start from weights of the model zoo: all but what belongs to COCO's 80 classes."""

import pickle

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from wsis.engine.model_zoo import unlike_the_zoo
from wsis.engine.pipeline import load_pipeline
from wsis.errors import DataError
from wsis.modeling.checkpoint import load_weights

from tests.tiny import ROOT, train_net_here

PIPELINE = str(ROOT / "configs" / "irnet_shapes.yaml")
BASE = "base/mask_rcnn_r50_fpn_coco_weights.yaml"
ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
SMALL = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.DEVICE": "cpu",
}
NETWORKS = {  # the zoo's config, what start the names of the layers that belong to classes
    "mask_rcnn": (ZOO, ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predic")),
    "cascade": (
        "Misc/cascade_mask_rcnn_R_50_FPN_3x",
        (*(f"box_predictor.{k}.cls_score" for k in range(3)), "mask_head.predictor"),
    ),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_3x", ("head.cls_score",)),
}


def zoo_network(name, words=()):
    """Detectron2's own network of a config of the zoo, small, with random values."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(f"{name}.yaml"))
    cfg.merge_from_list([word for pair in SMALL.items() for word in pair])
    cfg.merge_from_list(list(words))
    torch.manual_seed(5)
    return build_model(cfg)


def save_as_zoo(model, path):
    """The layout of the zoo's files: arrays in a pickle, no counters of batch norm."""
    arrays = {k: v.numpy() for k, v in model.state_dict().items() if "num_batches" not in k}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    return str(path)


def stage(base, *words):
    small = [word for key, value in SMALL.items() for word in (f"mask_rcnn.{key}", str(value))]
    return load_pipeline(PIPELINE, ["mask_rcnn._BASE_", base, *small, *words]).stages[-1].cfg


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_but_the_layers_of_the_classes_arrives(name, tmp_path, caplog):
    zoo, of_classes = NETWORKS[name]
    theirs = zoo_network(zoo)
    path = save_as_zoo(theirs, tmp_path / "model_final.pkl")
    cfg = stage(BASE if zoo == ZOO else f"detectron2://{zoo}.yaml")
    ours = build_model(cfg)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    caplog.set_level("INFO", logger="wsis.modeling")
    missing = load_weights(ours, path)
    assert {k for k in before if any(part in k for part in of_classes)} == set(missing)
    given = theirs.state_dict()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, before[key] if key in missing else given[key]), key
    said = [(r.levelname, r.getMessage()) for r in caplog.records if "initial" in r.getMessage()]
    names = ", ".join(missing)
    line = f"{path} has another number of classes: {names} keep their initial values"
    assert said == [("INFO", line)]


def test_as_many_classes_as_the_file_has_are_taken_for_the_same(tmp_path):
    theirs = zoo_network(ZOO, ["MODEL.ROI_HEADS.NUM_CLASSES", 4])
    ours = build_model(stage(BASE))  # four kinds of shapes
    assert load_weights(ours, save_as_zoo(theirs, tmp_path / "model_final.pkl")) == []


def test_weights_of_another_trunk_are_refused(tmp_path):
    deeper = zoo_network(ZOO, ["MODEL.RESNETS.DEPTH", 101])
    path = save_as_zoo(deeper, tmp_path / "model_final.pkl")
    with pytest.raises(DataError, match=r"is of a deeper network, with res4\.6"):
        load_weights(build_model(stage(BASE)), path)


def test_an_input_that_the_weights_do_not_know_is_told():
    """RGB of torchvision's scale, stride in the 3x3: all shapes fit, and nothing else does."""
    assert unlike_the_zoo(stage(BASE)) == ""
    weights = stage(BASE).MODEL.WEIGHTS
    assert weights == f"detectron2://{ZOO}/137849600/model_final_f10217.pkl"
    told = unlike_the_zoo(
        stage("base/mask_rcnn_r50_fpn_voc.yaml", "mask_rcnn.MODEL.WEIGHTS", weights)
    )
    assert told == (
        "INPUT.FORMAT RGB, not BGR; MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], not [103.53, "
        "116.28, 123.675]; MODEL.PIXEL_STD [58.395, 57.12, 57.375], not [1.0, 1.0, 1.0]; "
        f"MODEL.RESNETS.STRIDE_IN_1X1 False, not True: write _BASE_: detectron2://{ZOO}.yaml in "
        "the stage"
    )
    for other in ("", "w.pkl", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "https://h/a/b/c"):
        words = ("mask_rcnn.MODEL.WEIGHTS", other)
        assert unlike_the_zoo(stage("base/mask_rcnn_r50_fpn_voc.yaml", *words)) == ""


def test_weights_that_do_not_come_stop_a_run_before_its_first_stage(shapes_root, tmp_path):
    """Offline, a pipeline would else fail hours later."""
    address = "http://127.0.0.1:9/model_final.pkl"  # nobody listens there
    words = {
        "datasets": shapes_root,
        "output": tmp_path / "run",
        "extra": [("mask_rcnn.MODEL.WEIGHTS", address)],
    }
    done = train_net_here(**words)
    assert done.returncode == 1
    assert f"the weights {address} did not come (" in done.stderr
    assert "download them yourself, or name a file by mask_rcnn.MODEL.WEIGHTS" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("*_*"))
