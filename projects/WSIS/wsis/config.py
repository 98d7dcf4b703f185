"""Every config key of WSIS; importing this module registers all stages."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from wsis import stages  # noqa: F401  (registers the shared stages)
from wsis.config_values import check_values
from wsis.data.config import add_input_config, add_proposals_config
from wsis.errors import UsageError
from wsis.methods.boxcaseg.config import add_boxcaseg_config
from wsis.methods.boxinst.config import add_boxinst_config
from wsis.methods.cam_instances.config import add_cam_instances_config
from wsis.methods.cim.config import add_cim_config
from wsis.methods.iam.config import add_iam_config
from wsis.methods.irnet.config import add_irnet_config
from wsis.methods.prm.config import add_prm_config
from wsis.methods.prompted_masks.config import add_prompted_masks_config
from wsis.methods.random_walker.config import add_random_walker_config
from wsis.modeling.config import add_modeling_config

# Nodes that only the stages that name them (Stage.config_keys) look at: a change in one method's
# leaves the others' products as they are.
METHOD_NODES = (
    "MODEL.CAMNET",
    "MODEL.PEAK_CLASSIFIER",
    "MODEL.IRNET",
    "MODEL.PRM",
    "MODEL.IAM",
    "MODEL.BOXCASEG",
    "MODEL.BOXINST",
    "MODEL.CIM",
    "MODEL.CAM_INSTANCES",
    "MODEL.PROMPTED_MASKS",
    "MODEL.RANDOM_WALKER",
)


def _add_shared_config(cfg: CfgNode) -> None:
    cfg.WSIS = CfgNode()
    # Filled in: the registered stage that this config runs.
    cfg.WSIS.STAGE = ""
    # Name of the method, for the record in pseudo labels.
    cfg.WSIS.METHOD = ""
    # Python modules of your own that register backbones, heads or architectures, and, as
    # "package.module:function", functions that add config keys:
    # ["detectron2.projects.point_rend:add_pointrend_config"].
    cfg.WSIS.IMPORTS = []
    # Filled in from DATA: class names by class id, and the data sets of the user's own.
    cfg.WSIS.CLASSES = []
    cfg.WSIS.DATASETS = []
    # Images that an infer, derive or export stage treats: roles of DATA, as [train, val]; () for
    # the stage's own. In the config of a run, names of registered data sets.
    cfg.WSIS.IMAGES = ()
    # What to do with an image that cannot be processed: "raise" or "skip" (listed in the manifest).
    cfg.WSIS.ON_ERROR = "raise"
    # Filled in where a stage ends with weights of its own: those that its training starts from.
    cfg.WSIS.INITIAL_WEIGHTS = ""
    # Product (a consumed training stage) whose weights initialise this training stage instead of
    # MODEL.WEIGHTS; "" for MODEL.WEIGHTS. So does a later stage.MODEL.WEIGHTS FILE (in a file: in
    # STAGES); MODEL.WEIGHTS for all stages does not.
    cfg.WSIS.INIT_FROM = ""

    # Pseudo labels (export).
    cfg.WSIS.PSEUDO_LABELS = CfgNode()
    # Instances with a lower score are left out.
    cfg.WSIS.PSEUDO_LABELS.MIN_SCORE = 1e-5


def _add_solver_config(cfg: CfgNode) -> None:
    # Optimiser, beyond Detectron2's SOLVER keys.
    cfg.WSIS.SOLVER = CfgNode()
    # "SGD", or "Adam" (which takes no SOLVER.MOMENTUM).
    cfg.WSIS.SOLVER.OPTIMIZER = "SGD"
    # [module name prefix, factor] pairs: rate = SOLVER.BASE_LR x factor of the first match.
    cfg.WSIS.SOLVER.LR_FACTORS = []
    # Learning rate of step t of T is BASE_LR (1 - t/T)^power; 0 uses SOLVER.LR_SCHEDULER_NAME.
    cfg.WSIS.SOLVER.POLY_POWER = 0.0
    # T where training stops before its end; 0 for SOLVER.MAX_ITER.
    cfg.WSIS.SOLVER.POLY_STEPS = 0
    # Where the rate changes by more than this factor, up or down, momentum buffers are multiplied
    # by the change, as Caffe2 needs it (CIM: 1.1); 0: never.
    cfg.WSIS.SOLVER.SCALE_MOMENTUM = 0.0
    # Parts in which a batch goes through the network, one after the other, for want of memory. The
    # gradient is the mean of theirs, and SOLVER.IMS_PER_BATCH and the schedule stay as they are.
    cfg.WSIS.SOLVER.ACCUMULATE = 1


def _add_evaluation_config(cfg: CfgNode) -> None:
    cfg.WSIS.EVALUATION = CfgNode()
    # Named protocols for instance masks: "voc", "coco".
    cfg.WSIS.EVALUATION.PROTOCOLS = ("voc", "coco")
    # Departures from the protocols; each shows in the protocol's name beside every figure.
    # VOC 2007's 11-point average precision ("voc" only).
    cfg.WSIS.EVALUATION.ELEVEN_POINT = False
    # Count difficult objects like others, as chainercv does; False: "voc" neither asks for them nor
    # punishes finding them, "coco" treats them as crowds.
    cfg.WSIS.EVALUATION.USE_DIFFICULT = True
    # Void pixels: False leaves them in the predictions, and so in the unions; True cuts them out
    # ("voc") or treats the void region as a crowd of every class ("coco").
    cfg.WSIS.EVALUATION.IGNORE_VOID = False
    # A class without any object has AP 0, as CIM's tables count it; False leaves it out ("coco").
    cfg.WSIS.EVALUATION.ABSENT_IS_ZERO = False
    # Score above which a pseudo label counts for precision, recall and merged or split objects.
    cfg.WSIS.EVALUATION.MIN_SCORE = 0.0
    # Filled in from DATA.EVALUATION: data sets on which products are evaluated, by image key; ()
    # for all of WSIS.IMAGES.
    cfg.WSIS.EVALUATION.IMAGES = ()
    # Background scores at which CAMs and their components (the baseline) are evaluated.
    cfg.WSIS.EVALUATION.CAM_THRESHOLDS = (0.15, 0.25, 0.4, 0.6)
    # Iterations of GrabCut, a baseline beside masks in given boxes; 0 leaves it out (about 0.1 s of
    # a CPU core per box).
    cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS = 5


def add_wsis_config(cfg: CfgNode) -> None:
    """Add WSIS's keys to a Detectron2 config, in place."""
    _add_shared_config(cfg)
    _add_solver_config(cfg)
    _add_evaluation_config(cfg)
    add_input_config(cfg)
    add_proposals_config(cfg)
    add_modeling_config(cfg)
    add_irnet_config(cfg)
    add_prm_config(cfg)
    add_cim_config(cfg)
    add_iam_config(cfg)
    add_random_walker_config(cfg)
    add_boxcaseg_config(cfg)
    add_boxinst_config(cfg)
    add_cam_instances_config(cfg)
    add_prompted_masks_config(cfg)
    for key in ("STAGES", "DATA"):  # a pipeline is no config of one network
        cfg.register_renamed_key(
            key,
            "the config.yaml of a run folder",
            "the file is a pipeline of several networks; run it with train_net.py, then merge "
            "OUTPUT_DIR/<n>_<stage>/config.yaml, or print one with --print-config STAGE",
        )


