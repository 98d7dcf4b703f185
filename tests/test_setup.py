"""setup.py names every package that is imported; CITATION.cff has the version."""

import ast
import re
import sys

import wsis
import yaml

from tests.tiny import ROOT

# Where the package has another name than its module.
PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"}
# README says where it comes from.
BY_HAND = {"detectron2"}


def imported() -> set[str]:
    """Top names of all modules that the package imports, at any depth of its code."""
    found = set()
    for path in (ROOT / "projects").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"wsis"}


def test_what_is_imported_is_named():
    named = set(re.findall(r'"([a-z][\w-]*)(?:[<>=]=[^"]*)?"', (ROOT / "setup.py").read_text()))
    needed = {PACKAGES.get(name, name) for name in imported()} - BY_HAND
    assert needed
    assert needed <= named


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == wsis.__version__
    methods = {reference["notes"] for reference in citation["references"]}
    assert methods == {"IRNet", "PRM", "IAM", "BoxCaseg", "CIM", "BoxInst", "Prompted masks"}
