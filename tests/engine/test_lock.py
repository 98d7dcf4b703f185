"""Two runs cannot share an output folder."""

import errno
import fcntl
import os
import re
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


def test_a_folder_that_holds_nothing_but_the_lock_goes_with_it(tmp_path):
    """And those above it that the lock has made; others stay, and so does what has files."""
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), output_lock(tmp_path / "a" / "b"):
            raise ValueError("broken")
        assert not [*tmp_path.iterdir()]
    with output_lock(tmp_path):
        pass
    assert not [*tmp_path.iterdir()]
    with output_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "c").touch()
    assert os.listdir(tmp_path / "a") == ["c"]
    with output_lock(tmp_path / "a"):
        pass
    assert sorted(os.listdir(tmp_path / "a")) == [".lock", "c"]


def test_a_lock_that_its_holder_has_taken_away_is_no_lock(tmp_path, monkeypatch):
    """Another run opened the file before, and would hold one that nobody sees."""
    lockf = fcntl.lockf

    for taken_again in (False, True):

        def late(*arguments, taken_again=taken_again):
            (tmp_path / ".lock").unlink()
            if taken_again:
                (tmp_path / ".lock").touch()
            lockf(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr("wsis.engine.lock.fcntl.lockf", late)
            with pytest.raises(WSISError, match="in use by another run$"), output_lock(tmp_path):
                pass


def test_a_link_is_refused_and_its_target_untouched(tmp_path):
    (tmp_path / "precious").write_text("words")
    for target in ("precious", "absent"):
        (tmp_path / ".lock").symlink_to(tmp_path / target)
        with (
            pytest.raises(WSISError, match=r"\.lock is no plain file; remove it"),
            output_lock(tmp_path),
        ):
            pass
        (tmp_path / ".lock").unlink()
    assert (tmp_path / "precious").read_text() == "words"
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(WSISError, match="no plain file"), output_lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_told_as_such(tmp_path, monkeypatch, number):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("wsis.engine.lock.fcntl.lockf", lockf)
    said = re.escape(f"the file system of {tmp_path} has no locks ({os.strerror(number)})")
    with pytest.raises(WSISError, match=f"{said}.*set OUTPUT_DIR"), output_lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
@pytest.mark.parametrize("text", ["", "[" * 100_000, "[1]", '{"pid": 3}'])
def test_an_owner_that_cannot_be_read(tmp_path, monkeypatch, number, text):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    (tmp_path / ".lock").write_text(text)
    monkeypatch.setattr("wsis.engine.lock.fcntl.lockf", lockf)
    with pytest.raises(WSISError, match="in use by another run$"), output_lock(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == text


@pytest.mark.parametrize("name", ["file/out", "a" * 300])
def test_folder_that_cannot_be_made(tmp_path, name):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WSISError, match="cannot write to the output folder.*OUTPUT_DIR"),
        output_lock(tmp_path / name),
    ):
        pass
