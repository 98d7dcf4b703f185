"""Config files: YAML with ``_BASE_`` and inline stages, and what a command line changes of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

import wsis
from wsis.config import flatten
from wsis.data.user import ROLES
from wsis.errors import UsageError

ZOO = "detectron2://"
COMMAND_LINE = "command line"
_BASE, _STAGES, _DATA = "_BASE_", "STAGES", "DATA"
# Keys that name data sets: a pipeline names them by role, so that none is left behind.
_NAMES_OF_DATA = ("DATASETS", "WSIS.DATASETS", "WSIS.CLASSES", "WSIS.EVALUATION.IMAGES")

Lines = tuple[str, Mapping[str, Any]]  # where they stand, and what they say


@dataclass(frozen=True)
class StageLines:
    """What one file says of one stage.

    Attributes:
        anew: its ``_BASE_`` names files: what earlier files say of the stage no longer counts.
        starts_from: the stage of the same pipeline that its ``_BASE_`` names, or "".
        lines: of the files of ``_BASE_``, then its own.
        data: other data for this stage, by role.
    """

    anew: bool = False
    starts_from: str = ""
    lines: tuple[Lines, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigFile:
    """One file of a pipeline: those of its ``_BASE_`` come before it.

    Attributes:
        source: its path, or "command line".
        values: what it says to all stages.
        data: what it says of the data, by role ("TRAIN").
        stages: what it says to single stages, by name.
    """

    source: str
    values: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, StageLines] = field(default_factory=dict)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no config file {path}") from None
    except OSError as error:
        raise UsageError(f"config file {path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a set of KEY: value lines")
    _check_keys(values, path)
    return values


def _check_keys(values: Mapping[Any, Any], path: Path) -> None:
    for key, value in values.items():
        if not isinstance(key, str):
            raise UsageError(f"{path}: {key!r} is no key; keys are words")
        if isinstance(value, dict):
            _check_keys(value, path)


def _load_zoo(name: str) -> dict[str, Any]:
    """A config of Detectron2's model zoo, as the installed package has it, without data sets."""
    from detectron2 import model_zoo

    # Files of the package alone: they may compute values, as RetinaNet's anchors do.
    root = (Path(model_zoo.__file__).parent / "configs").resolve()
    path = (root / name.removeprefix(ZOO)).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise UsageError(f"_BASE_ {name}: Detectron2's model zoo has no such config")
    values = CfgNode.load_yaml_with_base(str(path), allow_unsafe=True)
    values.pop("DATASETS", None)
    stock = get_cfg()  # what its weights were trained with, where it says nothing of it
    values.setdefault("INPUT", {}).setdefault("FORMAT", stock.INPUT.FORMAT)
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values.setdefault("MODEL", {}).setdefault(key, stock.MODEL[key])
    return values


def _as_list(value: Any, where: str) -> list[str]:
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"{where}: _BASE_ is {value!r}; it is the path of a file, or a list of such"
        )
    return names


def find_base(name: str, beside: Path) -> Path:
    """The file that a ``_BASE_`` names.

    Relative paths count from the file itself, else from the present folder, else from the folder
    ``configs`` that comes with WSIS.

    Raises:
        UsageError: there is none.
    """
    path = Path(name).expanduser()
    root = Path(wsis.__file__).resolve().parents[3]
    places = [beside.parent / path, path, root / path, root / "configs" / path]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(dict.fromkeys(str(place.parent) for place in places[:2]))
    raise UsageError(f"{beside}: _BASE_ names {name}, which is not in {looked} or configs/")


def _is_file(name: str) -> bool:
    return name.startswith(ZOO) or name.endswith((".yaml", ".yml"))


def _stage_base(name: str, beside: Path) -> list[Lines]:
    """The lines of a file that stages start from, those of its own ``_BASE_`` first."""
    if name.startswith(ZOO):
        return [(name, _load_zoo(name))]
    path = find_base(name, beside)
    values = _load_yaml(path)
    for key in (_STAGES, _DATA):
        if key in values:
            raise UsageError(
                f"{path} is a pipeline (it has {key}); a stage starts from the config of a network"
            )
    found = []
    for base in _as_list(values.pop(_BASE, None), str(path)):
        found += _stage_base(base, path)
    return [*found, (str(path), values)]


