"""IAM: a frozen peak classifier and the filling network on top of it (spec 1).

N images, P peaks, H x W network input.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_roi_heads
from torch import Tensor, nn
from torch.nn import functional

from wsis.errors import DataError
from wsis.methods.iam.filling_network import FillingNetwork
from wsis.methods.iam.targets import PseudoMaskSampler
from wsis.modeling.network import network, options_of, result_size, shapes_of
from wsis.modeling.peak_classifier import PeakClassifier, build_peak_classifier
from wsis.modeling.peak_responses import PeakResponses

logger = logging.getLogger(__name__)
_OF_PEAKS = ("peaks", "values", "responses")  # fields with a row for each peak
_SUSPICIOUS = 10  # batches in a row that teach nothing


@META_ARCH_REGISTRY.register()
@network
class IAM(nn.Module):
    """Learns to fill peak responses to the masks of sampled proposals; fills them at test time.

    Training takes ``{"image", "proposals", "image_labels"}`` per image and returns
    ``{"loss_filling"}``. Inference returns a dict per image, see `inference`. The classifier, which
    gives peaks, their responses and the backbone's features, is never trained here and stays in
    evaluation mode. Images of a batch may differ in size.

    Its options are the keys of ``MODEL.IAM``, in lower case, and these.

    Attributes:
        sampler: chooses the training targets.
        roi_heads: makes instances from activation maps (`IAMROIHeads`).
    """

    peak_classifier: PeakClassifier
    filling: FillingNetwork
    roi_heads: nn.Module
    in_features: Sequence[str]
    sampler: PseudoMaskSampler
    use_tags: bool = True
    response_mean: float = 0.0

    def __post_init__(self) -> None:
        self.peak_classifier.requires_grad_(False)
        self._empty_batches = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from ``MODEL.IAM``, ``MODEL.PEAK_CLASSIFIER`` and the backbone."""
        keys = cfg.MODEL.IAM
        classifier = build_peak_classifier(cfg, traceable=True)
        known = classifier.backbone.output_shape()
        shapes = shapes_of(known, keys.IN_FEATURES, "MODEL.IAM.IN_FEATURES")
        return options_of(cls, keys) | {
            "peak_classifier": classifier,
            "filling": FillingNetwork(
                [shape.channels for shape in shapes],
                channels=keys.CHANNELS,
                kernel_size=keys.KERNEL_SIZE,
                num_iterations=keys.ITERATIONS,
                pyramid_width=keys.PYRAMID_WIDTH,
                statistics=keys.STATISTICS,
            ),
            "roi_heads": build_roi_heads(cfg, known),
            "sampler": PseudoMaskSampler(**options_of(PseudoMaskSampler, keys.SAMPLER)),
        }

    def train(self, mode: bool = True) -> IAM:
        """Training mode for the filling network only."""
        super().train(mode)
        self.peak_classifier.eval()
        return self

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, otherwise one dict per image (see `inference`).

        Args:
            batched_inputs: per image ``image`` (3, H, W) in 0..255, optionally ``image_labels``
                (class ids) and ``points``, in place of peaks (`PeakClassifier.respond`); in
                training ``proposals``, a `PreparedProposals` at the image's size; otherwise see
                `result_size`.
        """
        if self.training:
            return self.losses(batched_inputs)
        return [self.inference(sample) for sample in batched_inputs]

    def respond(self, batched_inputs: Sequence[dict[str, Any]]) -> list[PeakResponses]:
        """Peaks, responses and features of images; an error names the images."""
        images = [self.peak_classifier.normalize(sample["image"]) for sample in batched_inputs]
        known = self.peak_classifier.tags_of
        tags = [known(sample) if self.use_tags else None for sample in batched_inputs]
        try:
            points = [sample.get("points") for sample in batched_inputs]
            return self.peak_classifier.respond(images, tags=tags, points=points)
        except DataError as error:
            keys = ", ".join(str(sample.get("image_key", "?")) for sample in batched_inputs)
            raise DataError(f"images {keys}: {error}") from error

    def fill(self, found: Sequence[PeakResponses]) -> Tensor:
        """Logits (P, H, W) of the activation maps of all peaks of images of one size, in order."""
        responses = torch.cat([one.responses for one in found])
        counts = torch.tensor([len(one.peaks) for one in found])
        index = torch.arange(len(found)).repeat_interleave(counts)
        features = [torch.cat([one.features[name] for one in found]) for name in self.in_features]
        if self.response_mean and len(responses):
            responses = responses * (self.response_mean * responses[0].numel())
        return self.filling(responses, index, features)

    def losses(self, batched_inputs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Binary cross entropy to the sampled masks, a mean over all pixels of all peaks (spec 5).

        Peaks without a valid proposal, images without a peak and batches without any train nothing.
        """
        groups: dict[tuple[int, ...], list[tuple[PeakResponses, Tensor]]] = {}
        for one, sample in zip(self.respond(batched_inputs), batched_inputs, strict=True):
            places, masks = self.sampler.sample(one.responses, sample["proposals"])
            if len(places):
                chosen = {n: getattr(one, n)[places.to(one.peaks.device)] for n in _OF_PEAKS}
                kept = replace(one, **chosen)
                groups.setdefault(tuple(masks.shape[1:]), []).append((kept, masks))
        self._warn_of_nothing(bool(groups))
        # zero, with a gradient of zero for every trained weight
        loss, pixels = sum(p.sum() * 0.0 for p in self.filling.parameters()), 0
        for group in groups.values():
            target = torch.cat([masks for _, masks in group]).to(loss.device)
            logits = self.fill([one for one, _ in group])
            loss = loss + functional.binary_cross_entropy_with_logits(
                logits, target.to(logits.dtype), reduction="sum"
            )
            pixels += target.numel()
        return {"loss_filling": loss / max(pixels, 1)}

    def _warn_of_nothing(self, found: bool) -> None:
        """Warn, once for a row of such batches, that there is nothing to learn."""
        self._empty_batches = 0 if found else self._empty_batches + 1
        if self._empty_batches == _SUSPICIOUS:
            logger.warning(
                "%d batches in a row without a peak above MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD %g "
                "that has a valid proposal: nothing is learnt; tools/peak_thresholds.py shows how "
                "high the peaks are",
                _SUSPICIOUS,
                self.peak_classifier.peak_threshold,
            )

    @torch.no_grad()
    def inference(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Instances of one image; they do not depend on the images beside it.

        It passes alone: most operations are those of the filling, which follows images one by one.

        Returns:
            ``instances`` (see `IAMROIHeads.forward`), ``responses`` (`PeakResponses`) and
            ``activation`` (P, H, W) in [0, 1].
        """
        (found,) = self.respond([sample])
        activation = self.fill([found]).sigmoid()
        classes = found.peaks[:, 0]
        image = sample["image"].to(activation.device).float()
        logits = found.logits[classes]
        instances = self.roi_heads(image, activation, logits, classes, result_size(sample))
        return {"instances": instances, "responses": found, "activation": activation}
