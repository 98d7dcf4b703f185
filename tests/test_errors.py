"""Errors: one sentence and the exit code."""

import pytest
from wsis.errors import DataError, UsageError, run_command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("a.json is damaged"), 1, "a.json is damaged"),
        (UsageError("no such stage"), 2, "no such stage"),
        (ModuleNotFoundError("none", name="detectron2.config"), 1, "detectron2 is not installed"),
        (PermissionError(13, "Permission denied", "out"), 1, "Permission denied: 'out'"),
    ],
)
def test_failure_is_one_sentence(error, code, said, capsys):
    def work():
        raise error

    assert run_command(work) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_success_and_bugs():
    assert run_command(lambda: None) == 0
    with pytest.raises(KeyError):  # a bug keeps its traceback
        run_command(lambda: {}["x"])
    with pytest.raises(OSError, match="in use"):  # not of a file
        run_command(lambda: exec("raise OSError(98, 'Address already in use')"))


def test_a_module_of_ours_that_is_missing_is_a_bug():
    def work():
        raise ModuleNotFoundError("none", name="wsis.no_such_module")

    with pytest.raises(ModuleNotFoundError):
        run_command(work)
