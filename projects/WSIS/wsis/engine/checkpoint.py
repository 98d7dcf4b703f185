"""Networks and their checkpoints, which are never half-written and never hold a diverged model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2 import modeling
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn

import wsis.networks  # noqa: F401  (configs name what it registers)
from wsis.data.files import atomic_write
from wsis.engine.manifest import digest_of_weights, product_of
from wsis.engine.pipeline import MODEL_FINAL
from wsis.errors import UsageError, WSISError, did_you_mean, first_line, out_of_memory
from wsis.modeling.checkpoint import load_tensors, load_weights

logger = logging.getLogger(__name__)

_MARK = "last_checkpoint"


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with atomic writes and a check that all weights are finite.

    If a run is killed while it saves, or the disk is full, the previous checkpoint and the mark
    ``last_checkpoint`` stay as they were. A checkpoint that is damaged later is skipped: the one
    before it is used.
    """

    def save(self, name: str, *, mark: bool = True, **kwargs: Any) -> None:
        """Save model and checkpointables as ``<name>.pth`` and mark it as the last checkpoint.

        Args:
            name: of the file, without suffix.
            mark: False: a resumed run does not start from this one.
            **kwargs: what else to save.

        Raises:
            WSISError: a weight is NaN or infinite, or the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        _check_finite(self.model, kwargs.get("iteration"))
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            with atomic_write(path) as stream:
                torch.save(data, stream)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            for cause in _causes(error):
                if isinstance(cause, KeyboardInterrupt):  # and Ctrl-C, too
                    raise cause from None
            raise WSISError(
                f"cannot save {path} ({_reason(error)}); free some space and run the same "
                "command again; it goes on from the last checkpoint"
            ) from error
        if mark:
            self.tag_last_checkpoint(path.name)

    def periodic_files(self) -> list[Path]:
        """``model_<iteration>.pth`` in ascending order."""
        return sorted(Path(self.save_dir).glob("model_" + "[0-9]" * 7 + ".pth"))

    def newest_readable(self) -> Path | None:
        """The checkpoint to resume from: the last one, or an older one where that is damaged."""
        there, mark = Path(self.save_dir).glob("*.pth"), Path(self.save_dir) / _MARK
        marked = mark.read_text("utf-8", errors="replace").strip() if mark.is_file() else ""
        last = [path for path in there if path.name == marked and path.is_file()]
        for path in dict.fromkeys([*last, *reversed(self.periodic_files())]):
            try:
                stored = load_tensors(path)
                if not isinstance(stored["model"], dict) or not isinstance(
                    stored["iteration"], int
                ):
                    raise ValueError("it holds no training state")
                return path
            except Exception as error:  # a damaged archive raises nearly anything
                if out_of_memory(error):
                    raise
                logger.warning("%s is damaged (%s); trying an older one", path, first_line(error))
        return None

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which checkpoint a resumed run starts from."""
        with atomic_write(Path(self.save_dir) / _MARK, "w") as stream:
            stream.write(last_filename_basename)


def _reason(error: BaseException) -> str:
    """The message of the file system, which torch hides behind an error of its own."""
    found = (e.strerror for e in _causes(error) if isinstance(e, OSError) and e.strerror)
    return next(found, first_line(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check_finite(model: nn.Module, iteration: int | None) -> None:
    when = "" if iteration is None else f" by iteration {iteration}"
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WSISError(
                f"training diverged{when}: {name} is not finite, so this state is not saved; the "
                "last checkpoint is kept. Lower SOLVER.BASE_LR, warm up longer or clip gradients, "
                "and start the stage again with --force"
            )


def build_network(cfg: CfgNode) -> nn.Module:
    """A stage's network with its initial weights.

    Raises:
        UsageError: the config describes no network that Detectron2 can build.
    """
    try:
        return modeling.build_model(cfg)
    except WSISError:
        raise
    except (AssertionError, KeyError, ValueError) as error:  # how Detectron2 refuses a config
        logger.debug("building the network failed", exc_info=True)
        reason = " ".join(str(error.args[0] if error.args else error).split())
        if unknown := re.search(r"No object named '(\w+)' found in '(\w+)' registry", reason):
            registry = getattr(modeling, f"{unknown[2]}_REGISTRY", ())
            reason += did_you_mean(unknown[1], [name for name, _ in registry])
        raise UsageError(
            f"the config of stage {cfg.WSIS.STAGE} makes no network, correct MODEL: "
            f"{reason or type(error).__name__}"
        ) from error


def load_trained(model: nn.Module, weights: str | Path, *, strict: bool = False) -> None:
    """Load weights, those of a finished stage only as it left them, see `load_weights`.

    Raises:
        WSISError: the file is not the one that the stage made, or does not fit.
    """
    path = Path(weights)
    product = product_of(path.parent) if path.name == MODEL_FINAL and path.is_file() else ""
    if product and product != digest_of_weights(path):
        raise WSISError(
            f"{path} is not the file that its stage wrote (manifest.json has another digest): its "
            "bytes have changed, or it was replaced; delete it and run the stage again, which goes "
            "on from its last checkpoint"
        )
    load_weights(model, str(weights), strict=strict)


def build_inference_model(cfg: CfgNode, weights: Path | str) -> nn.Module:
    """A stage's network with trained weights, in eval mode.

    Raises:
        WSISError: the checkpoint is not there.
    """
    if "://" not in str(weights) and not Path(weights).is_file():
        raise WSISError(
            f"no trained weights {weights}; run the stage that makes them first (train_net.py with "
            "the same config and overrides), or correct OUTPUT_DIR"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.WEIGHTS = str(weights), ""  # nothing else is loaded
    model = build_network(cfg)
    load_trained(model, weights, strict=True)
    return model.eval()
