"""Every config key of WSIS; importing this module registers all parts, so that names resolve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from wsis import stages  # noqa: F401  (registers the shared stages)
from wsis.data import instance_mapper, mappers  # noqa: F401  (registers the shared mappers)
from wsis.data.config import add_input_config, add_proposals_config
from wsis.errors import UsageError
from wsis.methods.boxcaseg.config import add_boxcaseg_config
from wsis.methods.cim.config import add_cim_config
from wsis.methods.iam.config import add_iam_config
from wsis.methods.irnet.config import add_irnet_config
from wsis.methods.prm.config import add_prm_config
from wsis.modeling.config import add_modeling_config

ON_ERROR = ("raise", "skip")
# Nodes that only the stages that name them (Stage.config_keys) look at: a change in one method's
# leaves the others' products as they are.
METHOD_NODES = (
    "MODEL.CAMNET",
    "MODEL.PEAK_CLASSIFIER",
    "MODEL.IRNET",
    "MODEL.PRM",
    "MODEL.IAM",
    "MODEL.BOXCASEG",
    "MODEL.CIM",
)


def _add_shared_config(cfg: CfgNode) -> None:
    cfg.WSIS = CfgNode()
    # Pipeline: stage YAMLs in order, relative to the pipeline's file.
    cfg.WSIS.STAGES = []
    # Stage: the registered stage that this config runs.
    cfg.WSIS.STAGE = ""
    # Name of the method, for the record in pseudo labels.
    cfg.WSIS.METHOD = ""
    # Data sets of the user's own; each entry as datasets/README.md describes it.
    cfg.WSIS.DATASETS = []
    # Images that an infer, derive or export stage treats (names of registered data sets); () for
    # DATASETS.TRAIN, which training stages use, as everywhere in Detectron2.
    cfg.WSIS.IMAGES = ()
    # What to do with an image that cannot be processed: "raise" or "skip" (listed in the manifest).
    cfg.WSIS.ON_ERROR = "raise"
    # Product (a consumed training stage) whose weights initialise this training stage instead of
    # MODEL.WEIGHTS; "" for MODEL.WEIGHTS.
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
    # Void pixels: False leaves them in the predictions, hence in the unions; True cuts them out
    # ("voc") or treats the void region as a crowd of every class ("coco").
    cfg.WSIS.EVALUATION.IGNORE_VOID = False
    # A class without any object has AP 0, as CIM's tables count it; False leaves it out ("coco").
    cfg.WSIS.EVALUATION.ABSENT_IS_ZERO = False
    # Score above which a pseudo label counts for precision, recall and merged or split objects.
    cfg.WSIS.EVALUATION.MIN_SCORE = 0.0
    # Data sets on which products are evaluated, by image key; () for all of WSIS.IMAGES.
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
    add_boxcaseg_config(cfg)


def get_wsis_cfg() -> CfgNode:
    """Detectron2's defaults with WSIS's keys."""
    cfg = get_cfg()
    add_wsis_config(cfg)
    return cfg


def flatten(node: Any, prefix: str) -> dict[str, Any]:
    """Leaves of a config node by their full names."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key in node:
        flat.update(flatten(node[key], f"{prefix}.{key}" if prefix else key))
    return flat


def check_config(cfg: CfgNode) -> None:
    """Refuse values of shared keys that no stage can run with.

    Raises:
        UsageError: naming the key.
    """
    least = {
        "SOLVER.IMS_PER_BATCH": (cfg.SOLVER.IMS_PER_BATCH, 1),
        "SOLVER.CHECKPOINT_PERIOD": (cfg.SOLVER.CHECKPOINT_PERIOD, 1),
        "SOLVER.MAX_ITER": (cfg.SOLVER.MAX_ITER, 0),
        "DATALOADER.NUM_WORKERS": (cfg.DATALOADER.NUM_WORKERS, 0),
    }
    for key, (value, bound) in least.items():
        if value < bound:
            raise UsageError(f"{key} is {value}; it must be {bound} or more")
    head = cfg.MODEL.ROI_MASK_HEAD
    wanted = head.MIN_CONFIDENCE > 0 or head.USE_IGNORE or head.TARGETS != "detectron2"
    if wanted and cfg.MODEL.MASK_ON and head.NAME == "MaskRCNNConvUpsampleHead":
        raise UsageError(
            "MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE, USE_IGNORE and TARGETS do nothing in Detectron2's "
            "own head; set MODEL.ROI_MASK_HEAD.NAME ConfidenceMaskHead"
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise UsageError("SOLVER.AMP.ENABLED needs a GPU; set it False on a CPU")
    if cfg.WSIS.ON_ERROR not in ON_ERROR:
        choices = " or ".join(ON_ERROR)
        raise UsageError(f"WSIS.ON_ERROR is {cfg.WSIS.ON_ERROR!r}; it must be {choices}")
