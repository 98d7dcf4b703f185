"""Two runs cannot share an output folder."""

import os
import subprocess
import sys
import textwrap

import pytest
from wsis.engine.lock import output_lock
from wsis.errors import WSISError

from tests.tiny import ROOT, environment

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


RANK = textwrap.dedent(
    """
    import sys, pathlib
    from detectron2.utils import comm
    from wsis.engine.lock import rank_lock
    comm.get_world_size, comm.get_rank = lambda: 2, lambda: int(sys.argv[2])
    with rank_lock(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
    """
)


def test_the_folder_stays_locked_until_the_last_process_of_a_run_has_ended(tmp_path):
    def start(rank):
        command = [sys.executable, "-c", RANK, str(tmp_path), str(rank)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(ROOT)
        )

    with output_lock(tmp_path):
        ranks = [start(0), start(1)]
        assert [rank.stdout.readline() for rank in ranks] == ["held\n", "held\n"]
    for rank in ranks:  # the process that started them has ended
        with pytest.raises(WSISError, match="in use by another run"), output_lock(tmp_path):
            pass
        rank.communicate()
    with output_lock(tmp_path):
        pass


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WSISError, match="cannot write to the output folder.*OUTPUT_DIR"),
        output_lock(tmp_path / "file" / "out"),
    ):
        pass
