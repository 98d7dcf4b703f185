"""Which values config keys may have: their names and defaults say it, before anything runs."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from detectron2.config import CfgNode

from wsis.errors import UsageError, known_words

# Patterns of full names. A number whose default is not negative must be 0 or more, except here,
_SIGNED = "*PEAK_THRESHOLD *CLASS_THRESHOLD *MIN_SCORE *SCORE_THRESH_TEST *PIXEL_MEAN *FREEZE_AT "
_SIGNED += "*AREA_COST *BOUNDARY_THRESH TEST.DETECTIONS_PER_IMAGE TEST.EVAL_PERIOD VIS_PERIOD"
# and a list that has elements by default must have some, except here,
_MAY_BE_EMPTY = "SOLVER.STEPS *.PROTOCOLS *.CAM_THRESHOLDS"
# and here as many as by default; here, where it has none by default, none or this number.
_FIXED_LENGTH = "*_RANGE *SIZE_LIMITS *.STRETCH *.REGION_STRETCH INPUT.SIDE_RULE INPUT.CROP.SIZE "
_FIXED_LENGTH += "MODEL.PIXEL_* MODEL.WSIS_RESNETS.* MODEL.I*.IN_FEATURES"
_LENGTHS = {
    "MODEL.BOXCASEG.SALIENT_PIXEL_*": 3,
    "MODEL.BOXCASEG.PROXY.IGNORE_BETWEEN": 2,
    "MODEL.IRNET.MEAN_DISPLACEMENT": 2,
}
_RISING = "*_RANGE *SIZE_LIMITS MODEL.BOX*.STRETCH *.REGION_STRETCH *.IGNORE_BETWEEN"
# Numbers, also those in lists: patterns, what must hold, in words.
_NUMBERS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "SOLVER.IMS_PER_BATCH SOLVER.CHECKPOINT_PERIOD INPUT.LONGER_SIDE_RANGE "
        "INPUT.LONGER_SIDES_* INPUT.MIN_SIZE_TRAIN INPUT.MAX_SIZE_* TEST.AUG.M* *CHANNELS "
        "*CONV_DIM *CONVS_DIM *FC_DIM *HEAD_DIM *_WIDTH *WIDTH_PER_GROUP *.BLOCKS *.FIRST_BLOCKS "
        "*.FIRST_PLANES *.MODULES *POOLER_RESOLUTION *BATCH_SIZE_PER_IMAGE MODEL.BOXCASEG.*_SIDE "
        "*.MAX_CROPS *.CIM.CROP_SIZE *.NUM_CLASSES *.NUM_BRANCHES *NUM_GROUPS *.DEPTH *DILATION* "
        "*.STRIDES *.SUB_PIXEL_FACTOR *.NUM_CANDIDATES *.KERNEL_SIZE *.SIZE_DIVISOR *_RADIUS "
        "*_SUPERPIXEL *SUPERPIXELS *.ACCUMULATE *.NEIGHBOUR_DISTANCE *.PROMPTS_AT_ONCE "
        "MODEL.RANDOM_WALKER.LONGER_SIDE",
        lambda number: number >= 1,
        "1 or more",
    ),
    (
        "INPUT.SCALES INPUT.RESCALE_RANGE INPUT.CROP.SIZE *PIXEL_STD *_SXY *_SRGB "
        "*BBOX_REG_WEIGHTS MODEL.BOX*.STRETCH *.REGION_STRETCH *.ANCHOR_GENERATOR.SIZES "
        "*.ASPECT_RATIOS *.CLIP_VALUE MODEL.BOXCASEG.POINTS.*",
        lambda number: number > 0,
        "above 0",
    ),
    (
        "*NMS_THRESH_TEST *RPN.NMS_THRESH *IOU_THRESHOLD* *.IOUS *POSITIVE_FRACTION *_SHARE *_IOU "
        "*PROBABILITY *.DETECTION.MIN_SCORE *SCORE_THRESH_TEST *MIN_CONFIDENCE *NORM_MOMENTUM "
        "SOLVER.MOMENTUM *.NMS *.CONTAINMENT "
        "MODEL.CIM.MINING.INTEGRITY *.TOO_BIG *.MEAN_THRESHOLD *.LABEL.*GROUND_THRESHOLD "
        "*_BACKGROUND *.SCORE_THRESHOLD *.MASK_THRESHOLD *.DISCARD_THRESHOLD *.RESPONSE_THRESHOLD "
        "*.CAM_THRESHOLDS *.NEIGHBOURS *.OVERLAP WSIS.PROPOSALS.NMS_THRESHOLD MODEL.*.MIN_AREA "
        "*SIZE_LIMITS *.AREA_RANGE *.IGNORE_BETWEEN MODEL.CAM_INSTANCES.THRESHOLD",
        lambda number: number <= 1,
        "at most 1",
    ),
    ("MODEL.BOXCASEG.THRESHOLD", lambda number: number <= 255, "at most 255"),
    ("*.KERNEL_SIZE *.WINDOW", lambda number: number % 2 == 1, "odd"),
    (
        "MODEL.BOXCASEG.INFERENCE_SIDES",
        lambda number: type(number) is int and number >= 1,
        "whole numbers of 1 or more",
    ),
)
_CHOICES = {
    "INPUT.FORMAT": ("BGR", "RGB"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
    "MODEL.PROMPTED_MASKS.PROMPTS": ("boxes", "points", "peaks"),
    "WSIS.ON_ERROR": ("raise", "skip"),
    "WSIS.SOLVER.OPTIMIZER": ("SGD", "Adam"),
    "WSIS.EVALUATION.PROTOCOLS": ("voc", "coco", "coco_bbox"),
    "WSIS.PROPOSALS.FORMAT": ("generate", "auto", "npz", "mat", "prm", "rle"),
}
NO_LITERAL = (ValueError, SyntaxError, RecursionError, MemoryError)  # of Python, in a value
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(\w+)'> .*? with values \((.*) vs. (.*)\) for .*: (.*)", re.DOTALL
)
_TYPES = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "text"}
_A_LIST = '; a list is written "[a, b]", with one element too'


def _as_known(value: Any, known: str | float) -> Any:
    """A number as yacs needs it: quoted where the config has text, a float where it has such."""
    number = value
    if isinstance(value, str):
        with suppress(*NO_LITERAL):
            number = ast.literal_eval(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        with suppress(OverflowError):
            return float(number) if isinstance(known, float) else repr(str(value))
    return value


def fitted(values: Mapping[str, Any], cfg: Any, source: str, prefix: str = "") -> dict[str, Any]:
    """Values as yacs needs them, see `_as_known`: a peak filter may be 0.5, a rate 1.

    Raises:
        UsageError: a value where keys belong, or keys where a value belongs.
    """
    made = {}
    for key, value in values.items():
        known, name = cfg.get(key) if isinstance(cfg, CfgNode) else None, f"{prefix}{key}"
        if known is not None and isinstance(known, CfgNode) != isinstance(value, dict):
            wanted = "one value"
            if isinstance(known, CfgNode):
                wanted = f"keys of its own, as {name}.{next(iter(known), 'KEY')}"
            raise UsageError(f"{source}: {name} is {value!r}; it takes {wanted}")
        if isinstance(value, str) and "\0" in value:
            raise UsageError(f"{source}: {name} has a null character, which no path or word has")
        if isinstance(value, dict):
            value = fitted(value, known, source, f"{name}.")
        elif isinstance(known, str | float):
            value = _as_known(value, known)
        made[key] = value
    return made


def in_words(reason: str) -> str:
    """Why yacs refuses a value: a type that does not fit in plain words, all else as it is."""
    if not (found := _MISMATCH.match(reason)):
        return reason
    kind, known, value, key = found.groups()
    wanted = f"{_TYPES.get(kind, 'a list')}, as {known}{'' if kind in _TYPES else _A_LIST}"
    return f"Type mismatch: {key} is {value!r}; it takes {wanted}"


def check_values(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse values that no stage can run with.

    Args:
        values: of a config, by full name.
        defaults: those of the keys that are checked; keys of a user's own are not.

    Raises:
        UsageError: naming the first key, its value and what it must be.
    """
    for key in values.keys() & defaults.keys():
        value, default = values[key], defaults[key]
        if value is None or value == default:
            continue
        wanted = _wrong_list(key, value, default) or _wrong_number(key, value, default)
        if not wanted and key in _CHOICES:
            known = _CHOICES[key]
            unknown = [word for word in _leaves(value) if word not in known]
            wanted = f"one of {known_words(unknown[0], known)}" if unknown else ""
        if key == "OUTPUT_DIR" and not value.strip():  # else the present folder
            wanted = "the path of a folder"
        if wanted:
            raise UsageError(f"{key} is {value!r}; it must be {wanted}")


