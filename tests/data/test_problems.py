"""Problems of a data set are collected and told together."""

import pytest
from wsis.data.problems import KEPT, FieldError, Problem, Problems, collecting
from wsis.errors import DataError


def test_places(tmp_path):
    problems = Problems()
    problems.error("is odd", file=tmp_path / "a.json", image=3, annotation="x", field="bbox")
    problems.warning("empty", left_out=2)
    assert [str(p) for p in problems.found] == [
        f"{tmp_path}/a.json: image 3, annotation x: is odd",
        "empty",
    ]
    assert (problems.errors, problems.warnings, problems.left_out) == (1, 1, 3)
    assert problems.found[0].as_dict() == {
        "level": "error",
        "message": "is odd",
        "file": f"{tmp_path}/a.json",
        "image": 3,
        "annotation": "x",
        "field": "bbox",
    }


def test_what_ends_a_block_is_left_out():
    problems = Problems()
    for error in (FieldError("bbox", "is 3"), ValueError("no"), DataError("never")):
        with problems.leaving_out(image=1):
            raise error
    assert [(p.field, p.message) for p in problems.found] == [
        ("bbox", "bbox is 3"),
        (None, "no"),
        (None, "never"),
    ]
    with pytest.raises(KeyError), problems.leaving_out():
        raise KeyError("a mistake of ours")


def test_many():
    problems = Problems()
    for number in range(KEPT + 5):
        problems.error(f"number {number}")
    assert (len(problems.found), problems.errors) == (KEPT, KEPT + 5)
    lines = problems.summary("error").splitlines()
    assert lines[19:] == ["number 19", f"... and {KEPT + 5 - 20} more"]
    with pytest.raises(DataError, match=f"{KEPT + 5} problems; do this:\nnumber 0\n"):
        problems.raise_errors("do this")


def test_strict():
    problems = Problems(strict=True)
    problems.warning("odd", left_out=1)
    assert (problems.errors, problems.warnings, problems.left_out) == (1, 0, 1)


def test_collecting(caplog):
    given = Problems()
    with collecting(given) as found:
        assert found is given
        found.error("bad")
    with pytest.raises(DataError, match="bad; do this"), collecting(None, "do this") as found:
        found.error("bad")
    with collecting(None) as found:
        found.warning("odd")
    assert "odd" in caplog.text


def test_what_was_told_is_not_taken_again():
    first, second = Problems(), Problems()
    for problems in (first, second):
        problems.warning("is odd", image=1)
        problems.error("is broken", image=2, left_out=0)
    second.error("is gone", image=3)
    first.take(second)
    assert [problem.image for problem in first.found] == [1, 2, 3]
    assert (first.errors, first.warnings, first.left_out) == (2, 1, 1)


def test_a_message_that_names_its_file_is_not_led_by_it():
    assert str(Problem("error", "a/b.xml is no XML", file="a/b.xml", image=1)) == (
        "image 1: a/b.xml is no XML"
    )
