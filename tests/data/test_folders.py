"""Folders of classes."""

import pytest
from PIL import Image
from wsis.data.folders import class_folders, load_folders
from wsis.data.problems import Problems
from wsis.errors import DataError

COLOURS = iter(range(1000))


def pictures(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (next(COLOURS) % 256, 0, 0)).save(root / name)
    return root


def test_folders_of_a_class_count_where_no_class_has_pictures_of_its_own(tmp_path):
    pictures(tmp_path, "robin/2023/b.png", "robin/2023/may/c.png", "wren/x/d.png")
    pictures(tmp_path, ".hidden/e.png", "wren/.thumbs/f.png")
    (tmp_path / "notes").mkdir()
    assert class_folders(tmp_path) == ("robin", "wren")
    problems = Problems()
    found = [(r["image_id"], r["image_labels"]) for r in load_folders(tmp_path, problems)]
    robins = ["robin/2023/b.png", "robin/2023/may/c.png"]
    assert found == [*((name, [0]) for name in robins), ("wren/x/d.png", [1])]
    assert [p.message for p in problems.found] == ["no class, without pictures: notes"]
    pictures(tmp_path, "wren/a.png")
    assert class_folders(tmp_path) == ("wren",)
    assert len(load_folders(tmp_path, problems)) == 1
    warning = problems.found[1]
    assert warning.message.startswith("images in no class folder, left out: 3 (robin/2023/b.png)")


def test_pictures_in_no_class_or_in_several_are_told(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "robin/c.png", "robin/d.png", "wren/d.png")
    (tmp_path / "wren" / "c.png").write_bytes((tmp_path / "robin" / "c.png").read_bytes())
    problems = Problems()
    assert len(load_folders(tmp_path, problems)) == 4
    twins, unsorted = (problem.message for problem in problems.found)
    assert twins.startswith("pictures in several folders, so that each copy has one tag only: 1 (")
    assert "robin/c.png" in twins
    assert "wren/c.png" in twins
    assert unsorted == "images in no class folder, left out: 2 (a.png)"
    assert (problems.errors, problems.left_out) == (0, 2)


def test_splits_are_no_classes(tmp_path):
    pictures(tmp_path, "train/robin/a.png", "val/robin/b.png")
    with pytest.raises(DataError, match=r"parts of a data set, no classes; name one .*/train$"):
        load_folders(tmp_path)
    assert len(load_folders(tmp_path / "train")) == 1


def test_links_are_followed_and_a_circle_ends(tmp_path):
    pictures(tmp_path, "real/robin/a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "robin").symlink_to(tmp_path / "real" / "robin")
    (tmp_path / "real" / "robin" / "again").symlink_to(tmp_path / "real" / "robin")
    assert [r["image_id"] for r in load_folders(tmp_path / "photos")] == ["robin/a.png"]


def test_photographs_that_nothing_reads(tmp_path):
    pictures(tmp_path, "wren/a.png")
    (tmp_path / "robin").mkdir()
    for name in ("robin/IMG_1.HEIC", "wren/b.avif", "wren/Thumbs.db", "wren/.DS_Store"):
        (tmp_path / name).touch()
    problems = Problems()
    assert len(load_folders(tmp_path, problems)) == 1
    assert [p.message for p in problems.found] == [
        "pictures in a format that is not read: 2, such as IMG_1.HEIC; save them as JPEG or PNG",
        "no class, without pictures: robin",
    ]
    assert (problems.errors, problems.left_out) == (0, 2)