def default_config(imports: Iterable[str] = ()) -> CfgNode:
    """Detectron2's defaults with WSIS's keys, and those that ``imports`` (WSIS.IMPORTS) adds."""
    cfg = get_cfg()
    add_wsis_config(cfg)
    for add_keys in load_modules(imports):
        add_keys(cfg)
    return cfg


def get_wsis_cfg(imports: Iterable[str] = ()) -> CfgNode:
    """`default_config`, with every network and mapper registered, so that names resolve.

    ``merge_from_file`` takes the ``config.yaml`` of a run folder, which is complete: with it,
    Detectron2's ``DefaultPredictor`` gives the stage's network.
    """
    importlib.import_module("wsis.networks")
    return default_config(imports)


def load_modules(names: Iterable[str]) -> list[Callable[[CfgNode], None]]:
    """Import what ``WSIS.IMPORTS`` names; modules in the present folder are found, too.

    Args:
        names: ``package.module`` or ``package.module:function``.

    Returns:
        The functions, each of which adds its config keys to a config in place.

    Raises:
        UsageError: there is no such module or function.
    """
    found = []
    for name in dict.fromkeys(names):
        here = os.getcwd()
        sys.path.append(here)
        try:
            path, _, function = str(name).partition(":")
            module = importlib.import_module(path)
        except (ImportError, ValueError) as error:
            raise UsageError(f"WSIS.IMPORTS names {name}: {error}") from error
        finally:
            sys.path.remove(here)
        if function and not hasattr(module, function):
            raise UsageError(f"WSIS.IMPORTS names {name}: the module has no such function")
        found += [getattr(module, function)] if function else []
    return found


