"""Makes one code base run on pure-Python detectron2 0.5 and on official detectron2 0.6 or later.

After ``import wsis``, `apply` is called as soon as detectron2 is imported, before any of its
modules; until then nothing heavy is loaded. Every detectron2 gets ``pkg_resources`` where
setuptools has dropped it (82 and later). A compiled detectron2 is otherwise left as it is, so that
no fault of a proper build is hidden. Nothing else in WSIS patches anything.
"""

import importlib
import importlib.resources
import importlib.util
import sys
import types
import warnings
from importlib.machinery import PathFinder
from importlib.util import spec_from_loader
from typing import Any


class MissingOps(types.ModuleType):
    """Stands in for ``detectron2._C``: an op may be named, and raises only when it is called."""

    # What detectron2's environment report asks for.
    get_compiler_version = get_cuda_version = staticmethod(lambda: "not built")
    has_cuda = staticmethod(lambda: False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise NotImplementedError(
                f"detectron2._C.{name} is a compiled op and the installed detectron2 has none: "
                "build detectron2 from its source to use it"
            )

        return missing


def _stand_in(name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    return module


def _restore_pkg_resources() -> None:
    """The one function of ``pkg_resources`` that detectron2's model zoo calls."""
    if importlib.util.find_spec("pkg_resources") is None:
        _stand_in(
            "pkg_resources",
            resource_filename=lambda package, path: str(
                importlib.resources.files(package).joinpath(path)
            ),
        )


def _restore_old_names() -> None:
    """Names that detectron2 0.5 uses and its dependencies have since dropped."""
    import numpy as np
    from PIL import Image
    from torch.optim import lr_scheduler

    for kind in (bool, int, float, str):
        if kind.__name__ not in vars(np):
            setattr(np, kind.__name__, kind)
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR
    # detectron2's scheduler hook asks isinstance(..., _LRScheduler) before it saves a scheduler's
    # state; PyTorch 2's own schedulers derive from LRScheduler only and would be left out silently.
    lr_scheduler._LRScheduler = lr_scheduler.LRScheduler


_OWN_WARNINGS = (  # of detectron2 0.5's own code, which its users cannot change
    r".*torch\.jit\.script.* is deprecated|torch\.meshgrid: in an upcoming release|"
    r"The given NumPy array is not writable|TypedStorage is deprecated"
)


def apply() -> bool:
    """Put the stand-ins in place where they are needed; may be called any number of times.

    Returns:
        whether the installed detectron2 lacks its compiled ops.
    """
    try:
        detectron2 = importlib.import_module("detectron2")
    except ModuleNotFoundError:  # layers work without it; other code gets Python's error
        return False
    if "pkg_resources" not in sys.modules:
        _restore_pkg_resources()
    if "detectron2._C" in sys.modules:
        return isinstance(sys.modules["detectron2._C"], MissingOps)
    if importlib.util.find_spec("detectron2._C") is not None:  # a broken build speaks for itself
        return False
    from pycocotools.cocoeval import COCOeval

    _restore_old_names()
    warnings.filterwarnings("ignore", message=_OWN_WARNINGS)
    sys.modules["detectron2._C"] = detectron2._C = MissingOps("detectron2._C")
    # COCOEvaluator's default is the compiled evaluator; pycocotools gives the same figures.
    _stand_in("detectron2.evaluation.fast_eval_api", COCOeval_opt=COCOeval)
    return True


class _Early:
    """Loads a module that `import_early` has run already, when its package asks for it."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module

    def create_module(self, spec: Any) -> types.ModuleType:
        """The module itself, so that there are never two of its classes."""
        return self.module

    def exec_module(self, module: types.ModuleType) -> None:
        """It has run."""


_EARLY: dict[str, _Early] = {}


def import_early(name: str) -> Any:
    """A module of detectron2 without its package, which imports much more, torchvision above all.

    Whoever imports it in the usual way later gets the package, and in it this same module.
    """
    if name not in sys.modules and name not in _EARLY:
        package = importlib.util.find_spec(name.rpartition(".")[0])
        spec = PathFinder.find_spec(name, package and package.submodule_search_locations)
        assert spec is not None
        assert spec.loader is not None
        _EARLY[name] = _Early(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(_EARLY[name].module)
    return sys.modules.get(name) or _EARLY[name].module


class _FirstImport:
    """A finder of `_EARLY` modules; the first one sought inside detectron2 makes it `apply`."""

    def __init__(self) -> None:
        self.waiting = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Called for every module that is about to be imported."""
        if self.waiting and name.startswith("detectron2."):
            self.waiting = False
            try:
                apply()
            except BaseException:  # such as a package that is missing: the next import tries again
                self.waiting = True
                raise
        return spec_from_loader(name, _EARLY[name]) if name in _EARLY else None


def apply_on_import() -> None:
    """Call `apply` as soon as detectron2 is imported, or now if it already is."""
    if "detectron2" in sys.modules:
        apply()
    elif not any(isinstance(finder, _FirstImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FirstImport())


def create_local_process_group(processes_per_machine: int) -> None:
    """Tell ``detectron2.utils.comm`` which processes share a machine (0.5 has no function for it).

    Args:
        processes_per_machine: the same on every machine.
    """
    import torch.distributed as dist
    from detectron2.utils import comm

    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_per_machine)
        return
    for first in range(0, dist.get_world_size(), processes_per_machine):
        ranks = list(range(first, first + processes_per_machine))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def forget_process_groups() -> None:
    """Drop the groups that ``detectron2.utils.comm`` remembers, before they are destroyed.

    A gloo group that lives until the interpreter ends may abort it ("terminate called").
    """
    from detectron2.utils import comm

    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
