"""Config keys of CIM; importing this module registers its stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.cim import stages  # noqa: F401  (registers them)


def _add_training_config(keys: CfgNode) -> None:
    """How pseudo ground truth is chosen among the proposals, and the losses."""
    keys.MINING = CfgNode()
    # The best-scored proposals of a class, this share of all, are the seeds of its mining.
    keys.MINING.SEED_SHARE = 0.1
    # A proposal contains a seed if it covers more than this share of it.
    keys.MINING.CONTAINMENT = 0.85
    # In the first branch: a seed is dropped if its mask IoU with a better one reaches this; a
    # proposal is background if its IoU with pseudo ground truth is below it.
    keys.MINING.NMS = 0.25
    # Mask IoU with pseudo ground truth above which a proposal is complete, in the first branch.
    keys.MINING.INTEGRITY = 0.5
    # Both thresholds grow by this from branch to branch.
    keys.MINING.STEP = 0.1
    # A proposal that contains this share of all proposals is never mined.
    keys.MINING.TOO_BIG = 0.9
    # Mine the best of what contains a seed (paper); False takes the seeds themselves (MIST).
    keys.MINING.COMPLETE = True
    # Anti-noise sampling: draw pseudo ground truth by weight.
    keys.MINING.SAMPLE = True
    # "mask", or "box" to compare boxes instead of masks.
    keys.MINING.OVERLAP = "mask"

    keys.LOSS = CfgNode()
    # Weight of the integrity loss.
    keys.LOSS.INTEGRITY_WEIGHT = 3.0
    # Weight of the proposal cluster loss.
    keys.LOSS.CLUSTER_WEIGHT = 12.0
    # Factor of the weights of proposals in the first branch.
    keys.LOSS.FIRST_WEIGHT = 3.0
    # The bag loss sees scores times integrity; False: scores.
    keys.LOSS.BAG_USES_INTEGRITY = True


def _add_label_config(keys: CfgNode) -> None:
    """Clusters of proposals around class peaks, or around points."""
    keys.LABEL = CfgNode()
    # A class peak must be higher than this; if a class has none, its highest peak counts.
    keys.LABEL.PEAK_THRESHOLD = 10.0
    # Share of the proposals over a peak that must agree on a pixel of the object's rough shape.
    keys.LABEL.MEAN_THRESHOLD = 0.7
    # A proposal joins the cluster if its IoU with the rough shape is above this.
    keys.LABEL.IOU_THRESHOLD = 0.5
    # Folder of the original's point files (<image key>.txt, lines "x y class"); "" takes the points
    # of the data set.
    keys.LABEL.POINTS = ""
    # Stage imported_clusters: a label file of the original (voc_2012_label_assign.pkl).
    keys.LABEL.FILE = ""


def _add_detection_config(keys: CfgNode) -> None:
    keys.DETECTION = CfgNode()
    # What is detected: "classes", all of them; "tags", those of the image only (images without tags
    # then have none); "points", one object at each point. The stages set it.
    keys.DETECTION.TARGETS = "classes"
    # A detection scores above this.
    keys.DETECTION.MIN_SCORE = 1e-5
    # Within a class, a box whose IoU with a better one reaches this is dropped.
    keys.DETECTION.NMS = 0.3
    # Detections of an image, over all classes; those that tie with the last stay. 0: all.
    keys.DETECTION.LIMIT = 100
    # Shares of the image that a proposal's box may cover; the original's filter, which none of its
    # configs uses, has (0.00002, 0.85).
    keys.DETECTION.AREA_RANGE = (0.0, 1.0)
    # Not in the paper: in place of a detection take the largest proposal that contains it, overlaps
    # it by the IoU below and reaches this share of its score. 0: leave detections as they are.
    keys.DETECTION.COMPLETE_SHARE = 0.0
    keys.DETECTION.COMPLETE_IOU = 0.5


def add_cim_config(cfg: CfgNode) -> None:
    """Add ``MODEL.CIM.*`` and the views of ``INPUT``, in place."""
    # In training the longer side becomes one of these, in pixels.
    cfg.INPUT.LONGER_SIDES_TRAIN = (480, 576, 688, 864, 1200)
    # In inference it becomes each of these in turn, and the scores are averaged.
    cfg.INPUT.LONGER_SIDES_TEST = (480, 576, 688, 864, 1200)
    # In inference each of these images is also mirrored.
    cfg.INPUT.FLIP_TEST = True
    cfg.MODEL.CIM = CfgNode()
    keys = cfg.MODEL.CIM
    # Foreground classes of the data set.
    keys.NUM_CLASSES = 20
    # The backbone's feature that regions are pooled from.
    keys.IN_FEATURE = "res4"
    # Side of pooled features and of the masks that guide them, in cells.
    keys.CROP_SIZE = 7
    # Width of the two fully connected layers.
    keys.HEAD_DIM = 4096
    # Refinement branches.
    keys.NUM_BRANCHES = 3
    # Fuse whole and masked features; False leaves the mask out.
    keys.MASK_GUIDED = True
    # One integrity score for all classes.
    keys.CLASS_AGNOSTIC_INTEGRITY = False
    # Proposals that pass the head together. Training then keeps only their vectors and computes
    # each chunk again on the way back: a third slower, much less memory. 0: all at once.
    keys.PROPOSAL_CHUNK = 0
    # Pseudo labels: of each tag only the best detection.
    keys.BEST_ONLY = False
    _add_training_config(keys)
    _add_label_config(keys)
    _add_detection_config(keys)
