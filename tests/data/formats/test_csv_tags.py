"""Tags in tables."""

import pytest
from wsis.data.formats.csv_tags import read_csv
from wsis.errors import DataError, UsageError

from tests.data.formats.common import messages, pictures, read

TAGS = {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"]}


def table(tmp_path, text, encoding="utf-8"):
    pictures(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    return read(read_csv, CSV=tmp_path / "t.csv", IMAGES=tmp_path / "images")


TABLES = {
    "semicolons": "file,tags\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n",
    "bars": "file,tags\na.jpg,cat|dog\nb.jpg,dog\nc.jpg\n",
    "quoted commas": 'file,tags\na.jpg,"cat, dog"\nb.jpg,dog\nc.jpg,""\n',
    "a list": "file,tags\na.jpg,\"['cat', 'dog']\"\nb.jpg,['dog']\nc.jpg,[]\n",
    "a row a tag": "filename,label\na.jpg,cat\nb.jpg,dog\na.jpg,dog\nc.jpg,\n",
    "other order": "Labels;Image\ncat,dog;a.jpg\ndog;b.jpg\n;c.jpg\n",
    "tabs": "path\tclass\nimages/a.jpg\tcat;dog\nimages/b.jpg\tdog\nimages/c.jpg\t\n",
    "columns of tags": "image,tag1,tag2\na.jpg,dog,cat\nb.jpg,,dog\nc.jpg,,\n",
    "more cells than names": "file,tags\na.jpg,cat,dog\nb.jpg,dog\nc.jpg\n",
    "no header": "a.jpg,cat,dog\nb.jpg,dog\nc.jpg,\n",
    "no header, tags first": "cat|dog,a.jpg\ndog,b.jpg\n,c.jpg\n",
    "a hint for Excel": "sep=;\nfile;tags\na.jpg;cat,dog\nb.jpg;dog\nc.jpg;\n",
    "0 and 1": "file,cat,dog\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,0\n",
    "0 and 1 among others": "id,width,cat,dog\na,200,1.0,1.0\nb,200,0.0,1.0\nc,200,,False\n",
    "ids without suffix": "id,breed\na,cat|dog\nb,dog\nc,\n",
    "unusual names": "Bild,Art\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n",
    "byte order mark": "\ufefffile,tags\r\na.jpg,cat;dog\r\n\r\nb.jpg,dog\r\nc.jpg,\r\n",
    "beside others": "file,tags,size,when\na.jpg,cat;dog,3,May\nb.jpg,dog,4,May\nc.jpg,,5,\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_forms_of_the_table(tmp_path, kind):
    found = table(tmp_path, TABLES[kind])
    assert found.tags == TAGS
    assert list(found.classes.values()) == ["cat", "dog"]
    assert len(found.content["images"]) == 3
    assert not found.problems.found


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_encodings(tmp_path, encoding):
    found = table(tmp_path, "file,tags\na.jpg,Bär\nb.jpg,\nc.jpg,\n", encoding)
    assert found.tags == {"a.jpg": ["Bär"]}


def test_classes_of_columns_keep_their_order(tmp_path):
    found = table(tmp_path, "file,zebra,cat\na.jpg,1,1\nb.jpg,0,1\n")
    assert found.classes == {1: "zebra", 2: "cat"}
    assert found.tags == {"a.jpg": ["zebra", "cat"], "b.jpg": ["cat"]}


def test_one_column_of_numbers_is_no_tick(tmp_path):
    assert table(tmp_path, "file,label\na.jpg,0\nb.jpg,1\n").tags == {
        "a.jpg": ["0"],
        "b.jpg": ["1"],
    }
    assert table(tmp_path, "file,cactus\na.jpg,1\nb.jpg,0\n").tags == {"a.jpg": ["cactus"]}


def test_boxes_are_told_to_be_no_tags(tmp_path):
    found = table(tmp_path, "filename,width,class,xmin,xmax\na.jpg,9,cat,1,2\nb.jpg,9,dog,1,2\n")
    assert found.tags == {"a.jpg": ["cat"], "b.jpg": ["dog"]}
    assert "only tags are read, not the boxes in xmin, xmax" in found.problems.found[0].message
    with pytest.raises(UsageError, match="which column has the tags"):
        table(tmp_path, "a.jpg,1,2,3,4,cat\nb.jpg,1,2,3,4,dog\n")


def test_images_and_rows_without_each_other(tmp_path):
    found = table(tmp_path, "file,tags\na.jpg,cat\ngone.jpg,cat\n,cat\n../../etc/b.png,dog\n")
    assert found.tags == {"a.jpg": ["cat"], "b.jpg": ["dog"]}
    said = messages(found.problems)
    assert said[0].startswith("error: t.csv: gone.jpg: file_name 'gone.jpg' is not in")
    assert said[1] == "error: t.csv: : file_name is '', not a file name"
    assert "image that the table does not name (c.jpg): 1 left out" in said[2]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", DataError, "is empty"),
        ("\n , \n", DataError, "is empty"),
        ("file,size,when\na.jpg,3,May\n", UsageError, "which column has the tags? Call it tags"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, error, said):
    with pytest.raises(error) as raised:
        table(tmp_path, text)
    assert said in str(raised.value)
