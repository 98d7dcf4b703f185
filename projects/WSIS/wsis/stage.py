"""What a stage is: a record that a method declares and the engine runs. No behaviour here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, ClassVar

from wsis.errors import UsageError, known_words

_STAGES: dict[str, Stage] = {}
# Names of mappers that size images as Detectron2 does (`wsis.data.instance_mapper`).
INSTANCE_MAPPERS = {"InstanceMapper"}


@dataclass(frozen=True)
class Later:
    """A function, ``package.module:name``, that is imported when it is called.

    So a list of stages needs nothing of what these compute with.
    """

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return resolve_name(self.name)(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        name: unique name; ``--stage`` takes it and the run folder is ``<n>_<name>``.
        title: one line for ``--list-stages`` and progress bars.
        consumes: names of the products it reads, made by earlier stages.
        produces: name of its product, the stage's own if not given; a stage that consumes that name
            reads this stage's folder.
        config_keys: config nodes, beyond its kind's own, on which the product depends
            (``"MODEL.IRNET"``); a change in one of them makes the stage stale.
        file_keys: config keys that name a file or a folder outside the data set; other names or
            sizes of files there make the stage stale.
        evaluation: makes what compares the product with ground truth, or, for a training stage,
            what its network finds: see `wsis.evaluation.evaluator`; None if nothing is compared.
        evaluation_keys: config nodes on which the figures depend, but not the product.
        refines: protocols that measure masks, and for each the one that measures what this stage
            makes of such masks: where that beats their baseline, they need not.
        advice: what to do if its masks do not beat their baseline; ends a sentence.
        tally: ``(artifact, dataset dict) -> {what: number}`` of an image; the manifest has the sums
            over all images beside their number; None if there is nothing to count.
        remarks: by what of the counts, a sentence with ``{what}`` for where it is not 0; the first
            images where it is so follow.
        supervision: the strongest that it looks at: image, point, box or mask.
        images: roles of the data (train, val, salient, evaluation) whose images it treats; except
            in training stages, the config's WSIS.IMAGES may name others.
        config: values of config keys that make the network this stage's own, by full name.
    """

    kind: ClassVar[str] = ""
    name: str
    title: str
    produces: str = ""
    consumes: tuple[str, ...] = ()
    config_keys: tuple[str, ...] = ()
    file_keys: tuple[str, ...] = ()
    evaluation: Callable[..., Any] | None = None
    evaluation_keys: tuple[str, ...] = ()
    refines: Mapping[str, str] = field(default_factory=dict)
    advice: str = ""
    tally: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, int]] | None = None
    remarks: Mapping[str, str] = field(default_factory=dict)
    supervision: str = "image"
    images: tuple[str, ...] = ("train",)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "produces", self.produces or self.name)


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """Trains ``MODEL.META_ARCHITECTURE`` and produces ``model_final.pth``.

    Attributes:
        mapper: name in ``wsis.data.mappers.MAPPER_REGISTRY`` of the training mapper.
        samples: ``(dataset dicts, cfg) -> (samples, order)``: the training samples where they are
            not whole images, and the order of an epoch (`wsis.data.stream.EpochOrder`) or None.
        class_agnostic: it does not look at classes, so its data sets may have different ones.
    """

    kind: ClassVar[str] = "train"
    mapper: str
    samples: Callable[..., tuple[Any, Any]] | None = None
    class_agnostic: bool = False


@dataclass(frozen=True, kw_only=True)
class InferStage(Stage):
    """Runs a trained network over images and writes one artifact per image.

    The first product that it consumes is a training stage's, whose weights it loads, unless its
    network brings them.

    Attributes:
        mapper: name in ``wsis.data.mappers.MAPPER_REGISTRY``.
        to_artifact: ``(output of the model for one image) -> {name: array}``, what is kept of it.
        model_key: the config key that names a network with its weights (`data.model_folders`), in
            place of a training stage's.
        measured: ``{product name: ProductReader} -> {config key: value}``, what an earlier stage
            measured and the network needs.
        reduce: ``(iterator over (image key, artifact) in data set order, cfg) -> {name: array}``,
            stored beside the artifacts as the product's summary.
    """

    kind: ClassVar[str] = "infer"
    mapper: str
    to_artifact: Callable[[dict[str, Any]], dict[str, Any]]
    model_key: str = ""
    measured: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    reduce: Callable[..., dict[str, Any]] | None = None

    @property
    def weights_from(self) -> str:
        """The product whose weights it loads, "" if its network brings them."""
        return "" if self.model_key else self.consumes[0]


@dataclass(frozen=True, kw_only=True)
class DeriveStage(Stage):
    """A pure function over files: no network, one artifact per image.

    Attributes:
        function: called as ``function(dataset_dict, artifacts, cfg)`` with the consumed artifacts
            of one image, ``{product name: {array name: array}}``; returns ``{name: array}``.
        on_device: it computes on MODEL.DEVICE. Then, unless that is the CPU, it runs in the main
            process, since a data-loading process has no GPU.
    """

    kind: ClassVar[str] = "derive"
    function: Callable[[dict[str, Any], dict[str, Any], Any], dict[str, Any]]
    on_device: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportStage(Stage):
    """Writes one file from all artifacts of a product.

    Attributes:
        file_name: the file in the stage's folder.
        function: called as ``function(dataset_dicts, {product: ProductReader}, cfg)`` in every
            process of the run; gives what makes the file, see `wsis.data.pseudo_labels`.
    """

    kind: ClassVar[str] = "export"
    file_name: str
    function: Callable[..., Any]


def register_stages(*stages: Stage) -> None:
    """Add stages under their names, which must be new."""
    for stage in stages:
        if stage.name in _STAGES:
            raise AssertionError(f"two stages are called {stage.name!r}")
        _STAGES[stage.name] = stage


def keys_below(node: str, names: str) -> tuple[str, ...]:
    """Config keys of one node: ``keys_below("MODEL.PRM", "MASKS SCORE")``."""
    return tuple(f"{node}.{name}" for name in names.split())


def get_stage(name: str) -> Stage:
    """The stage registered under ``name``; an unknown name lists the known ones.

    Raises:
        UsageError: no such stage.
    """
    try:
        return _STAGES[name]
    except KeyError:
        raise UsageError(
            f"there is no stage {name!r}; registered are: {known_words(name, sorted(_STAGES))}"
        ) from None
