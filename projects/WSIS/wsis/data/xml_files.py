"""Reads XML from outside; nothing that it declares is expanded."""

from __future__ import annotations

import os
from xml.etree import ElementTree

from wsis.errors import DataError
from wsis.reading import open_file

MAX_XML_BYTES = 4 << 20  # some 8000 objects of VOC


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type, in any encoding, before an entity that it declares is expanded."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which an annotation has no use for")


def parse_xml(path: str | os.PathLike[str], *, limit: int = MAX_XML_BYTES) -> ElementTree.Element:
    """The root of an XML file of at most ``limit`` bytes.

    Raises:
        DataError: missing, no regular file, too large, not XML, or with a document type.
    """
    try:
        with open_file(path, limit=limit) as stream:
            parser = ElementTree.XMLParser(target=_Builder())
            return ElementTree.parse(stream, parser).getroot()
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise DataError(f"{path} is not a readable XML file ({error})") from error
