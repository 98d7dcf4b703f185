"""The original IRNet's checkpoints: names translated (spec 11)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsis.errors import DataError
from wsis.modeling.checkpoint import renamed, torchvision_resnet_to_detectron2

_PARTS = ("conv", "norm")  # of the original's Sequentials
_MODULES = {
    "fc_edge6": "boundary_branch.predict",
    "fc_dp7.3": "displacement_branch.predict",
    **{
        f"{theirs}{tap}.{i}": f"{ours}.reduce.{tap - 1}.{part}"
        for theirs, ours in (("fc_edge", "boundary_branch"), ("fc_dp", "displacement_branch"))
        for tap in range(1, 6)
        for i, part in enumerate(_PARTS)
    },
    **{
        f"fc_dp{number}.{i}": f"displacement_branch.{ours}.{part}"
        for number, ours in ((6, "merge_deep"), (7, "merge"))
        for i, part in enumerate(_PARTS)
    },
}


def irnet_name(name: str) -> str | None:
    """Our name of a branch's entry; None for the trunk, aliases, index tables and counters."""
    if name == "mean_shift.running_mean":
        return "mean_shift"
    module, _, leaf = name.rpartition(".")
    return f"{_MODULES[module]}.{leaf}" if module in _MODULES else None


def convert_irnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``res50_irn.pth`` in the names of our `IRNet` on ``build_wsis_resnet_backbone``.

    Aliases of entries (``backbone.*``, ``edge_layers.*``, ...), index tables (``path_indices*``,
    ``disp_target``) and ``num_batches_tracked`` are left out.

    Raises:
        DataError: this is no IRNet checkpoint: an entry is missing.
    """
    if not any(name.startswith("fc_edge") for name in state):
        raise DataError(
            "these are not IRNet's weights: no entry fc_edge1.0.weight "
            "(the classifier's res50_cam.pth has another converter)"
        )
    trunk = torchvision_resnet_to_detectron2(state, "resnet50.", "backbone.")
    return trunk | renamed(state, irnet_name)
