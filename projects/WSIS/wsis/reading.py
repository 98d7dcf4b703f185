"""Opens files from outside: whatever else a reader guards against, it begins here.

A named pipe or a device may never begin or never end, and a small YAML file can name a part of
itself again and again.
"""

from __future__ import annotations

import codecs
import os
import stat
from typing import Any, BinaryIO

import yaml

MAX_TEXT_BYTES = 64 << 20  # of lists and classes; no data set has as many images
MAX_YAML_BYTES, MAX_YAML_NODES = 1 << 20, 1 << 17


def open_file(path: str | os.PathLike[str], *, limit: int | None = None) -> BinaryIO:
    """Open a regular file of at most ``limit`` bytes for reading.

    Raises:
        OSError: as the file system says.
        ValueError: a folder, a pipe, a device, or too large; the text completes a sentence.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is a folder, a pipe or a device, not a file")
    if limit is not None and found.st_size > limit:
        raise ValueError(f"its {found.st_size} bytes are too many; {limit} are the limit")
    return open(path, "rb")


def read_text(path: str | os.PathLike[str], *, limit: int = MAX_TEXT_BYTES) -> str:
    """The text of a file in UTF-8, or in UTF-16 with the byte order mark that says so.

    Raises:
        OSError, ValueError: as `open_file`; it is no UTF-8 text.
    """
    with open_file(path, limit=limit) as stream:
        data = stream.read()
    try:
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is no UTF-8 text: byte {data[error.start]:#x} at place {error.start}; save it as "
            "UTF-8"
        ) from None


def parse_yaml(text: str) -> Any:
    """The plain values in YAML, or None. Anchors may be used as long as the whole stays small.

    Raises:
        ValueError: it is no YAML, has a key twice, is nested absurdly, or larger than
            `MAX_YAML_NODES` when every alias is written out.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"{len(text)} characters are too many")
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_nodes(root)
        return loader.construct_document(root)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    except (KeyError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"a tag asks for what a value is not: {error}") from None


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The plain values in a YAML file, see `parse_yaml`.

    Raises:
        OSError, ValueError: as `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, limit=MAX_YAML_BYTES))


def _check_nodes(root: yaml.Node) -> None:
    """Count nodes as if aliases were written out; stops at the limit, also in a circle.

    A key that occurs twice is refused: PyYAML would pass over the first one in silence.
    """
    waiting, count = [root], 0
    while waiting:
        node, count = waiting.pop(), count + 1
        if count > MAX_YAML_NODES:
            raise ValueError(f"it has more than {MAX_YAML_NODES} entries, its aliases written out")
        if isinstance(node, yaml.MappingNode):
            keys: set[tuple[str, str]] = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if (key.tag, key.value) in keys and key.value != "<<":
                    line = key.start_mark.line + 1
                    raise ValueError(f"{key.value} occurs twice, again in line {line}; join them")
                keys.add((key.tag, key.value))
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
