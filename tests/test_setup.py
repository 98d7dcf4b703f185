"""setup.py names every package that is imported; CITATION.cff has the version."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

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
    assert methods == {
        *("IRNet", "PRM", "IAM", "BoxCaseg", "CIM"),
        *("BoxInst", "CAM instances", "Prompted masks", "random walker"),
    }


def test_what_comes_with_the_package_is_installed(tmp_path):
    """Templates and trained networks; a Predictor needs nothing of the checkout."""
    build = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "build")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    package, own = tmp_path / "build" / "lib" / "wsis", Path(wsis.__file__).parent
    data = [p.relative_to(own) for p in own.rglob("*") if p.suffix and p.is_file()]
    assert not [p for p in data if p.suffix != ".pyc" and not (package / p).is_file()]
    code = (
        "import numpy, wsis; image = numpy.zeros((30, 40, 3), 'uint8'); "
        "print(len(wsis.Predictor('boxcaseg_ready')(image, boxes=[[1, 2, 9, 9]])['instances']))"
    )
    variables = os.environ | {"PYTHONPATH": str(package.parent)}
    options = {"capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, **options)
    assert done.stdout == "1\n"
