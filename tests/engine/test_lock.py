"""Two runs cannot share an output folder."""

import os
import subprocess
import sys
import textwrap

import pytest
from wsis.engine.lock import output_lock
from wsis.errors import WSISError

HOLDER = textwrap.dedent(
    """
    import sys, time, pathlib
    from wsis.engine.lock import output_lock
    with output_lock(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
    """
)


def test_second_run_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline().strip() == "held"
        with (
            pytest.raises(WSISError, match=f"in use by another run: process {holder.pid} on "),
            output_lock(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    with output_lock(tmp_path):
        assert (tmp_path / ".lock").read_text().endswith(f'"pid": {os.getpid()}}}')


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WSISError, match="cannot write to the output folder.*OUTPUT_DIR"),
        output_lock(tmp_path / "file" / "out"),
    ):
        pass
