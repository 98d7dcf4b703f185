"""tools/make_large_set.py: a COCO file of any size, which has no errors."""

from wsis.data.builtin import ADVICE
from wsis.data.coco import load_coco_dataset
from wsis.data.problems import Problems

from tests.scripts import main_of


def test_it_can_be_read_and_is_the_same_twice(tmp_path, capsys):
    main, problems = main_of("tools/make_large_set.py"), Problems()
    for name in ("one", "two"):
        assert main(["--output", str(tmp_path / name), "--images", "3"]) == 0
    assert "3 images, 22 annotations" in capsys.readouterr().out
    one, two = (tmp_path / name / "instances.json" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    records, names, _ = load_coco_dataset(one, one.parent / "images", problems=problems)
    problems.raise_errors(ADVICE)
    assert [len(record["annotations"]) for record in records] == [7, 8, 7]
    assert len(names) == 80
    assert len({(one.parent / "images" / f"{n:012d}.jpg").stat().st_ino for n in (1, 2, 3)}) == 1
