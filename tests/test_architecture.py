"""The shape of the code base: imports point down, files and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "projects" / "WSIS" / "wsis"
FILES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = FILES + sorted(
    path for folder in ("tests", "tools", "datasets") for path in (ROOT / folder).rglob("*.py")
)
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

# An import may point from a layer to itself (within a folder) or to a lower one.
RANK = {
    "errors": 0,
    "commands": 0,
    "compat": 0,
    "reading": 0,
    "ready": 1,
    "pickles": 0,
    "processes": 0,
    "progress": 0,
    "config_values": 0,
    "stopping": 0,
    "layers": 1,
    "stage": 1,
    "data": 2,
    "modeling": 2,
    "evaluation": 3,
    "methods": 4,
    "stages": 4,
    "visualization": 4,
    "views": 5,
    "config": 5,
    "networks": 5,
    "engine": 6,
    "trained_stage": 7,
    "demo": 8,
    "peak_thresholds": 8,
    "door": 8,
    "predictor": 8,
    "report": 8,
    "export": 8,
    "cli": 9,
}
SHARED = ("layers", "data", "modeling", "evaluation")
# What these import serves every pipeline: configs name it, or list the stage that runs it.
SERVE_ALL = {"config", "networks", "stages"}
FORBIDDEN = {("modeling", "data"), ("layers", "stage"), ("stage", "layers"), ("data", "modeling")}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ":" in node.value:
            names = [node.value.partition(":")[0]]  # "module:function", imported when it is called
        else:
            continue
        found |= {name for name in names if name in MODULES and name != "wsis"}
    return found


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


SCRIPTS = {
    f"scripts.{path.stem}": path for f in ("tools", "datasets") for path in (ROOT / f).glob("*.py")
}
IMPORTERS = {module: set() for module in MODULES}
for importer, path in (MODULES | SCRIPTS).items():
    for target in imports_of(path) - {importer}:
        IMPORTERS[target].add(importer)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"wsis"}))
def test_imports_point_down(module):
    here = layer(module)
    for target in imports_of(MODULES[module]):
        there = layer(target)
        if here == there:
            if here == "methods" and module.count(".") > 1:
                assert module.split(".")[2] == target.split(".")[2], f"{module} -> {target}"
            continue
        assert RANK[there] <= RANK[here], f"{module} -> {target}: {there} is above {here}"
        assert (here, there) not in FORBIDDEN, f"{module} -> {target}"


def user(module: str) -> str:
    """Who imports: one method, one room of the package, or one script."""
    parts = module.split(".")
    return ".".join(parts[1:3]) if parts[1] == "methods" else parts[1]


def users_of(module: str) -> set[str]:
    """Users of a shared file, also through other shared files; a room's own files are none."""
    found, seen, waiting = set(), {module}, [module]
    while waiting:
        target = waiting.pop()
        for importer in IMPORTERS[target] - seen:
            seen.add(importer)
            if layer(importer) in SHARED:
                waiting.append(importer)
            else:
                found.add(user(importer))
    return found


@pytest.mark.parametrize(
    "module", [m for m, p in MODULES.items() if layer(m) in SHARED and p.name != "__init__.py"]
)
def test_shared_files_have_two_users(module):
    """What one method alone uses lies in its folder.

    A user of a file in `SHARED` is a method, another room (engine, report, ...) or a script of
    tools/ or datasets/ that imports it, or that imports a file in `SHARED` which does, and so on.
    Two are wanted; of `SERVE_ALL` one is enough.
    """
    users = users_of(module)
    shared = len(users) > 1 or bool(users & SERVE_ALL)
    assert shared, f"{module} is used by {sorted(users)} alone"


def test_no_import_cycles():
    graph = {
        module: {t for t in imports_of(path) if MODULES[t].name != "__init__.py"}
        for module, path in MODULES.items()
        if path.name != "__init__.py"
    }
    while graph:
        leaves = {module for module, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"an import cycle among {sorted(graph)}"
        graph = {module: targets for module, targets in graph.items() if module not in leaves}


def test_evaluation_has_at_most_four_floors():
    """The longest chain of imports within ``evaluation/``: what one reads to follow a figure."""

    def floor(module: str) -> int:
        below = [t for t in imports_of(MODULES[module]) if layer(t) == "evaluation"]
        return 1 + max((floor(t) for t in below if t.count(".") > 1), default=0)

    floors = {m: floor(m) for m in MODULES if m.startswith("wsis.evaluation.")}
    assert max(floors.values()) <= 4, floors


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= MAX_FILE_LINES, f"{path.name} has {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_are_documented_and_typed(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    definitions = ast.FunctionDef | ast.ClassDef
    public = [n for n in tree.body if isinstance(n, definitions) and not n.name.startswith("_")]
    for node in public:
        assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"
        functions = [node] if isinstance(node, ast.FunctionDef) else node.body
        for function in functions:
            if isinstance(function, ast.FunctionDef):
                arguments = (
                    function.args.posonlyargs + function.args.args + function.args.kwonlyargs
                )
                bare = [a.arg for a in arguments if a.annotation is None]
                bare = [name for name in bare if name not in ("self", "cls")]
                assert not bare, f"{path.name}: {function.name}: no type for {bare}"
                assert function.returns is not None, f"{path.name}: {function.name}: no return type"
