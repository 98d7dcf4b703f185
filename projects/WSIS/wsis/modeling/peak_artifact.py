"""What is kept of an image's peaks on disk, for the report and for choosing thresholds."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from wsis.modeling.peak_responses import PeakResponses

_REPORT_SIDE = 112  # longer side of the maps that are kept for the report


def small_maps(maps: Tensor, side: int = _REPORT_SIDE) -> np.ndarray:
    """Maps (K, H, W) reduced to at most ``side`` by averaging, see `compact`."""
    factor = -(-max(maps.shape[1:]) // side)
    if factor > 1 and len(maps):
        maps = F.avg_pool2d(maps[None], factor, ceil_mode=True, count_include_pad=False)[0]
    return compact(maps)


def compact(maps: Tensor) -> np.ndarray:
    """Maps as float16, or float32 where that would make them infinite."""
    values = maps.float().cpu().numpy()
    fits = np.abs(values).max(initial=0.0) <= np.finfo(np.float16).max
    return values.astype(np.float16 if fits else np.float32)


def response_artifact(found: PeakResponses) -> dict[str, np.ndarray]:
    """What is kept of the peaks of an image, for the report and for choosing thresholds.

    Returns:
        ``map_classes`` (K,) int64 and ``class_maps`` (K, h, w) float16, the class response maps of
        the classes that have peaks, in cells that tile the image; ``peaks`` (P, 3) int64 rows
        (class, y, x); ``peak_places`` (P, 2) float32, (y, x) as shares of the image;
        ``peak_values`` (P,) float32; ``responses`` (P, h', w') float16, reduced, of maximum 1;
        ``candidates`` (Q, 2) float32, class and value of every peak before the thresholds.
    """
    classes = found.peaks[:, 0].unique()
    every = found.all_peaks
    values = found.class_maps[tuple(every.unbind(1))]
    shape = tuple(found.class_maps.shape[1:])
    kept = {
        "map_classes": classes.cpu().numpy(),
        "class_maps": small_maps(found.frame.on_image(found.class_maps[classes])),
        "peaks": found.peaks.cpu().numpy(),
        "peak_places": found.frame.places(found.peaks[:, 1:], shape).cpu().numpy(),
        "peak_values": found.values.cpu().numpy().astype(np.float32),
    }
    if found.responses is not None:
        responses = (
            found.responses / found.responses.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
            if len(found.responses)
            else found.responses
        )
        kept["responses"] = small_maps(responses)
    table = np.stack([every[:, 0].cpu().numpy(), values.cpu().numpy()], axis=1)
    return kept | {"candidates": table.astype(np.float32)}
