"""Errors: one sentence and the exit code."""

import pytest
from wsis import errors
from wsis.errors import (
    DataError,
    MachineError,
    UsageError,
    about,
    known_words,
    near_file,
    out_of_memory,
    run_command,
)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("a.json is damaged"), 1, "a.json is damaged"),
        (UsageError("no such stage"), 2, "no such stage"),
        (ModuleNotFoundError("none", name="detectron2.config"), 1, "detectron2 is not installed"),
        (MemoryError(), 1, "out of memory (MemoryError); work at smaller sizes (INPUT)"),
        (OSError(12, "Cannot allocate memory"), 1, "out of memory ([Errno 12] Cannot allocate"),
        (RuntimeError("CUDA error: out of memory"), 1, "half of it wants half of SOLVER.BASE_LR"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), 1, "was ended, perhaps"),
        (RuntimeError("Connection closed by peer [::1]:7"), 1, "another process of the run has"),
        (RuntimeError("received 0 items of ancdata"), 1, "ulimit -n"),
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


def test_what_the_machine_lacks_is_told_with_stage_and_image():
    with pytest.raises(MachineError, match="^stage cam: image a: out of memory"):  # noqa: SIM117
        with about("stage cam"), about(lambda: "image a", when=out_of_memory):
            raise MemoryError
    with pytest.raises(DataError, match="^a.json is damaged$"), about("stage cam"):
        raise DataError("a.json is damaged")  # says all itself
    with pytest.raises(KeyError), about("stage cam"):  # a bug
        raise KeyError("x")
    with pytest.raises(OSError, match="No space"), about("image a", when=out_of_memory):
        raise OSError(28, "No space left on device")


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


def test_the_word_like_an_unknown_one_is_looked_for_once(monkeypatch):
    asked, find = [], errors.get_close_matches
    monkeypatch.setattr(
        errors, "get_close_matches", lambda *a, **k: asked.append(a) or find(*a, **k)
    )
    for _ in range(3):
        assert known_words("hrose", ["horse", "cow"]) == "horse, cow; did you mean horse?"
    assert len(asked) == 1
    assert known_words("hrose", ["cow"]) == "cow"


def test_words_and_files_like_an_unknown_one(tmp_path, monkeypatch):
    assert known_words("TRIAN", ("TRAIN", "VAL")) == "TRAIN, VAL; did you mean TRAIN?"
    assert known_words("train", ("TRAIN", "VAL")) == "TRAIN, VAL; did you mean TRAIN?"
    assert known_words(3, ("TRAIN", "VAL")) == "TRAIN, VAL"
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for path in ("brids", tmp_path / "Birds" / "deeper" / "x.json", "./bird/train.json"):
        assert near_file(path) == "; did you mean birds?"
    assert near_file("birds", (".yaml",)) == "; did you mean birds.yaml?"
    assert near_file("wholly/else") == near_file("birds/x") == near_file("b" * 300 + "/x") == ""
