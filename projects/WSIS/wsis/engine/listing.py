"""What OUTPUT_DIR holds: the table of ``--list-stages``, and whether the run there is another."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from wsis.engine.folder import State, open_folders
from wsis.engine.manifest import MANIFEST, product_of
from wsis.engine.pipeline import Pipeline, PlannedStage
from wsis.errors import DataError
from wsis.reading import read_yaml

logger = logging.getLogger(__name__)


def other_run(pipeline: Pipeline, chosen: Sequence[PlannedStage]) -> str:
    """Whose run OUTPUT_DIR holds, if it is that of another pipeline; else "".

    A pipeline may take other stages (STAGES) and go on in its folder: what counts are finished
    stages that are not its own. It is another one if it has another WSIS.METHOD, if the folder has
    no stage of it at all, or if one of the stages ``chosen`` is there and was made from what stood
    in the place of a stage that is not, so that it would be stale when its turn comes.
    """
    folders = [path.parent for path in pipeline.output_dir.glob(f"[0-9]*_*/{MANIFEST}")]
    done = {folder.name for folder in folders if product_of(folder)}
    own = {planned.folder.name: planned for planned in pipeline.stages}
    others = sorted(done - own.keys(), key=lambda name: (len(name.partition("_")[0]), name))
    if not others:
        return ""
    taken = {name.partition("_")[0] for name in others}
    absent = {name for name in own.keys() - done if name.partition("_")[0] in taken}
    methods = {_method_of(pipeline.output_dir / name) for name in others}
    if (
        done & own.keys()
        and methods <= {"", pipeline.stages[0].cfg.WSIS.METHOD}
        and not any(
            planned.folder.name in done and source.folder.name in absent
            for planned in chosen
            for source in planned.sources.values()
        )
    ):
        return ""
    of = f" of {', '.join(sorted(methods - {''}))}" if methods - {""} else ""
    return (
        f"OUTPUT_DIR {pipeline.output_dir} holds the run of another pipeline than "
        f"{pipeline.name}: {', '.join(others)}{of}; name another OUTPUT_DIR, or add --force to "
        "make the chosen stages there all the same"
    )


def _method_of(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
        return str(read_yaml(folder / "config.yaml")["WSIS"]["METHOD"])
    return ""


def describe_stages(pipeline: Pipeline, selection: Mapping[str, str | None]) -> str:
    """A line for each chosen stage: what is done, stale, unfinished or missing."""
    from tabulate import tabulate

    problem, folders, rows = "", open_folders(pipeline), []
    for planned in pipeline.select(**selection):
        state = ("unknown", "")
        if not problem:
            try:
                _ = folders[planned.name].dataset_dicts  # told even where nothing has run yet
                status = folders[planned.name].status()
                state = (status.state.value, status.detail)
            except DataError as error:  # the stages can be listed all the same
                problem = f"\n\nwhat is done cannot be told: {error}"
        folder = os.path.relpath(planned.folder, Path.cwd())
        rows.append((planned.name, planned.stage.kind, *state, folder))
    if other := other_run(pipeline, pipeline.select(**selection)):
        logger.warning("%s", other)
    elif any(row[2] == State.STALE.value for row in rows):
        logger.warning(
            "A stage is stale where this command asks for something else than it was made with: "
            "the overrides of a run (DATA.TRAIN, KEY VALUE) belong in every later command"
        )
    return tabulate(rows, headers=("stage", "kind", "state", "detail", "folder")) + problem
