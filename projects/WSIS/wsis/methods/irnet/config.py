"""Config keys of IRNet; importing this module registers its stages."""

from __future__ import annotations

from detectron2.config import CfgNode

from wsis.methods.irnet import stages  # noqa: F401  (registers them)


def _add_network_config(keys: CfgNode) -> None:
    # Five features of the backbone, fine to coarse; the second sets the grid (stride 4).
    keys.IN_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
    # Keep the backbone's weights and statistics as they are loaded (paper: yes).
    keys.FREEZE_BACKBONE = True
    # Channels of each reduced tap of the boundary branch.
    keys.BOUNDARY_WIDTH = 32
    # Channels of the displacement branch's deep taps; a multiple of 4.
    keys.DISPLACEMENT_WIDTH = 256
    # Cell i lies on pixel 4 i and maps are upsampled corner to corner. For backbones whose input
    # sides are 32 k + 1. Original: no.
    keys.ALIGN_CORNERS = False
    # Pairs of pixels closer than this train the network, in cells of the grid.
    keys.TRAIN_RADIUS = 10


def _add_inference_config(keys: CfgNode) -> None:
    # Images whose sides both fit are padded to this side, in pixels; 0: never. Group norm sees the
    # padding, so the size is part of the result.
    keys.INFERENCE_SIZE = 512
    # Larger images are padded to the next k SIZE_DIVISOR + SIZE_REMAINDER, in pixels.
    keys.SIZE_DIVISOR = 16
    keys.SIZE_REMAINDER = 0
    # The mean displacement is taken over whole groups of so many images; a last, partial group is
    # dropped, as in the original (unless it is the only one). 0 uses every image.
    keys.MEAN_DISPLACEMENT_BATCH = 32
    # Steps of the centroid refinement (paper: at least 100).
    keys.REFINEMENT_STEPS = 300
    # Displacements shorter than this, in cells, mark a centroid.
    keys.CLUSTER_THRESHOLD = 2.5
    # Random walk: radius in cells, exponent of the affinity, 2^EXP_TIMES steps.
    keys.WALK_RADIUS = 5
    keys.BETA = 10.0
    keys.EXP_TIMES = 8
    # Score of the background where instances, or semantic labels, compete for a pixel.
    keys.INSTANCE_BACKGROUND = 0.25
    keys.SEMANTIC_BACKGROUND = 0.25
    # Components below this share of the image get score 0 (and stay).
    keys.MIN_AREA = 0.01
    # Where all cells of an image end in one cluster the displacement field has collapsed: take the
    # components of the CAMs (layers/components.py: map_components), without the walk. Paper: no.
    keys.FALLBACK = False
    # Divide scores by the maximum of each class, not by that of all classes (original: all).
    keys.PER_CLASS_NORMALISATION = False
    # What inference makes: some of displacement, boundary, instances, semantic. The stages set it.
    keys.OUTPUTS = ["boundary", "instances"]
    # (dy, dx) in cells, subtracted from displacements. The stage instances sets it to what the
    # stage displacement_mean measured. []: the one in the weights (the original's have one).
    keys.MEAN_DISPLACEMENT = []


def add_irnet_config(cfg: CfgNode) -> None:
    """Add ``MODEL.IRNET.*`` and ``INPUT.RESCALE_RANGE``, in place."""
    # Relation network training: image and label are rescaled by a random factor of this range,
    # relative to the working size.
    cfg.INPUT.RESCALE_RANGE = (0.5, 1.5)
    cfg.MODEL.IRNET = keys = CfgNode()
    keys.LABEL = CfgNode()
    # A pixel belongs to a class where the CAM of that class (in [0, 1]) is above this.
    keys.LABEL.FOREGROUND_THRESHOLD = 0.30
    # A pixel is background where no CAM is above this; between the two it is unknown.
    keys.LABEL.BACKGROUND_THRESHOLD = 0.05
    # Mean-field steps of the dense CRF; 0 leaves the CRF out.
    keys.LABEL.CRF_ITERATIONS = 10
    # Probability given to the label of a pixel before the CRF.
    keys.LABEL.CRF_LABEL_PROBABILITY = 0.7
    # Smoothness kernel: standard deviation in pixels, weight.
    keys.LABEL.CRF_GAUSSIAN_SXY = 3.0
    keys.LABEL.CRF_GAUSSIAN_WEIGHT = 3.0
    # Appearance kernel: standard deviations in pixels and in grey levels (0..255), weight.
    keys.LABEL.CRF_BILATERAL_SXY = 50.0
    keys.LABEL.CRF_BILATERAL_SRGB = 5.0
    keys.LABEL.CRF_BILATERAL_WEIGHT = 10.0
    _add_network_config(keys)
    _add_inference_config(keys)
