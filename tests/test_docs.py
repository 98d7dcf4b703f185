"""Documents lead somewhere: sections that comments cite, links, files that are named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.tiny import ROOT

METHODS = tuple(sorted(path.stem for path in (ROOT / "docs" / "methods").glob("*.md")))
SOURCES = [
    path
    for folder in ("projects", "tests", "tools", "datasets")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)
]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "datasets" / "README.md",
    ROOT / "projects" / "WSIS" / "README.md",
]
# "spec 5.3", "cim spec 3-5", "spec 6.4 to 6.6", "`methods/prm.md` 2, 3", over the ends of lines too
NUMBER = r"\d+(?:\.\d+)?"
CITATION = re.compile(
    rf"(?:\b(?:({'|'.join(METHODS)})\s+)?spec|methods/(\w+)\.md`*,?)\s+"
    rf"({NUMBER}(?:(?:,|-|\sand|\sto)\s*{NUMBER})*)",
    re.IGNORECASE,
)


def sections(method: str) -> set[str]:
    """Numbers of the headings of a method's page."""
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    return set(re.findall(rf"^#+ ({NUMBER})\.? ", text, re.MULTILINE))


def own_method(path: Path) -> str | None:
    """The method that a file belongs to: "spec 5" in it needs no name."""
    found = re.search(
        rf"(?:methods/|golden/test_|plain/)({'|'.join(METHODS)})\b|golden/test_({'|'.join(METHODS)})_",
        path.relative_to(ROOT).as_posix(),
    )
    return found and (found[1] or found[2])


def citations() -> list[tuple[str, str | None, str]]:
    """(file, method, section) of every citation in the code."""
    found = []
    for path in SOURCES:
        for named, page, numbers in CITATION.findall(path.read_text()):
            method = (named or page).lower() or own_method(path)
            for number in re.findall(NUMBER, numbers):
                found.append((path.relative_to(ROOT).as_posix(), method, number))
    return found


def test_every_method_has_a_page():
    folders = ROOT / "projects" / "WSIS" / "wsis" / "methods"
    methods = {path.parent.name for path in folders.glob("*/__init__.py")}
    assert methods == set(METHODS)


def test_citations_lead_to_sections():
    found = citations()
    assert len(found) > 80
    assert not [at for at in found if at[1] is None], "name the method: 'irnet spec 5.3'"
    headings = {method: sections(method) for method in METHODS}
    assert not [at for at in found if at[2] not in headings[at[1]]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert not [target for target in local if target and not (page.parent / target).exists()]


@pytest.mark.parametrize("method", METHODS)
def test_pages_name_files_that_exist(method):
    """`methods/irnet/losses.py`, `configs/irnet_voc.yaml`: a file that moves shows here."""
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    named = set(
        re.findall(r"`((?:methods|layers|modeling|data|evaluation)/\w+(?:/\w+)*\.py)`", text)
    )
    package = ROOT / "projects" / "WSIS" / "wsis"
    own = {f"methods/{method}/{path.name}" for path in (package / "methods" / method).glob("*.py")}
    assert own - named == {f"methods/{method}/__init__.py"}  # file by file
    assert not [name for name in sorted(named) if not (package / name).is_file()]
    configs = set(re.findall(r"configs/\w+\.yaml", text))
    assert not [name for name in sorted(configs) if not (ROOT / name).is_file()]


def test_commands_that_change_the_stages_make_a_pipeline(shapes_root, monkeypatch):
    """In place of a config file of its own for each."""
    from wsis.engine.pipeline import load_pipeline

    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    monkeypatch.chdir(ROOT)
    found = re.findall(
        r"^ {4}python train_net.py (--config-file .*(?:STAGES|_BASE_|DEPTH) .*)$",
        "\n".join(page.read_text() for page in PAGES),
        re.MULTILINE,
    )
    assert len(found) >= 8
    for line in found:
        words = [
            word for word in shlex.split(line, comments=True) if word not in ("--num-gpus", "4")
        ]
        data = words.index("DATA.TRAIN") + 1 if "DATA.TRAIN" in words else 0
        if data and not words[data].startswith("voc_"):
            words[data] = "shapes_train"  # of one's own
        assert load_pipeline(Path(words[1]), words[2:]).stages, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_wrap(page):
    """Prose has at most 120 characters a line; tables, commands and printed text may be longer."""
    lines, fenced = page.read_text().splitlines(), False
    for number, line in enumerate(lines, 1):
        fenced ^= line.startswith("```")
        if not fenced and not line.startswith(("|", "    ", "```")) and "](" not in line:
            assert len(line) <= 120, f"{page.name}:{number}"
