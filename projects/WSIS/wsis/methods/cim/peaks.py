"""Class peaks of an image, from the peak classifier: what CIM's clusters grow around (spec 1.4)."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from wsis.methods.cim.clusters import class_peaks
from wsis.modeling.network import network
from wsis.modeling.peak_classifier import PeakClassifier, build_peak_classifier


@META_ARCH_REGISTRY.register()
@network
class ClassPeaks(nn.Module):
    """The peak classifier, used to find the peaks of the classes that an image's tags name.

    It has the weights of a ``peak_classifier`` stage, and the same losses in training.

    Attributes:
        peak_classifier: the network.
        threshold: see `wsis.methods.cim.clusters.class_peaks`.
    """

    peak_classifier: PeakClassifier
    threshold: float = 10.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.PEAK_CLASSIFIER`` and ``MODEL.CIM.LABEL``."""
        return {
            "peak_classifier": build_peak_classifier(cfg),
            "threshold": cfg.MODEL.CIM.LABEL.PEAK_THRESHOLD,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else the peaks of every image.

        Args:
            batched_inputs: per image ``image`` (3, H, W) in 0..255 and ``image_labels``; without
                them there are no peaks.

        Returns:
            per image ``peaks`` (P, 3) int64 rows (class, y, x), weakest first, and their ``values``
            (P,); the class response ``maps`` (K, h, w) of the tags ``classes`` (K,) and their
            ``frame`` (`MapFrame`); ``logits`` and ``scores`` (C,), as in PRM.
        """
        if self.training:
            return self.peak_classifier.losses(batched_inputs)
        classifier = self.peak_classifier
        images = [classifier.normalize(sample["image"]) for sample in batched_inputs]
        responses = classifier.respond(images, back_propagate=False)
        results = []
        for sample, response in zip(batched_inputs, responses, strict=True):
            labels, key = sample.get("image_labels", []), sample.get("image_key", "")
            present = classifier.multi_hot(labels, image_key=key).nonzero()[:, 0]
            maps, present = response.class_maps, present.to(response.class_maps.device)
            options = {"window": classifier.window, "peak_filter": classifier.peak_filter}
            peaks, values = class_peaks(maps, present, threshold=self.threshold, **options)
            found = {"peaks": peaks, "values": values, "classes": present, "maps": maps[present]}
            logits = response.logits
            found |= {"frame": response.frame, "logits": logits, "scores": logits.sigmoid()}
            results.append(found)
        return results
