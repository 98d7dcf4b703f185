"""Product checks: what ``Stage.evaluation`` names.

A check compares a product that is on disk with the ground truth. Every process calls it with its
share of the dataset dicts (any shares: the figures do not depend on them) and it gathers inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wsis.data.artifacts import ProductReader
from wsis.errors import UsageError
from wsis.evaluation.box_masks import check_box_masks, check_proxy_masks
from wsis.evaluation.checks import (
    check_cam,
    check_instances,
    check_inter_pixel_label,
    check_pseudo_labels,
    check_semantic,
)
from wsis.evaluation.proposals import check_proposals
from wsis.evaluation.walk import CheckOptions, Results

Check = Callable[[Sequence[dict[str, Any]], ProductReader, CheckOptions], Results]
_CHECKS: dict[str, Check] = {
    "box_masks": check_box_masks,
    "cam": check_cam,
    "instances": check_instances,
    "inter_pixel_label": check_inter_pixel_label,
    "proxy_masks": check_proxy_masks,
    "pseudo_labels": check_pseudo_labels,
    "proposals": check_proposals,
    "semantic": check_semantic,
}


def register_check(name: str, check: Check) -> None:
    """Make a further check known under ``name``, which must be new."""
    if name in _CHECKS:
        raise AssertionError(f"two product checks are called {name!r}")
    _CHECKS[name] = check


def evaluate_product(
    name: str,
    dataset_dicts: Sequence[dict[str, Any]],
    product: ProductReader,
    *,
    class_names: Sequence[str],
    **options: Any,
) -> Results:
    """Run the check that ``Stage.evaluation`` names; every process calls it.

    Args:
        name: one of the checks above, or one added by `register_check`.
        dataset_dicts: this process's share of the images.
        product: the stage's product.
        class_names: C names.
        **options: further fields of `CheckOptions`.

    Returns:
        ``[{"protocol": name, "metrics": {name: per cent}}]`` on the main process, empty on the
        others and where nothing has ground truth. Each ``metrics`` also counts ``images``,
        ``images_without_ground_truth`` and ``images_without_product``.

    Raises:
        UsageError: no such check.
        DataError: a product that does not fit its image.
    """
    if name not in _CHECKS:
        raise UsageError(
            f"there is no product check {name!r}; a stage's evaluation is one of: "
            f"{', '.join(sorted(_CHECKS))}"
        )
    options = CheckOptions(class_names=tuple(class_names), **options)
    return _CHECKS[name](dataset_dicts, product, options)
