"""Ctrl-C and SIGTERM: told in one sentence, never lost, and never raised where they would harm."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from wsis.errors import WSISError, run_command
from wsis.stopping import Postponed, Terminated, handling

from tests.tiny import environment

pytestmark = pytest.mark.usefixtures("ctrl_c")
SIGNALS = [
    (signal.SIGINT, "interrupted", 130),
    (signal.SIGTERM, "ended by SIGTERM", 143),
]


@pytest.mark.parametrize(("number", "said", "code"), SIGNALS)
def test_a_command_ends_with_a_sentence(capsys, number, said, code):
    before = signal.getsignal(number)
    assert run_command(lambda: signal.raise_signal(number)) == code
    assert capsys.readouterr().err == f"{said}; run the same command again to go on\n"
    assert signal.getsignal(number) is before


def test_ignored_signals_stay_ignored():
    """As under nohup, or behind an ampersand in a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_command(lambda: signal.raise_signal(signal.SIGINT)) == 0
        with Postponed() as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "said", "code"), SIGNALS)
def test_a_signal_in_a_finalizer_is_not_lost(number, said, code):
    """Python prints "Exception ignored in" for it, and goes on."""
    script = f"""
        import signal, sys, time
        from wsis.errors import run_command
        signal.signal(signal.SIGINT, signal.default_int_handler)
        class Finalized:
            def __del__(self):
                signal.raise_signal({int(number)})
        def work():
            Finalized()
            time.sleep(60)
        sys.exit(run_command(work))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(
        command, env=environment("."), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        code,
        f"{said}; run the same command again to go on\n",
    )


def test_a_postponed_signal_comes_at_the_end(capfd):
    steps = []

    def work(*numbers):
        with Postponed("wait") as stop:
            for number in numbers:
                signal.raise_signal(number)
                steps.append(stop.number)

    with pytest.raises(Terminated):
        work(signal.SIGTERM, signal.SIGINT)  # a terminal and a parent may send one each
    assert steps == [signal.SIGTERM, signal.SIGTERM]
    assert capfd.readouterr().err == "\nwait\n"
    with pytest.raises(KeyboardInterrupt) as caught, Postponed():
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, Terminated)


def test_a_second_signal_comes_at_once():
    reached = []

    def work():
        with Postponed():
            for number in range(3):
                signal.raise_signal(signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [0]


def test_an_error_after_a_signal_is_its_consequence():

    def work(*numbers):
        with Postponed():
            for number in numbers:
                signal.raise_signal(number)
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with pytest.raises(Terminated):
        work(signal.SIGTERM)
    with pytest.raises(RuntimeError):
        work()


def test_a_full_disk_is_told_after_a_signal_as_well():
    def work():
        with Postponed():
            signal.raise_signal(signal.SIGTERM)
            raise WSISError("cannot save model.pth (No space left on device)")

    with pytest.raises(WSISError, match="No space left"):
        work()


def test_nobody_has_to_read_that_it_stops(monkeypatch):
    """Ctrl-C ends ``| tee log`` as well."""
    end, beginning = os.pipe()
    os.close(end)
    with os.fdopen(beginning, "w") as stream:
        monkeypatch.setattr(sys, "__stderr__", stream)
        stop = Postponed("stopping after this iteration").__enter__()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.__exit__(None)
    assert stop.number == signal.SIGINT


def test_a_forked_process_ends_as_usual():
    called = []
    with handling(lambda *_: called.append(os.getpid())):
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)
    assert called == [os.getpid()]
