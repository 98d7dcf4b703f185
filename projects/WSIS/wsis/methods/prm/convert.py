"""The originals' checkpoints of the peak classifier: names translated (spec 8)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsis.modeling.weight_names import by_prefix, renamed, require_entries, torchvision_resnet_name

# torchvision's ResNet names for the official trainer's ``features`` and for simple-IAM's blocks.
_torchvision_name = by_prefix(
    {
        **{"0.features.0.": "conv1.", "0.features.1.": "bn1."},
        **{f"0.features.{layer + 3}.": f"layer{layer}." for layer in range(1, 5)},
        **{"0.res_block1.0.": "conv1.", "0.res_block1.1.": "bn1."},
        **{f"0.res_block{layer + 1}.": f"layer{layer}." for layer in range(1, 5)},
    }
)
_classifier_name = by_prefix({"0.classifier.0.": "classifier."})


def _translate(name: str) -> str | None:
    trunk = torchvision_resnet_name(_torchvision_name(name) or "")
    return f"backbone.{trunk}" if trunk else _classifier_name(name)


def peak_classifier_from_original(
    state: Mapping[str, Tensor], prefix: str = "peak_classifier."
) -> dict[str, Tensor]:
    """A checkpoint in the names of `wsis.modeling.peak_classifier.PeakClassifier`, with ``prefix``.

    It comes from the official trainer (``model_latest.pt``), ultra-thin-PRM
    (``prm__latest.pth.tar``) or simple-IAM (``model_prm_latest.pth.tar``). Batch counters are left
    out.

    Raises:
        DataError: it is no such checkpoint, or an entry is unknown.
    """
    plain = {
        name.removeprefix("module."): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    require_entries(plain, "PRM's", "0.classifier.0.weight")
    return renamed(plain, _translate, prefix, owner="PRM's")
