"""Errors: one sentence and the exit code."""

import pytest
from wsis.errors import DataError, UsageError, run_command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("a.json is damaged"), 1, "a.json is damaged"),
        (UsageError("no such stage"), 2, "no such stage"),
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
