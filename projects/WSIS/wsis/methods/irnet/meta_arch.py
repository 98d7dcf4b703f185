"""IRNet's relation network: boundary map and displacement field of an image (spec 5.3, 6.1).

N images, h x w grid of the backbone's second tap (stride 4), H x W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_roi_heads
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional

from wsis.errors import UsageError, did_you_mean
from wsis.methods.irnet.branches import NUM_TAPS, BoundaryBranch, DisplacementBranch
from wsis.methods.irnet.displacement import cluster_centroids, refine_centroids
from wsis.methods.irnet.labels import UNKNOWN
from wsis.methods.irnet.losses import relation_losses
from wsis.modeling.network import (
    PIXELS_AT_ONCE,
    PixelModule,
    in_batches,
    network,
    options_of,
    require_finite,
    result_size,
    shapes_of,
)

_OUTPUTS = ("displacement", "boundary", "instances", "semantic")


def canvas_size(size: tuple[int, int], *, fixed: int, divisor: int, remainder: int = 0) -> tuple:
    """Side lengths to which an image of ``size`` (H, W) is padded before inference (spec 6.1).

    If both sides fit into ``fixed``, both become it (0: never). Otherwise each side becomes the
    next number k ``divisor`` + ``remainder`` (remainder 1 for networks with sides 32 k + 1).
    """
    if max(size) <= fixed:
        return fixed, fixed
    return tuple(-(-max(side - remainder, 0) // divisor) * divisor + remainder for side in size)


def reduce_labels(labels: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Nearest reduction of label maps (N, H, W) to a grid ``size`` (h, w) (spec 5.2).

    Cell i takes pixel floor((i + 1/2) H / h), which is 4 i + 2 for H = 4 h. With
    ``align_corners`` first and last cell lie on first and last pixel: cell i takes pixel 4 i for
    H = 4 (h - 1) + 1.
    """
    index = []
    for side, cells in zip(labels.shape[-2:], size, strict=True):
        cell = torch.arange(cells, device=labels.device)
        if align_corners:
            index.append((cell * (side - 1) + (cells - 1) // 2) // max(cells - 1, 1))
        else:
            index.append((2 * cell + 1) * side // (2 * cells))
    return labels[:, index[0][:, None], index[1]]


@META_ARCH_REGISTRY.register()
@network
class IRNet(PixelModule):
    """Learns class boundaries and centroid displacements from inter-pixel labels.

    Training takes ``{"image", "inter_pixel_label"}`` per image and returns weighted losses whose
    sum is the loss of spec 5.4. Inference returns a dict per image, see `inference`.

    Its options are the keys of ``MODEL.IRNET``, in lower case, and these.

    Attributes:
        roi_heads: makes instances and semantic labels from dense maps (`IRNetROIHeads`).
        radius: of the training pairs, in cells.
        canvas: options of `canvas_size`. Group norm sees the padding, so they change the result.
    """

    in_features: Sequence[str]
    boundary_branch: nn.Module
    displacement_branch: nn.Module
    roi_heads: nn.Module
    canvas: Mapping[str, int]
    freeze_backbone: bool = True
    radius: int = 10
    refinement_steps: int = 300
    cluster_threshold: float = 2.5
    align_corners: bool = False
    outputs: Sequence[str] = ("boundary", "instances")
    mean_displacement: Sequence[float] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.outputs).difference(_OUTPUTS):
            word, known = min(unknown), ", ".join(_OUTPUTS)
            near = did_you_mean(word, _OUTPUTS)
            raise UsageError(f"MODEL.IRNET.OUTPUTS are some of {known}, not {word!r}{near}")
        # Mean displacement (dy, dx) of the training set, subtracted in eval mode (spec 5.3).
        self.register_buffer("mean_shift", torch.zeros(2))
        if self.freeze_backbone:
            self.backbone.requires_grad_(False)
        self.stride = self.backbone.output_shape()[self.in_features[1]].stride

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.*``."""
        keys, shared = cfg.MODEL.IRNET, super().from_config(cfg)
        known, align = shared["backbone"].output_shape(), keys.ALIGN_CORNERS
        taps = shapes_of(known, keys.IN_FEATURES, "MODEL.IRNET.IN_FEATURES")
        if len(taps) != NUM_TAPS or keys.DISPLACEMENT_WIDTH % 4:
            raise UsageError(
                f"MODEL.IRNET wants {NUM_TAPS} IN_FEATURES and a DISPLACEMENT_WIDTH that 4 "
                f"divides, not {len(taps)} and {keys.DISPLACEMENT_WIDTH}"
            )
        sides = (keys.INFERENCE_SIZE, keys.SIZE_DIVISOR, keys.SIZE_REMAINDER)
        own = {
            "boundary_branch": BoundaryBranch(taps, keys.BOUNDARY_WIDTH, align_corners=align),
            "displacement_branch": DisplacementBranch(
                taps, keys.DISPLACEMENT_WIDTH, align_corners=align
            ),
            "roi_heads": build_roi_heads(cfg, known),
            "radius": keys.TRAIN_RADIUS,
            "canvas": dict(zip(("fixed", "divisor", "remainder"), sides, strict=True)),
        }
        return shared | options_of(cls, keys) | own

    def train(self, mode: bool = True) -> IRNet:
        """As any module, but a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def dense_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boundary logits (N, 1, h, w) and displacements (N, 2, h, w) of normalised images.

        The mean shift is subtracted in eval mode only.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            features = self.backbone(images)
        taps = [features[name] for name in self.in_features]
        displacement = self.displacement_branch(taps)
        if not self.training:
            mean = self.mean_shift
            if self.mean_displacement:
                mean = mean.new_tensor(self.mean_displacement)
            displacement = displacement - mean.view(2, 1, 1)
        return self.boundary_branch(taps), displacement

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else one dict per image.

        Args:
            batched_inputs: per image ``image`` (3, H, W), RGB in 0..255; in training also
                ``inter_pixel_label`` (H, W) uint8, 0 background, class id + 1, 255 unknown.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = ImageList.from_tensors([self.normalize(x["image"]) for x in batched_inputs], 0)
        labels = [x["inter_pixel_label"].to(self.device) for x in batched_inputs]
        labels = ImageList.from_tensors(labels, 0, pad_value=UNKNOWN).tensor
        logits, displacement = self.dense_maps(images.tensor)
        grid = reduce_labels(labels, tuple(logits.shape[-2:]), align_corners=self.align_corners)
        return relation_losses(logits, displacement, grid, radius=self.radius)

    @torch.no_grad()
    def boundary_and_displacement(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Dense maps of images (3, H, W), RGB in 0..255, at test time (spec 6.1).

        Images of one canvas pass the network together.

        Returns:
            of each the boundary (h, w), the probability of the mean logit of image and mirrored
            image; and the displacement (2, h, w) of the image alone. h = (H - 1) // stride + 1, w
            likewise.
        """

        def dense(some: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
            maps = [one.unflatten(0, (len(some), -1)) for one in self.dense_maps(torch.cat(some))]
            return list(zip(*maps, strict=True))

        views = [self._views(image) for image in images]
        maps = in_batches(dense, views, views, pixels=PIXELS_AT_ONCE // 2)
        found = []
        for image, (logits, displacement) in zip(images, maps, strict=True):
            h, w = ((side - 1) // self.stride + 1 for side in image.shape[-2:])
            logits = logits[:, 0, :h, :w]
            boundary = ((logits[0] + logits[-1].flip(-1)) / 2).sigmoid()
            found.append((boundary, displacement[0, :, :h, :w]))
        return found

    def _views(self, image: Tensor) -> Tensor:
        """(1 or 2, 3, rows, columns): the image, and its mirror image if it is of use, padded."""
        height, width = image.shape[-2:]
        rows, columns = canvas_size((height, width), **self.canvas)
        image = self.normalize(image)
        pair = torch.stack([image, image.flip(-1)])
        if not self._wants("boundary", "instances", "semantic"):
            pair = pair[:1]
        return functional.pad(pair, (0, columns - width, 0, rows - height))

    def _wants(self, *outputs: str) -> bool:
        return not set(outputs).isdisjoint(self.outputs)

    @torch.no_grad()
    def inference(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What ``outputs`` names, of images.

        Args:
            samples: ``image`` (3, H, W); for instances and semantic labels also ``keys`` (K,) class
                ids and ``cam`` (K, h, w) on the stride-4 grid; see `result_size`.

        Returns:
            of each ``displacement`` (2, h, w); ``boundary`` (h, w). If ``cam`` is given also
            ``clusters`` (h, w) int64 and ``instances`` (see `IRNetROIHeads.forward`), and
            ``semantic`` (H, W) uint8, 0 background, class id + 1.
        """
        dense = self.boundary_and_displacement([sample["image"] for sample in samples])
        for sample, (boundary, displacement) in zip(samples, dense, strict=True):
            every = torch.cat([displacement, boundary[None]])
            require_finite(every, sample, "the maps of the relation network")
        centroids: Sequence[Any] = [None] * len(samples)
        if self._wants("instances") and any("cam" in sample for sample in samples):
            refine = partial(refine_centroids, num_steps=self.refinement_steps)
            fields = [displacement for _, displacement in dense]
            centroids = in_batches(lambda some: refine(torch.stack(some)), fields, fields)
        each = zip(samples, dense, centroids, strict=True)
        return [self._finish(sample, *maps, ends) for sample, maps, ends in each]

    def _finish(
        self, sample: dict[str, Any], boundary: Tensor, displacement: Tensor, centroids: Any
    ) -> dict[str, Any]:
        """The result for one image, of its dense maps and `refine_centroids`."""
        result: dict[str, Any] = {"displacement": displacement}
        if self._wants("boundary", "instances", "semantic"):
            result["boundary"] = boundary
        if "cam" not in sample:
            return result
        cam, keys = (torch.as_tensor(sample[name]).to(self.device) for name in ("cam", "keys"))
        dense = boundary, cam.to(boundary.dtype), keys
        sizes = tuple(sample["image"].shape[-2:]), result_size(sample)
        if self._wants("instances"):
            clusters = cluster_centroids(displacement, centroids, threshold=self.cluster_threshold)
            result |= {"clusters": clusters, "instances": self.roi_heads(*dense, clusters, sizes)}
        if self._wants("semantic"):
            result["semantic"] = self.roi_heads.semantic(*dense, sizes)
        return result
