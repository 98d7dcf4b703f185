"""How CIM's products look."""

from __future__ import annotations

import numpy as np

from wsis.visualization.canvas import Arrays, Canvas, Picture, note_rest, view

_MOST_CLUSTERS = 6


@view("proposal cluster", "cluster_maps", "cluster_labels", "ids")
def proposal_clusters(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Proposals that were grouped around one peak or point: the share of them that cover a place,
    from blue (none) to red (all).
    """
    labels, ids = arrays["cluster_labels"], arrays["ids"]
    sizes = np.bincount(ids[ids > 0])
    sizes = sizes[sizes > 0]
    objects = np.flatnonzero(labels >= 0)
    pictures = [
        Picture(
            canvas.heat(arrays["cluster_maps"][row]),
            note=f"{canvas.classes[labels[row]]}, {sizes[row]} proposals",
        )
        for row in objects[:_MOST_CLUSTERS].tolist()
    ]
    return note_rest(pictures, len(objects) - len(pictures), "clusters")


VIEWS = (proposal_clusters,)
