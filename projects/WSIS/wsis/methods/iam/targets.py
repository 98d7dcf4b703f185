"""Pseudo masks for training the filling network (spec 4).

P peaks of one image, R proposals, H x W input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsis.layers.retrieval import PreparedProposals, sampling_candidates
from wsis.modeling.network import require_one_of

CHOICES = ("random", "best")


@dataclass(frozen=True)
class PseudoMaskSampler:
    """Which proposal a peak learns to fill: the keys of ``MODEL.IAM.SAMPLER``, in lower case."""

    balance: float = 0.1
    area_cost: float = 0.0
    num_candidates: int = 5
    discard_threshold: float | None = 0.2
    choice: str = "random"

    def __post_init__(self) -> None:
        require_one_of("MODEL.IAM.SAMPLER.CHOICE", self.choice, CHOICES)

    def sample(
        self,
        responses: Tensor,
        proposals: PreparedProposals,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A mask for every peak that has a valid proposal.

        ``responses`` are peak response maps (P, H, W); ``proposals`` have their size. There is one
        draw per peak, from torch's global generator if none is given.

        Returns:
            the numbers (p,) int64 of these peaks, ascending, and masks (p, H, W) bool, on the CPU.
        """
        candidates = sampling_candidates(
            proposals,
            responses.detach().cpu().numpy(),
            balance=self.balance,
            area_cost=self.area_cost,
            max_candidates=self.num_candidates,
            discard_threshold=self.discard_threshold,
        )
        places, chosen = [], []
        for place, (indices, _) in enumerate(candidates):
            if len(indices) == 0:
                continue
            draw = 0
            if self.choice == "random":
                draw = int(torch.randint(len(indices), (), generator=generator))
            places.append(place)
            chosen.append(int(indices[draw]))
        masks = proposals.regions.decode(np.asarray(chosen, dtype=np.int64))
        return torch.tensor(places, dtype=torch.int64), torch.from_numpy(masks)