def stated_imports(values: Mapping[str, Any]) -> list[str]:
    """WSIS.IMPORTS of the lines of a config; a `UsageError` if it is no list of modules."""
    node = values.get("WSIS")
    found = node.get("IMPORTS") or [] if isinstance(node, Mapping) else []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"WSIS.IMPORTS is {found!r}; it is a list of modules")
    return found


@functools.cache
def stock_values(imports: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every config key with its default, by full name; computed once, not to be changed.

    Args:
        imports: as in ``WSIS.IMPORTS``, whose keys are added.
    """
    return flatten(default_config(imports), "")


def set_class_count(cfg: CfgNode, count: int) -> None:
    """Set ``NUM_CLASSES`` of all parts of the network, in place; semantic heads count otherwise."""
    nodes = [cfg.MODEL]
    while nodes:
        node = nodes.pop()
        nodes += [v for k, v in node.items() if isinstance(v, CfgNode) and k != "SEM_SEG_HEAD"]
        if "NUM_CLASSES" in node:
            node.NUM_CLASSES = count


def flatten(node: Any, prefix: str) -> dict[str, Any]:
    """Leaves of a config node by their full names."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key in node:
        flat.update(flatten(node[key], f"{prefix}.{key}" if prefix else key))
    return flat


# Keys of Detectron2 that WSIS does not serve, and what to do instead.
_NOT_SERVED = {
    "DATALOADER.SAMPLER_TRAIN": "images come in a shuffled order that a killed run can go on with",
    "DATALOADER.REPEAT_THRESHOLD": "list an image twice in the data set to see it more often",
    "DATALOADER.REPEAT_SQRT": "list an image twice in the data set to see it more often",
    "DATASETS.PROPOSAL_FILES_TRAIN": "segment proposals are read by the stage proposals",
    "DATASETS.PROPOSAL_FILES_TEST": "segment proposals are read by the stage proposals",
    "MODEL.LOAD_PROPOSALS": "segment proposals are read by the stage proposals",
    "MODEL.KEYPOINT_ON": "weak labels have no key points",
    "CUDNN_BENCHMARK": "results would depend on the timing of a GPU",
    "VIS_PERIOD": "tools/report.py draws what a stage made",
    "TEST.EXPECTED_RESULTS": "compare OUTPUT_DIR/metrics.json",
    "TEST.PRECISE_BN.ENABLED": "set MODEL.RESNETS.NORM FrozenBN, or train longer",
}


def _refuse_what_is_not_served(cfg: CfgNode) -> None:
    stock, own = stock_values(), flatten(cfg, "")
    for key, advice in _NOT_SERVED.items():
        if key in stock and own[key] != stock[key]:
            raise UsageError(f"{key} {own[key]} is not served: {advice}; leave it at {stock[key]}")
    if cfg.TEST.AUG.ENABLED and cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        raise UsageError(
            f"stage {cfg.WSIS.STAGE}: TEST.AUG.ENABLED needs MODEL.META_ARCHITECTURE "
            "GeneralizedRCNN; set it for that stage alone, mask_rcnn.TEST.AUG.ENABLED"
        )


def check_config(cfg: CfgNode) -> None:
    """Refuse values of shared keys that no stage can run with, and keys that would do nothing.

    Raises:
        UsageError: naming the key.
    """
    _refuse_what_is_not_served(cfg)
    check_values(flatten(cfg, ""), stock_values())
    head = cfg.MODEL.ROI_MASK_HEAD
    wanted = head.MIN_CONFIDENCE > 0 or head.USE_IGNORE or head.TARGETS != "detectron2"
    if wanted and cfg.MODEL.MASK_ON and head.NAME == "MaskRCNNConvUpsampleHead":
        raise UsageError(
            "MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE, USE_IGNORE and TARGETS do nothing in Detectron2's "
            "own head; set MODEL.ROI_MASK_HEAD.NAME ConfidenceMaskHead"
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise UsageError("SOLVER.AMP.ENABLED needs a GPU; set it False on a CPU")
