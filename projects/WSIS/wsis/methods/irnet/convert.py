"""The original IRNet's checkpoints: names translated (spec 11)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from wsis.errors import DataError
from wsis.modeling.checkpoint import torchvision_resnet_to_detectron2

_PARTS = {"0": "conv", "1": "norm"}  # index in the original's Sequentials
_RULES = (
    (re.compile(r"fc_edge([1-5])\.([01])\.(weight|bias)"), "boundary_branch.reduce"),
    (re.compile(r"fc_dp([1-5])\.([01])\.(weight|bias)"), "displacement_branch.reduce"),
)
_SINGLE = {
    "fc_edge6.weight": "boundary_branch.predict.weight",
    "fc_edge6.bias": "boundary_branch.predict.bias",
    "fc_dp7.3.weight": "displacement_branch.predict.weight",
    "mean_shift.running_mean": "mean_shift",
    **{
        f"fc_dp{number}.{name}": f"displacement_branch.{ours}.{to}"
        for number, ours in ((6, "merge_deep"), (7, "merge"))
        for name, to in (
            ("0.weight", "conv.weight"),
            ("1.weight", "norm.weight"),
            ("1.bias", "norm.bias"),
        )
    },
}


def irnet_name(name: str) -> str | None:
    """Our name of a branch's entry; None for the trunk, aliases, index tables and counters."""
    if name in _SINGLE:
        return _SINGLE[name]
    for pattern, branch in _RULES:
        if match := pattern.fullmatch(name):
            tap, part, leaf = match.groups()
            return f"{branch}.{int(tap) - 1}.{_PARTS[part]}.{leaf}"
    return None


def convert_irnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate ``res50_irn.pth`` to the names of our `IRNet` on ``build_wsis_resnet_backbone``.

    Args:
        state: the original's state dict; it is not changed. Aliases of entries (``backbone.*``,
            ``edge_layers.*``, ...), index tables (``path_indices*``, ``disp_target``) and
            ``num_batches_tracked`` are left out.

    Returns:
        the same tensors under our names.

    Raises:
        DataError: this is no IRNet checkpoint: an entry is missing.
    """
    if not any(name.startswith("fc_edge") for name in state):
        raise DataError(
            "these are not IRNet's weights: no entry fc_edge1.0.weight "
            "(the classifier's res50_cam.pth has another converter)"
        )
    converted = torchvision_resnet_to_detectron2(state, "resnet50.", "backbone.")
    for name, value in state.items():
        ours = irnet_name(name)
        if ours is not None:
            converted[ours] = value
    return converted