def _stage_lines(name: str, values: Any, path: Path) -> StageLines:
    where = f"{path}: stage {name}"
    if values is None:
        return StageLines()
    if not isinstance(values, dict):
        raise UsageError(f"{where} is {values!r}, not a set of KEY: value lines")
    values = dict(values)
    bases = _as_list(values.pop(_BASE, None), where)
    data = _check_data(values.pop(_DATA, None) or {}, where)
    stages = [base for base in bases if not _is_file(base)]
    if len(stages) > 1:
        raise UsageError(f"{where}: _BASE_ names {len(stages)} stages; a stage starts from one")
    lines = []
    for base in bases:
        lines += _stage_base(base, path) if _is_file(base) else []
    anew = len(lines) > 0
    return StageLines(anew, stages[0] if stages else "", (*lines, (where, values)), data)


def _check_data(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UsageError(f"{where}: DATA is {data!r}; it has the roles {', '.join(ROLES)}")
    unknown = [key for key in data if key not in ROLES]
    if unknown:
        raise UsageError(f"{where}: DATA has no role {unknown[0]!r}; roles are {', '.join(ROLES)}")
    return data


def read_config_files(path: Path) -> list[ConfigFile]:
    """A pipeline's files, those that it builds on first; each counts once.

    Raises:
        UsageError: a file is missing, unreadable or builds on itself.
    """
    found: dict[Path, ConfigFile] = {}
    own = Path(wsis.__file__).resolve().parents[3] / path  # one that comes with WSIS
    path = own if own.is_file() and not path.is_file() else path
    _collect(path, found, ())
    return list(found.values())


def _collect(path: Path, found: dict[Path, ConfigFile], within: tuple[Path, ...]) -> None:
    key = path.resolve()
    if key in within:
        raise UsageError(f"{path} builds on itself (_BASE_)")
    if key in found:
        return
    values = _load_yaml(path)
    for base in _as_list(values.pop(_BASE, None), str(path)):
        _collect(find_base(base, path), found, (*within, key))
    stages = values.pop(_STAGES, None) or {}
    if not isinstance(stages, dict):
        raise UsageError(f"{path}: STAGES is not a set of stage names with their lines")
    data = _check_data(values.pop(_DATA, None) or {}, str(path))
    lines = {str(name): _stage_lines(str(name), own, path) for name, own in stages.items()}
    found[key] = ConfigFile(str(path), values, data, lines)


def stage_names(files: Sequence[ConfigFile]) -> list[str]:
    """The stages in order.

    A file that names only stages of those before it adds lines to them; one that names another
    stage as well lists all stages anew, in order.
    """
    names: list[str] = []
    for file in files:
        if names and file.stages and not set(names) & set(file.stages):
            raise UsageError(
                f"{file.source}: STAGES names {', '.join(file.stages)}, but the pipeline that it "
                f"builds on has {', '.join(names)}"
            )
        if set(file.stages) - set(names):
            names = list(file.stages)
    return names


def base_stage(files: Sequence[ConfigFile], name: str) -> str:
    """The stage that the ``_BASE_`` of stage ``name`` names, or ""."""
    return next((s.starts_from for f in reversed(files) if (s := f.stages.get(name))), "")


def lines_of_stage(files: Sequence[ConfigFile], chain: Sequence[str]) -> list[Lines]:
    """What makes up a stage's config; later lines have the last word.

    Every file says first what holds for all stages, then what holds for the stages of ``chain``.

    Args:
        files: of the pipeline, in order.
        chain: the stages from whose configs it starts, and itself at the end.
    """
    found: list[tuple[str, Lines]] = []
    for file in files:
        found.append(("", (file.source, file.values)))
        for name in chain:
            own = file.stages.get(name, StageLines())
            if own.anew:
                found = [entry for entry in found if entry[0] != name]
            found += [(name, lines) for lines in own.lines]
    return [lines for _, lines in found if lines[1]]


def _as_word(value: Any) -> Any:
    """A number, or text that yacs would take for one, so that it remains a word to yacs."""
    number = value
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            number = ast.literal_eval(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return repr(str(value))
    return value


def _with_words(values: Mapping[str, Any], cfg: Any) -> dict[str, Any]:
    """Numbers as words where the config has a word: a key may take either (a peak filter)."""
    made = {}
    for key, value in values.items():
        known = cfg.get(key) if isinstance(cfg, CfgNode) else None
        if isinstance(value, dict):
            value = _with_words(value, known)
        elif isinstance(known, str):
            value = _as_word(value)
        made[key] = value
    return made


def _refuse_names_of_data(keys: Sequence[str], source: str) -> None:
    for key in keys:
        if key.startswith(tuple(f"{name}." for name in _NAMES_OF_DATA)) or key in _NAMES_OF_DATA:
            raise UsageError(
                f"{source}: {key} is filled in from DATA; name data sets there by their role: "
                "DATA.TRAIN, DATA.VAL, DATA.SALIENT (datasets/README.md)"
            )


def merge_lines(cfg: CfgNode, lines: Lines) -> None:
    """Merge lines of a file into a config, in place.

    Raises:
        UsageError: an unknown key or a value of another type, with the file's name.
    """
    source, values = lines
    if not source.startswith(ZOO):
        _refuse_names_of_data(list(flatten(values, "")), source)
    try:
        cfg.merge_from_other_cfg(CfgNode(_with_words(values, cfg)))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        reason = error.args[0] if error.args else error
        raise UsageError(f"{source}: {reason}") from None


@dataclass(frozen=True)
class Overrides:
    """What the command line changes.

    Attributes:
        common: ``KEY VALUE`` pairs, for every stage.
        special: ``KEY VALUE`` pairs by stage.
        data: data sets by role, for every stage under "".
    """

    common: list[str]
    special: dict[str, list[str]]
    data: dict[str, dict[str, Any]]


def split_overrides(overrides: Sequence[str], names: Sequence[str]) -> Overrides:
    """Separate pairs for all stages from ``stage.KEY VALUE`` and ``DATA.ROLE VALUE``.

    Args:
        overrides: as left on the command line.
        names: stages of the pipeline.
    """
    if len(overrides) % 2:
        raise UsageError(f"overrides come as KEY VALUE pairs; '{overrides[-1]}' has no value")
    found = Overrides([], {name: [] for name in names}, {name: {} for name in ("", *names)})
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        prefix, _, rest = key.partition(".")
        owner, role = (prefix, rest) if prefix in found.special else ("", key)
        if role in ("WSIS.IMPORTS", "WSIS.STAGE"):
            raise UsageError(f"{COMMAND_LINE}: {role} is read from config files only")
        if role.startswith(f"{_DATA}."):
            role = role.removeprefix(f"{_DATA}.")
            found.data[owner].update(_check_data({role: _role_value(value)}, COMMAND_LINE))
        elif prefix in found.special:
            found.special[prefix].extend((rest, value))
        elif prefix.isupper():
            found.common.extend((key, value))
        else:
            raise UsageError(
                f"'{key}' is neither a config key nor <stage>.KEY; stages: {', '.join(names)}"
            )
    return found


def _role_value(text: str) -> Any:
    if text.lstrip().startswith(("[", "{")):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{COMMAND_LINE}: {text} is not readable YAML: {error}") from None
    return text or None


def _override_value(known: Any, text: str) -> Any:
    """What is written for a key whose value is ``known``, as the YAML files have it.

    Lists and dicts need no quotes around words, nor do numbers where the config has a word.
    """
    if isinstance(known, str) and _as_word(text) != text:
        return _as_word(text)
    if text.lstrip().startswith(("[", "{")):
        try:
            ast.literal_eval(text)
        except (ValueError, SyntaxError):
            with suppress(yaml.YAMLError):
                return yaml.safe_load(text)
    return text


def apply_overrides(cfg: CfgNode, pairs: Sequence[str]) -> None:
    """Set ``KEY VALUE`` pairs of the command line, in place.

    Raises:
        UsageError: an unknown key or a value of another type.
    """
    _refuse_names_of_data(pairs[::2], COMMAND_LINE)
    known = flatten(cfg, "")
    values = [
        word
        for key, text in zip(pairs[::2], pairs[1::2], strict=True)
        for word in (key, _override_value(known.get(key), text))
    ]
    try:
        cfg.merge_from_list(values)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        reason = error.args[0] if error.args else error
        hint = _hint(cfg, pairs[::2], str(reason))
        raise UsageError(f"{COMMAND_LINE}: {reason}{hint}") from None


def _hint(cfg: CfgNode, keys: Sequence[str], reason: str) -> str:
    """What may have been meant, for the two commonest mistakes."""
    if reason.startswith("Type mismatch") and "tuple" in reason:
        return '; a list is written "[a, b]", with one element too'
    unknown = next((key for key in keys if reason == f"Non-existent key: {key}"), "")
    known = get_close_matches(unknown, list(flatten(cfg, "")), n=1) if unknown else []
    return f"; did you mean {known[0]}?" if known else ""
