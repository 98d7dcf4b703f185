"""Checkpoints that are never half-written and never hold a diverged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from wsis.data.files import atomic_write
from wsis.errors import WSISError


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with atomic writes and a check that all weights are finite.

    A run killed while it saves leaves the previous checkpoint and its ``last_checkpoint`` mark
    intact; so does a full disk.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Save model and checkpointables as ``<name>.pth`` and mark it as the last checkpoint.

        Raises:
            WSISError: a weight is NaN or infinite, or the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        _check_finite(self.model)
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            with atomic_write(path) as stream:
                torch.save(data, stream)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise WSISError(f"cannot save {path} ({error}); free some space and rerun") from error
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which checkpoint a resumed run starts from."""
        with atomic_write(Path(self.save_dir) / "last_checkpoint", "w") as stream:
            stream.write(last_filename_basename)


def _check_finite(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WSISError(
                f"training diverged: {name} is not finite, so this state is not saved; the last "
                "checkpoint is kept. Lower SOLVER.BASE_LR or clip gradients"
            )
