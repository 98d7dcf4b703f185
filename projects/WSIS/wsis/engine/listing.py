"""The table of ``--list-stages``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from wsis.engine.folder import State, open_folders
from wsis.engine.pipeline import Pipeline
from wsis.errors import DataError

logger = logging.getLogger(__name__)


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
    if any(row[2] == State.STALE.value for row in rows):
        logger.warning(
            "A stage is stale where this command asks for something else than it was made with: "
            "the overrides of a run (DATA.TRAIN, KEY VALUE) belong in every later command"
        )
    return tabulate(rows, headers=("stage", "kind", "state", "detail", "folder")) + problem
