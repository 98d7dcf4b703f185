"""Config files: YAML with ``_BASE_`` and inline stages; the command line counts as the last one."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

import wsis
from wsis.config import flatten, stock_values
from wsis.config_values import NO_LITERAL, fitted, in_words
from wsis.data.checks import short
from wsis.data.user import ROLES
from wsis.engine.model_zoo import ZOO, read_zoo_config
from wsis.errors import UsageError, did_you_mean, known_words, near_file
from wsis.reading import parse_yaml, read_yaml
from wsis.ready import ADDRESS, ready_file

COMMAND_LINE = "command line"
_TOP = _BASE, _STAGES, _DATA = "_BASE_", "STAGES", "DATA"
_YAML = (".yaml", ".yml")
# Keys that name data sets. A pipeline names data by role and may not set these.
_NAMES_OF_DATA = ("DATASETS.", "WSIS.DATASETS.", "WSIS.CLASSES.", "WSIS.EVALUATION.IMAGES.")
_ROOT = Path(wsis.__file__).resolve().parents[3]  # of the checkout, where configs/ lies

Lines = tuple[str, Mapping[str, Any]]  # the file (or place) they come from, and the values


@dataclass(frozen=True)
class Part:
    """What one file says about one stage, or about all stages.

    Attributes:
        lines: those of the files that its ``_BASE_`` names, then its own.
        data: what it says about data, by role ("TRAIN").
        anew: its ``_BASE_`` names files, so what earlier files say about the stage does not count.
        starts_from: the stage of the same pipeline that its ``_BASE_`` names, or "".
    """

    lines: tuple[Lines, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    anew: bool = False
    starts_from: str = ""


@dataclass(frozen=True)
class ConfigFile:
    """One file of a pipeline: those of its ``_BASE_`` come before it.

    Attributes:
        source: its path, or "command line".
        parts: what it says, by stage; "" for all stages.
    """

    source: str
    parts: Mapping[str, Part]


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise UsageError(f"no config file {path}{_near(_places(path))}") from None
    except OSError as error:
        raise UsageError(f"config file {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a set of KEY: value lines")
    _check_keys(values, path)
    return values


def _check_keys(values: Mapping[Any, Any], path: Path) -> None:
    for key, value in values.items():
        if not isinstance(key, str):
            raise UsageError(f"{path}: {key!r} is no key; keys are words")
        if "." in key and key.isupper():
            nested = f"{key.replace('.', ': {')}: ...{'}' * key.count('.')}"
            raise UsageError(f"{path}: {key} is for command lines; in a file write {nested}")
        if isinstance(value, dict):
            _check_keys(value, path)


def _as_list(value: Any, where: str) -> list[str]:
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"{where}: _BASE_ is {value!r}; it is the path of a file, or a list of such"
        )
    return names


def find_base(name: str, beside: Path) -> Path:
    """The file that a ``_BASE_`` names.

    A relative path is looked for beside the file itself, then in the present folder, then in WSIS
    and its folder ``configs``; ``wsis://NAME`` is the config of a network that comes with WSIS.

    Raises:
        UsageError: there is none.
    """
    if name.startswith(ADDRESS):
        return ready_file(name, ".yaml")
    if "://" in name and not name.startswith(ZOO):
        raise UsageError(f"{beside}: _BASE_ names the address {name}; download it, name the file")
    path = Path(name).expanduser()
    places = [beside.parent / path, *_places(path)]
    if found := next(filter(Path.is_file, places), None):
        return found
    looked = ", ".join(dict.fromkeys(str(place.parent) for place in places[:2]))
    raise UsageError(
        f"{beside}: _BASE_ names {name}, which is no file in {looked} or configs/{_near(places)}"
    )


def _places(path: Path) -> list[Path]:
    """Where a file may lie: here, or among those that come with WSIS."""
    return [path, _ROOT / path, _ROOT / "configs" / path]


def _near(places: Sequence[Path]) -> str:
    return next(filter(None, (near_file(place, _YAML) for place in places)), "")


def _is_file(name: str) -> bool:
    return name.startswith((ZOO, ADDRESS)) or name.endswith(_YAML)


def _with_bases(path: Path, *, zoo: bool, read: dict[Path, bool]) -> list[Lines]:
    """The lines of the files that a file's ``_BASE_`` names, then its own.

    Args:
        path: of the file.
        zoo: whether a ``_BASE_`` may name a config of Detectron2's model zoo.
        read: files read before, each of which counts once; False for those that build on it.
    """
    key = Path(os.path.realpath(path))  # pathlib's own fails on a link to itself
    found: list[Lines] = []
    if key in read:
        if not read[key]:
            raise UsageError(f"{path} builds on itself (_BASE_)")
        return []
    read[key] = False
    values = _load_yaml(path)
    for base in _as_list(values.pop(_BASE, None), str(path)):
        found += _base(base, path, zoo=zoo, read=read)
    read[key] = True
    return [*found, (str(path), values)]


def _base(name: str, beside: Path, *, zoo: bool, read: dict[Path, bool]) -> list[Lines]:
    """The lines of one entry of ``_BASE_``, see `_with_bases`."""
    if zoo and name.startswith(ZOO):
        return [(name, read_zoo_config(name))]
    return _with_bases(find_base(name, beside), zoo=zoo, read=read)


def _stage_part(name: str, values: Any, source: str) -> Part:
    where = f"{source}: stage {name}"
    if values is None:
        return Part()
    values = dict(values)
    base, data = values.pop(_BASE, None), _check_data(values.pop(_DATA, None) or {}, where)
    return _part_on(base, (where, values), data, Path(source))


def _part_on(base: Any, said: Lines, data: Mapping[str, Any], beside: Path) -> Part:
    """What a file (``beside``) or the command line says about a stage, with its ``_BASE_``."""
    where = said[0]
    bases = _as_list(base, where)
    stages = [base for base in bases if not _is_file(base)]
    if len(stages) > 1:
        raise UsageError(f"{where}: _BASE_ names {len(stages)} stages; a stage starts from one")
    read: dict[Path, bool] = {}
    files = [base for base in bases if _is_file(base)]
    lines = [one for base in files for one in _base(base, beside, zoo=True, read=read)]
    for source, values in lines:
        for key in {_STAGES, _DATA} & values.keys():
            raise UsageError(
                f"{source} is a pipeline (it has {key}); a stage starts from a network's config"
            )
    own = (*lines, said)
    return Part(own, data, anew=len(lines) > 0, starts_from=stages[0] if stages else "")


def _check_data(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UsageError(f"{where}: DATA is {data!r}; it has the roles {', '.join(ROLES)}")
    for key in data:
        if key not in ROLES:
            known = known_words(key, ROLES)
            raise UsageError(f"{where}: DATA has no role {key!r}; roles are {known}")
    return data


def _check_stages(stages: Any, where: str) -> dict[str, Any]:
    if not isinstance(stages, dict):
        raise UsageError(f"{where}: STAGES is not a set of stage names with their lines")
    for name, own in stages.items():
        if not (own is None or isinstance(own, dict)):
            raise UsageError(f"{where}: stage {name} is {own!r}, not a set of KEY: value lines")
    return {str(name): own for name, own in stages.items()}


def read_config_files(path: Path) -> list[ConfigFile]:
    """A pipeline's files, those that it builds on first; each counts once.

    Raises:
        UsageError: a file is missing, unreadable or builds on itself.
    """
    path = next(filter(Path.is_file, _places(path)), path)
    found: list[ConfigFile] = []
    for source, said in _with_bases(path, zoo=False, read={}):
        values = dict(said)
        stages = _check_stages(values.pop(_STAGES, None) or {}, source)
        data = _check_data(values.pop(_DATA, None) or {}, source)
        parts = {name: _stage_part(name, own, source) for name, own in stages.items()}
        parts = {"": Part(((source, values),), data), **parts}
        found.append(ConfigFile(source, parts))
    return found


def stage_names(files: Sequence[ConfigFile]) -> list[str]:
    """The stages in order.

    A file that only names stages of the files before it adds lines to these. A file that also names
    another stage replaces the list: it must name all stages, in order.
    """
    names: list[str] = []
    for file in files:
        own = [name for name in file.parts if name]
        if names and own and not set(names) & set(own):
            raise UsageError(
                f"{file.source}: STAGES names {', '.join(own)}, but the pipeline that it builds on "
                f"has {known_words(own[0], names)}"
            )
        if set(own) - set(names):
            names = own
    return names


def base_stage(files: Sequence[ConfigFile], name: str) -> str:
    """The stage that the ``_BASE_`` of stage ``name`` names, or ""."""
    told = [file.parts[name] for file in files if name in file.parts]
    return next((own.starts_from for own in reversed(told) if own.starts_from or own.anew), "")


def lines_of_stage(files: Sequence[ConfigFile], chain: Sequence[str]) -> list[Lines]:
    """The lines that make a stage's config; later ones override earlier ones.

    From each file come first its lines for all stages, then those for the stages of ``chain``: the
    stages from whose configs this one starts, and this one last. Weights that its own lines name
    count in place of those of an earlier stage (WSIS.INIT_FROM), unless they name these later.
    """
    found: list[tuple[str, Lines]] = []
    for file in files:
        for name in ("", *chain):
            own = file.parts.get(name, Part())
            if own.anew:
                found = [entry for entry in found if entry[0] != name]
            found += [(name, lines) for lines in own.lines]
    said = [flatten(values, "") for name, (_, values) in found if name == chain[-1]]
    starts = [own for own in said if own.get("MODEL.WEIGHTS") or "WSIS.INIT_FROM" in own]
    if starts and "WSIS.INIT_FROM" not in starts[-1]:
        found.append(("", ("MODEL.WEIGHTS", {"WSIS": {"INIT_FROM": ""}})))
    return [lines for _, lines in found if lines[1]]


def merge_lines(cfg: CfgNode, lines: Lines) -> None:
    """Merge lines of a file or of the command line into a config, in place.

    Raises:
        UsageError: an unknown key or a value of another type, with the file's name.
    """
    source, values = lines
    for key in () if source.startswith(ZOO) else flatten(values, ""):
        if f"{key}.".startswith(_NAMES_OF_DATA):
            raise UsageError(
                f"{source}: {key} is filled in from DATA; name data sets there by their role: "
                "DATA.TRAIN, DATA.VAL, DATA.SALIENT (datasets/README.md)"
            )
    try:
        cfg.merge_from_other_cfg(CfgNode(fitted(values, cfg, source)))
    except (KeyError, TypeError, AssertionError, *NO_LITERAL) as error:
        reason = str(error.args[0] if error.args else type(error).__name__)
        # yacs names the first node that does not exist: SLOVER of SLOVER.MAX_ITER.
        known = (accumulate(key.split("."), "{}.{}".format) for key in flatten(cfg, ""))
        unknown = reason.partition("Non-existent config key: ")[2]
        hint = did_you_mean(unknown, [*_TOP, *chain.from_iterable(known)])
        if unknown.islower():
            hint = "; the lines of a stage stand below STAGES"
        raise UsageError(f"{source}: {in_words(reason)}{hint}") from None


def read_overrides(words: Sequence[str], names: Sequence[str]) -> ConfigFile:
    """What a command line says, as the last file of a pipeline.

    Args:
        words: pairs ``KEY VALUE``, ``stage.KEY VALUE``, ``stage._BASE_ FILE``, ``DATA.ROLE VALUE``
            and ``STAGES "{stage: , ...}"``, which counts as in a file. Lists and dicts are written
            as in Python or YAML; text in them needs no quotes.
        names: stages of the pipeline's files.

    Raises:
        UsageError: no pairs, or a key that is neither.
    """
    for key in words[::2]:
        if "=" in key:
            raise UsageError(f"overrides come with a space: {short(key.replace('=', ' ', 1))}")
    if len(words) % 2:
        raise UsageError(f"overrides come as KEY VALUE pairs; '{words[-1]}' has no value")
    pairs = [*zip(words[::2], words[1::2], strict=True)]
    said: dict[str, dict[str, Any]] = {name: {} for name in ("", *names)}
    if stated := dict(pairs).get(_STAGES):
        stages = _check_stages(_read_value(stated), COMMAND_LINE)
        said = {"": {}, **{name: dict(own or {}) for name, own in stages.items()}}
        if not set(stages) - set(names):  # none is new: lines for some
            said = {name: {} for name in ("", *names)} | said
        names = [name for name in said if name]
    for key, text in pairs:
        if key == _STAGES:
            continue
        first, _, rest = key.partition(".")
        owner, rest = (first, rest) if first in names else ("", key)
        if not owner and not first.isupper():
            raise UsageError(
                f"'{key}' is neither a config key nor <stage>.KEY; stages: {', '.join(names)}"
                + did_you_mean(
                    first, [*names, *_TOP, *{k.partition(".")[0] for k in stock_values()}]
                )
            )
        node, (*parents, leaf) = said[owner], rest.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = _read_value(text)
    parts = {}
    for name, own in said.items():
        for key in ("WSIS.IMPORTS", "WSIS.STAGE"):
            if key in flatten(own, ""):
                raise UsageError(f"{COMMAND_LINE}: {key} is read from config files only")
        data = _check_data(own.pop(_DATA, {}), COMMAND_LINE)
        data = {role: value or None for role, value in data.items()}
        base = own.pop(_BASE, None) if name else None
        parts[name] = _part_on(base, (COMMAND_LINE, own), data, Path(COMMAND_LINE))
    return ConfigFile(COMMAND_LINE, parts)


def _read_value(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text
    with suppress(*NO_LITERAL):
        return ast.literal_eval(text)
    try:
        return parse_yaml(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            return text  # a path may begin so
        raise UsageError(f"{COMMAND_LINE}: {short(text)} is not readable YAML: {error}") from None