def _wrong_list(key: str, value: Any, default: Any) -> str:
    """What a list must be, or "" if it is that, or none."""
    if not isinstance(value, list | tuple):
        return ""
    pattern = next((pattern for pattern in _LENGTHS if _is(key, pattern)), None)
    length = len(default) if _is(key, _FIXED_LENGTH) else _LENGTHS[pattern] if pattern else None
    if default and not value and not _is(key, _MAY_BE_EMPTY):
        return "a list with at least one element"
    if default or pattern:
        words = isinstance(next(_leaves(default), 0), str)
        nested = words or any(isinstance(element, list | tuple) for element in default)
        found = _leaves(value) if nested else value
        if not all(isinstance(leaf, str if words else int | float) for leaf in found):
            return f"a list of {'words' if words else 'numbers'}"
    if length is not None and len(value) not in ({length} if default else {0, length}):
        return f"a list of {length}{'' if default else ', or empty'}"
    if _is(key, _RISING) and list(value) != sorted(value):
        return "two numbers, the smaller one first"
    return ""


def _wrong_number(key: str, value: Any, default: Any) -> str:
    """What all numbers of a value must be, or "" if they are that."""
    numbers = [leaf for leaf in _leaves(value) if isinstance(leaf, int | float)]
    if not all(map(math.isfinite, numbers)) and key != "SOLVER.CLIP_GRADIENTS.NORM_TYPE":
        return "finite"
    known = [leaf for leaf in _leaves(default) if isinstance(leaf, int | float)]
    signed = not known or min(known) < 0 or _is(key, _SIGNED)
    for _, holds, words in (rule for rule in _NUMBERS if _is(key, rule[0])):
        if not all(map(holds, numbers)):
            return words
    return "0 or more" if numbers and min(numbers) < 0 and not signed else ""


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for element in value:
            yield from _leaves(element)
    else:
        yield value


@cache
def _is(key: str, patterns: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns.split())
