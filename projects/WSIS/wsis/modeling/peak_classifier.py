"""The peak-stimulated image classifier and its peak response maps (prm spec 2 to 5).

Serves PRM and IAM (which freezes it) and gives CIM its peak-guided labels. N images, C classes,
P peaks, H x W image, h x w class response map (enlarged by the sub-pixel factor).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from wsis.errors import DataError, UsageError
from wsis.layers.peak_backward import PeakProgram
from wsis.layers.peak_response import peak_response_maps, record
from wsis.layers.peaks import (
    FILTERS,
    GRADIENTS,
    confident_peaks,
    peak_stimulation,
    peak_values,
    upsample_maps,
)
from wsis.layers.precision import at_least_float32, full_precision, map_layout
from wsis.modeling.image_classifier import multi_hot
from wsis.modeling.network import (
    PixelModule,
    by_size,
    in_batches,
    network,
    options_of,
    shapes_of,
)
from wsis.modeling.peak_responses import MapFrame, PeakResponses


def parse_filter(name: str) -> str | float:
    """``MODEL.PEAK_CLASSIFIER.FILTER``: a name, or a number."""
    try:
        return float(name)
    except ValueError:
        return name


@network
class PeakClassifier(PixelModule):
    """Backbone and 1x1 convolution; scores are means over the peaks of class response maps.

    The backbone is a convolutional ReLU network (`wsis.layers.peak_backward` says which operations
    it may have). State-dict names: ``backbone.*``, ``classifier.weight`` (C, channels, 1, 1) and
    ``.bias``.

    Its options are the keys of ``MODEL.PEAK_CLASSIFIER``, in lower case but for three.

    Raises:
        UsageError: naming the key of an option that no classifier can work with.
    """

    in_feature: str
    num_classes: int
    window: int = 3
    peak_filter: str | float = "median"  # FILTER
    factor: int = 8  # SUB_PIXEL_FACTOR
    gradient: str = "undivided"
    stimulate: bool = True
    class_threshold: float = 0.0
    peak_threshold: float = 30.0
    max_peaks: int = 0
    memory: int | None = None  # MEMORY_MB in bytes; None for the device's default

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_options()
        key = "MODEL.PEAK_CLASSIFIER.IN_FEATURE"
        (shape,) = shapes_of(self.backbone.output_shape(), [self.in_feature], key)
        self.classifier = nn.Conv2d(shape.channels, self.num_classes, 1)
        self.factor = self.factor if self.stimulate else 1

    def _check_options(self) -> None:
        chosen, window = self.peak_filter, self.window
        named = chosen in FILTERS if isinstance(chosen, str) else math.isfinite(chosen)
        odd = window >= 3 and window % 2 == 1
        known = self.gradient in GRADIENTS
        for key, value, good, wanted in (
            ("WINDOW", window, odd, "an odd number of cells, 3 or more"),
            ("FILTER", chosen, named, f"one of {', '.join(FILTERS)}, or a number"),
            ("SUB_PIXEL_FACTOR", self.factor, self.factor >= 1, "1 or more"),
            ("GRADIENT", self.gradient, known, f"one of {', '.join(GRADIENTS)}"),
            ("MAX_PEAKS", self.max_peaks, self.max_peaks >= 0, "0 (all) or more"),
        ):
            if not good:
                raise UsageError(f"MODEL.PEAK_CLASSIFIER.{key} is {value!r}; it must be {wanted}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from ``MODEL.PEAK_CLASSIFIER``."""
        keys = cfg.MODEL.PEAK_CLASSIFIER
        return (
            super().from_config(cfg)
            | options_of(cls, keys)
            | {
                "peak_filter": parse_filter(keys.FILTER),
                "factor": keys.SUB_PIXEL_FACTOR,
                "memory": keys.MEMORY_MB * 2**20 or None,
            }
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify normalised images (N, 3, H, W).

        To scores (N, C), class response maps (N, C, h, w) and all peaks (Q, 4) int64, rows (image,
        class, y, x).
        """
        return self._classify(self._network(images)[0])

    def _network(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.backbone(images)
        return self.classifier(features[self.in_feature]), features

    def _classify(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = upsample_maps(at_least_float32(maps), self.factor)
        scores, peaks = peak_stimulation(
            maps, window=self.window, peak_filter=self.peak_filter, gradient=self.gradient
        )
        if not self.stimulate:
            scores = maps.mean(dim=(2, 3))
        return scores, maps, peaks

    def losses(self, batched_inputs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Multi-label soft margin loss (prm spec 4), ``{"loss_classification": scalar}``.

        Each sample has ``image`` (3, H, W) in 0..255 and ``image_labels`` (see `multi_hot`). Images
        of one size run together, others alone, so that padding makes no peaks. A class without any
        peak (possible where the filter is a number) counts by its maximum.
        """
        targets = [
            self.multi_hot(s["image_labels"], image_key=s.get("image_key", ""))
            for s in batched_inputs
        ]
        images = [self.normalize(sample["image"]) for sample in batched_inputs]
        logits, groups = [], by_size(images)
        for members in groups:
            scores, maps, _ = self(torch.stack([images[i] for i in members]))
            logits.append(torch.where(scores.isnan(), maps.amax(dim=(2, 3)), scores))
        order = [i for members in groups for i in members]
        target = torch.stack([targets[i] for i in order]).to(self.device)
        return {"loss_classification": F.multilabel_soft_margin_loss(torch.cat(logits), target)}

    def multi_hot(self, labels: Tensor | Sequence[int], *, image_key: str = "") -> Tensor:
        """See `wsis.modeling.image_classifier.multi_hot`; for this classifier's classes."""
        key = "MODEL.PEAK_CLASSIFIER.NUM_CLASSES"
        return multi_hot(labels, self.num_classes, image_key=image_key, config_key=key)

    def tags_of(self, sample: dict[str, Any]) -> list[int] | None:
        """Class ids in a sample's ``image_labels``, ascending; None where it has none.

        Raises:
            DataError: ids that are no classes, or a vector of another length.
        """
        labels = sample.get("image_labels")
        if labels is None:
            return None
        present = self.multi_hot(labels, image_key=sample.get("image_key", ""))
        return present.nonzero().flatten().tolist()

    def check_backbone(self, name: str) -> None:
        """Refuse a backbone that peaks cannot be traced back through; tries it on a tiny image.

        Raises:
            UsageError: naming the backbone and the operation.
        """
        modes = {module: module.training for module in self.modules()}
        self.eval()
        image = self.pixel_mean.new_zeros((1, len(self.pixel_mean), 32, 32))
        try:
            try:
                tape = record(lambda x: self._network(x)[0], image)
            except RuntimeError:  # too small for its windows
                tape = record(lambda x: self._network(x)[0], F.pad(image, (0, 96, 0, 96)))
            PeakProgram(*tape)
        except ValueError as error:
            raise UsageError(
                f"MODEL.BACKBONE ({name}): {error} (CIM traces no peaks back: it takes yours "
                "with peak_classifier.MODEL.META_ARCHITECTURE ClassPeaks)"
            ) from None
        finally:
            for module, mode in modes.items():
                module.training = mode

    @torch.no_grad()
    def respond(
        self,
        images: Sequence[Tensor],
        *,
        tags: Sequence[Sequence[int] | None] | None = None,
        points: Sequence[Tensor | None] | None = None,
        back_propagate: bool = True,
    ) -> list[PeakResponses]:
        """Class response maps, peaks and peak response maps of images; in evaluation mode.

        Args:
            images: (3, H, W) each, normalised; sizes may differ.
            tags: per image its classes (see `multi_hot`), used instead of the class threshold; None
                for an image without tags.
            points: per image the places of its objects, in place of peaks that are found: (P, 3)
                rows (class, y, x) with the place as shares of the image. `PeakResponses.peaks` are
                then the cells there, in this order; None for an image whose peaks are to be found.
            back_propagate: make the peak response maps.

        Raises:
            DataError: the maps are not finite, or a tag is no class.
            ValueError: the backbone has an operation that peaks cannot pass.
        """
        nothing = [None] * len(images)
        items = list(zip(images, tags or nothing, points or nothing, strict=True))

        def respond(some: list[Any]) -> list[PeakResponses]:
            batch, given, there = (list(column) for column in zip(*some, strict=True))
            with full_precision(batch[0].device):
                return self._respond(torch.stack(batch), given, there, back_propagate)

        return in_batches(respond, items, images)

    def _respond(
        self,
        images: Tensor,
        tags: Sequence[Sequence[int] | None],
        points: Sequence[Tensor | None],
        back_propagate: bool,
    ) -> list[PeakResponses]:
        features: dict[str, Tensor] = {}

        def network(x: Tensor) -> Tensor:
            raw, found = self._network(x)
            features.update({name: feature.detach() for name, feature in found.items()})
            return raw

        if back_propagate:
            tape = record(network, images)
            raw = tape.output.detach()
        else:
            # as `record` lays them out: the same maps with and without back-propagation
            raw = network(images.contiguous(memory_format=map_layout(images.device)))
        scores, maps, every = self._classify(raw)
        if not bool(torch.isfinite(maps).all()):
            raise DataError("the class response maps are not finite: the classifier diverged")
        stride = self.backbone.output_shape()[self.in_feature].stride
        size = (images.shape[2], images.shape[3])
        place = getattr(self.backbone, "first_cell", lambda side, stride: 0.0)
        frame = MapFrame(
            size, stride, self.factor, (place(size[0], stride), place(size[1], stride))
        )
        chosen = list(_by_image(self._choose(maps, scores, every, tags), len(images)))
        for number, given in enumerate(points):
            if given is not None:
                chosen[number] = _at_points(given.to(maps.device), number, frame, maps.shape[2:])
        chosen = [self._highest(maps, own) for own in chosen]
        responses: Sequence[Tensor | None] = [None] * len(chosen)
        if back_propagate:
            options = {"factor": self.factor, "memory": self.memory}
            made = peak_response_maps(tape, torch.cat(chosen), **options)
            responses = made.split([len(own) for own in chosen])
        return [
            PeakResponses(
                scores=scores[i],
                class_maps=maps[i],
                all_peaks=whole[:, 1:],
                peaks=own[:, 1:],
                values=peak_values(maps, own),
                responses=found,
                features={name: value[i : i + 1] for name, value in features.items()},
                frame=frame,
            )
            for i, (whole, own, found) in enumerate(
                zip(_by_image(every, len(images)), chosen, responses, strict=True)
            )
        ]

    def _choose(
        self, maps: Tensor, scores: Tensor, peaks: Tensor, tags: Sequence[Sequence[int] | None]
    ) -> Tensor:
        """Peaks (P, 4) of present classes above the threshold, and the highest of each tag."""
        scores = scores.clone()
        for row, given in zip(scores, tags, strict=True):
            if given is not None:
                own = self.multi_hot(given).to(row.device) > 0
                row.copy_(torch.where(own, float("inf"), float("nan")))
        limits = {"class_threshold": self.class_threshold, "peak_threshold": self.peak_threshold}
        return confident_peaks(maps, scores, peaks, **limits)

    def _highest(self, maps: Tensor, chosen: Tensor) -> Tensor:
        """The ``max_peaks`` highest of the ``chosen`` (P, 4) of an image, in their order."""
        if not self.max_peaks:
            return chosen
        order = torch.argsort(peak_values(maps, chosen), descending=True, stable=True)
        return chosen[order[: self.max_peaks].sort().values]


def _by_image(peaks: Tensor, count: int) -> Sequence[Tensor]:
    """The parts of ``peaks`` (P, 4), sorted by image, of each of ``count`` images."""
    numbers = torch.arange(count, device=peaks.device)
    return peaks.split((peaks[:, :1] == numbers).sum(dim=0).tolist())


def _at_points(points: Tensor, number: int, frame: MapFrame, shape: Sequence[int]) -> Tensor:
    """(P, 4) int64 in place of the peaks of an image: the cells of maps (h, w) at ``points``."""
    cells = frame.cells(points[:, 1:], (shape[0], shape[1]))
    image = torch.full_like(cells[:, :1], number)
    return torch.cat([image, points[:, :1].long(), cells], dim=1)


def build_peak_classifier(cfg: CfgNode, *, traceable: bool = False) -> PeakClassifier:
    """The classifier of ``MODEL.PEAK_CLASSIFIER`` on ``MODEL.BACKBONE``.

    ``traceable``: peaks will be traced back to the image. A backbone with an operation that they
    cannot pass is then refused here, not after the training.

    Raises:
        UsageError: naming the key.
    """
    classifier = PeakClassifier(cfg)
    if traceable:
        name = cfg.MODEL.BACKBONE.NAME
        if name == "build_timm_backbone":
            name = f"{name}, {cfg.MODEL.TIMM.NAME}"
        classifier.check_backbone(name)
    return classifier
