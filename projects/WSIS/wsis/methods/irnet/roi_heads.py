"""From IRNet's dense maps and clusters to instances and semantic labels (spec 6.4 to 6.6).

K classes of the image, I clusters, h x w grid, H x W result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from wsis.layers.components import detect_components, map_components
from wsis.methods.irnet.random_walk import random_walk
from wsis.modeling.image_classifier import normalize_by_maximum
from wsis.modeling.network import mask_instances, network, options_of

Sizes = tuple[tuple[int, int], tuple[int, int]]  # (H, W) of the image, of the result
_CHANNELS_AT_ONCE = 16  # upsampled maps that are held together; 16 MB for 500 x 500


def upsample(
    maps: Tensor,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    stride: int,
    align_corners: bool = False,
) -> Tensor:
    """Enlarge ``maps`` (C, h, w) by ``stride``, cut to the image, resize to ``output_size``.

    All of it is bilinear. Cell i covers pixels ``stride`` i to ``stride`` (i + 1) - 1. With
    ``align_corners`` it lies on pixel ``stride`` i, and pixels behind the last cell take its value.
    """
    maps = maps[None]
    if align_corners:
        spans = [stride * (cells - 1) + 1 for cells in maps.shape[-2:]]
        down, right = (side - span for side, span in zip(image_size, spans, strict=True))
        size = spans if down or right else output_size  # sides of stride k + 1: in one go
        maps = functional.interpolate(maps, size=size, mode="bilinear", align_corners=True)
        maps = functional.pad(maps, (0, right, 0, down), mode="replicate")
    else:
        maps = functional.interpolate(
            maps, scale_factor=float(stride), mode="bilinear", align_corners=False
        )[..., : image_size[0], : image_size[1]]
    if tuple(maps.shape[-2:]) != tuple(output_size):
        maps = functional.interpolate(
            maps, size=output_size, mode="bilinear", align_corners=align_corners
        )
    return maps[0]


def strongest(
    maps: Tensor, groups: Tensor, *, background: float, **geometry: Any
) -> tuple[Tensor, Tensor]:
    """Upsample, divide each group of channels by its maximum, argmax with a background constant.

    ``maps`` are (C, h, w) float, not negative. Channels with the same number in ``groups`` (C,) int
    are divided by their common maximum. ``background`` wins ties. ``geometry`` are the arguments of
    `upsample`.

    A channel whose maximum does not exceed the background wins nowhere and is left out. The others
    are treated some at a time, so that memory does not grow with their number.

    Returns:
        winning channel (H, W) int64, -1 for background; and its score (H, W) float, 0 there.
    """

    def chunks(which: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for part in which.split(_CHANNELS_AT_ONCE) if len(which) else ():
            yield part, upsample(maps[part], **geometry)

    size = geometry["output_size"]
    winners = torch.full(size, -1, dtype=torch.int64, device=maps.device)
    best = maps.new_full(size, background)
    every = torch.arange(len(maps), device=maps.device)
    if len(maps) == 0:
        return winners, torch.zeros_like(best)
    peaks = torch.cat([large.flatten(1).amax(dim=1) for _, large in chunks(every)])
    _, member = groups.unique(return_inverse=True)
    largest = torch.full_like(peaks, -torch.inf).scatter_reduce_(0, member, peaks, "amax")
    scale = largest[member]
    for part, large in chunks(every[(peaks > background * scale) & (scale > 0)]):
        values, index = (large / scale[part, None, None]).max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        winners = torch.where(better, part[index], winners)
    return winners, torch.where(winners >= 0, best, 0)


@ROI_HEADS_REGISTRY.register()
@network
class IRNetROIHeads(nn.Module):
    """Makes instances and semantic labels of an image's dense maps; nothing is trained here.

    Its options are the keys of ``MODEL.IRNET``, in lower case, and the ``stride`` of the boundary
    map's grid, in pixels.
    """

    walk_radius: int = 5
    beta: float = 10.0
    exp_times: int = 8
    instance_background: float = 0.25
    semantic_background: float = 0.25
    min_area: float = 0.01
    fallback: bool = False
    per_class_normalisation: bool = False
    stride: int = 4
    align_corners: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.IRNET`` and the backbone's strides."""
        keys = cfg.MODEL.IRNET
        return options_of(cls, keys) | {"stride": input_shape[keys.IN_FEATURES[1]].stride}

    def forward(
        self, boundary: Tensor, cam: Tensor, keys: Tensor, clusters: Tensor, sizes: Sizes
    ) -> Instances:
        """Instances of an image, ordered by class, cluster and raster.

        ``boundary`` (h, w) is a probability, ``cam`` (K, h', w') are the CAMs of the class ids
        ``keys`` (K,), ``clusters`` are (h, w) int64, ``sizes`` are (H, W) of the image and of the
        result.

        Returns:
            pred_masks (n, H, W) bool, pred_boxes, pred_classes (n,), scores (n,).
        """
        cam = self._on_grid(cam, boundary)
        smallest = self.min_area * sizes[1][0] * sizes[1][1]
        if self.fallback and len(cam) and not clusters.any():
            maps = normalize_by_maximum(
                upsample(cam, *sizes, stride=self.stride, align_corners=self.align_corners)
            )
            found = map_components(maps.cpu().numpy(), min_area=smallest)
            classes = torch.arange(len(cam), device=cam.device)
        else:
            (classes, _), maps = self._candidates(cam, clusters)
            self._walk(maps, boundary, out=maps)
            winners, scores = self._compete(maps, classes, self.instance_background, sizes)
            found = detect_components(
                winners.cpu().numpy(), scores.cpu().numpy(), min_area=smallest
            )
        won, scores, masks = (torch.from_numpy(array).to(cam.device) for array in found)
        return mask_instances(masks, keys[classes[won]], scores)

    def semantic(self, boundary: Tensor, cam: Tensor, keys: Tensor, sizes: Sizes) -> Tensor:
        """Semantic labels (H, W) uint8 of an image: 0 background, class id + 1 (spec 6.6)."""
        maps = self._walk(self._on_grid(cam, boundary), boundary)
        groups = torch.arange(len(cam), device=cam.device)
        winners, _ = self._compete(maps, groups, self.semantic_background, sizes)
        return torch.cat([keys.new_zeros(1), keys + 1])[winners + 1].to(torch.uint8)

    def _on_grid(self, cam: Tensor, boundary: Tensor) -> Tensor:
        """The CAMs (K, h, w) on the boundary map's grid, resized if they have another."""
        grid = boundary.shape
        if cam.shape[1:] == grid or len(cam) == 0:
            return cam.reshape(len(cam), *grid)
        return functional.interpolate(
            cam[None], size=tuple(grid), mode="bilinear", align_corners=self.align_corners
        )[0]

    def _candidates(self, cam: Tensor, clusters: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The c candidates, by class and then cluster: (class position, cluster) and map (c, h, w).

        A candidate is a class times a cluster. If its map would be 0 everywhere it is left out.
        """
        count = int(clusters.max()) + 1
        flat = clusters.flatten()
        peak = cam.new_zeros((len(cam), count))
        peak.scatter_reduce_(1, flat.expand(len(cam), -1), cam.flatten(1), "amax")
        channels = peak.gt(0).nonzero(as_tuple=True)
        maps = cam.new_empty((len(channels[0]), *clusters.shape))
        parts = (rows.split(_CHANNELS_AT_ONCE) for rows in (maps, *channels))
        for part, of_class, cluster in zip(*parts, strict=True):
            torch.mul(cam[of_class], clusters == cluster[:, None, None], out=part)
        return channels, maps

    def _walk(self, maps: Tensor, boundary: Tensor, *, out: Tensor | None = None) -> Tensor:
        options = {"radius": self.walk_radius, "beta": self.beta, "exp_times": self.exp_times}
        return random_walk(maps, boundary, **options, out=out)

    def _compete(
        self, maps: Tensor, classes: Tensor, background: float, sizes: Sizes
    ) -> tuple[Tensor, Tensor]:
        return strongest(
            maps,
            classes if self.per_class_normalisation else torch.zeros_like(classes),
            background=background,
            image_size=sizes[0],
            output_size=sizes[1],
            stride=self.stride,
            align_corners=self.align_corners,
        )
