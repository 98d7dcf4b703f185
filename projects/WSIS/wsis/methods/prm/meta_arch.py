"""PRM: trains the peak-stimulated classifier, and makes instances of its peaks (spec 1)."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_roi_heads
from torch import nn

from wsis.errors import DataError
from wsis.modeling.network import network, result_size
from wsis.modeling.peak_classifier import PeakClassifier, build_peak_classifier
from wsis.modeling.peak_responses import PeakResponses


@META_ARCH_REGISTRY.register()
@network
class PRM(nn.Module):
    """Class peak response: image tags in training, instances with class and mask at test time.

    State-dict names: ``peak_classifier.backbone.*`` and ``peak_classifier.classifier.*``.

    Attributes:
        peak_classifier: the network.
        roi_heads: makes instances from peak response maps and segment proposals (`PRMROIHeads`).
        use_tags: in inference, an image with tags only has peaks of these classes.
    """

    peak_classifier: PeakClassifier
    roi_heads: nn.Module
    use_tags: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from ``MODEL.PRM`` and ``MODEL.PEAK_CLASSIFIER``."""
        classifier = build_peak_classifier(cfg, traceable=True)
        return {
            "peak_classifier": classifier,
            "roi_heads": build_roi_heads(cfg, classifier.backbone.output_shape()),
            "use_tags": cfg.MODEL.PRM.USE_TAGS,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else one dict per image.

        Args:
            batched_inputs: per image ``image`` (3, H, W) in 0..255. Training: ``image_labels`` (see
                `wsis.modeling.image_classifier.multi_hot`). Inference: perhaps ``image_labels`` and
                ``proposals`` (`Regions`), ``prepared`` (`RetrievalMapper`) and ``points``, which
                take the place of peaks (`PeakClassifier.respond`); see `result_size`.

        Returns:
            training: ``{"loss_classification": scalar}``. Inference: ``logits`` and ``scores``
            (C,), where the logit of a class without peaks is the maximum of its map; ``responses``
            (`PeakResponses`); ``instances`` (see `PRMROIHeads.forward`). If instances need
            proposals and a batch has none, it is only classified: no maps, no instances.
        """
        if self.training:
            return self.peak_classifier.losses(batched_inputs)
        images = [self.peak_classifier.normalize(sample["image"]) for sample in batched_inputs]
        known = self.peak_classifier.tags_of
        tags = [known(sample) if self.use_tags else None for sample in batched_inputs]
        wanted = self.roi_heads.masks == "response" or any("proposals" in s for s in batched_inputs)
        points = [sample.get("points") for sample in batched_inputs]
        options = {"tags": tags, "points": points, "back_propagate": wanted}
        responses = self.peak_classifier.respond(images, **options)
        pairs = zip(batched_inputs, responses, strict=True)
        return [self._instances(sample, found) for sample, found in pairs]

    def _instances(self, sample: dict[str, Any], found: PeakResponses) -> dict[str, Any]:
        result = {"responses": found, "logits": found.logits, "scores": found.logits.sigmoid()}
        if found.responses is None:
            return result
        try:
            given = sample.get("proposals"), result_size(sample), sample.get("prepared")
            instances = self.roi_heads(found, *given)
        except ValueError as error:
            raise DataError(f"image {sample.get('image_key', '?')}: {error}") from error
        return result | {"instances": instances}
