"""Annotations of other tools, each turned into the content of a COCO file."""

from collections.abc import Callable, Mapping
from typing import Any

from wsis.data.formats.builder import Translated
from wsis.data.formats.csv_tags import read_csv
from wsis.data.formats.cvat import read_cvat
from wsis.data.formats.label_studio import read_label_studio
from wsis.data.formats.labelme import read_labelme
from wsis.data.formats.via import read_via
from wsis.data.formats.yolo import read_yolo
from wsis.data.problems import Problems

# By FORMAT: takes a checked entry, collects problems.
READERS: Mapping[str, Callable[[dict[str, Any], Problems], Translated]] = {
    "csv": read_csv,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "via": read_via,
    "label_studio": read_label_studio,
    "cvat": read_cvat,
}
