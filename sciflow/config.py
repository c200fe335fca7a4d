"""The constructor is the schema: run files are checked against, and built from, the signatures of the public classes.

A field typed by a protocol takes any entry of that protocol's table (`{kind: heun}`); a field typed by a dataclass
takes a mapping of its fields; a field that YAML cannot express (a tensor, a model, an observation) is left open, and
the built value is a `functools.partial` that waits for it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union  # a union over a table is made at run time

import pydantic
import torch
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

from sciflow.consistency import inconsistencies
from sciflow.diffusion import FORECASTERS, LOSSES, SCHEDULES, TIMES
from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.forecast import Forecaster
from sciflow.diffusion.loss import Loss
from sciflow.diffusion.schedule import Schedule
from sciflow.diffusion.times import Times
from sciflow.domains import DATASETS, DOMAINS
from sciflow.domains.molecules.potential import Potential
from sciflow.domains.molecules.potentials import POTENTIALS
from sciflow.domains.molecules.systems import MOLECULES, MolecularSystem
from sciflow.domains.pde.equations import EQUATIONS, PeriodicEquation
from sciflow.domains.protocol import Dataset, question
from sciflow.errors import InputError
from sciflow.inverse import GUIDANCE, LIKELIHOODS, MEASUREMENTS, NOISES, OPERATORS, POSTERIORS
from sciflow.inverse.guidance import Guidance
from sciflow.inverse.likelihood import Likelihood, LikelihoodModel, NoiseModel
from sciflow.inverse.operator import LinearOperator, Operator
from sciflow.inverse.posterior import Posterior
from sciflow.mistakes import messages
from sciflow.networks import NETWORKS
from sciflow.networks.mlp import Network
from sciflow.particles import KERNELS
from sciflow.particles.kernels import Kernel
from sciflow.particles.ranks import Ranks
from sciflow.resources import Resources
from sciflow.search import SEARCHES
from sciflow.search.reference import Search
from sciflow.solvers import LANGEVIN_SOLVERS, SOLVERS
from sciflow.solvers.kinetic import LangevinSolver
from sciflow.solvers.solve import Solver
from sciflow.stages import TRAININGS
from sciflow.stages.evaluate import EvaluateSection
from sciflow.stages.learned import Training
from sciflow.stages.report import ReportSection
from sciflow.stages.sample import SampleSection

SLOTS: dict[type, MutableMapping[str, type]] = {
    Solver: SOLVERS,
    LangevinSolver: LANGEVIN_SOLVERS,
    Schedule: SCHEDULES,
    Times: TIMES,
    Search: SEARCHES,
    Loss: LOSSES,
    Forecaster: FORECASTERS,
    Network: NETWORKS,
    LinearOperator: OPERATORS,
    Operator: MEASUREMENTS,
    NoiseModel: NOISES,
    LikelihoodModel: LIKELIHOODS,
    Guidance: GUIDANCE,
    Kernel: KERNELS,
    Posterior: POSTERIORS,
    Dataset: DATASETS,
    PeriodicEquation: EQUATIONS,
    Potential: POTENTIALS,
    MolecularSystem: MOLECULES,
    Training: TRAININGS,
}
OPEN = (torch.Tensor, torch.nn.Module, Denoiser, Likelihood, Ranks, Callable)
STRICT = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclasses.dataclass(frozen=True)
class RunFile:
    """One run: five sections, and what they share.

    Args:
        domain: which plug-in answers the five questions.
        dataset, train, sample, evaluate, report: the section of each stage.
        seed: seed of every random number of the run.
        title: one line for the report.
        question: what was asked, in prose, for the report.
        plugins: Python files that add entries to the public tables.
        resources: what each stage may use.
        sweep: dotted key → list of values.
        smoke: dotted key → value of the smoke size.
        freeze: trust finished artefacts although the source has changed.
    """

    domain: Literal[tuple(DOMAINS)]  # type: ignore[valid-type]
    dataset: Dataset
    train: Training
    sample: SampleSection
    evaluate: EvaluateSection
    report: ReportSection
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    title: str = ""
    question: str = ""
    plugins: tuple[str, ...] = ()
    resources: dict[Literal["dataset", "train", "sample", "evaluate", "report"], Resources] = dataclasses.field(
        default_factory=dict
    )
    sweep: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    smoke: dict[str, Any] = dataclasses.field(default_factory=dict)
    freeze: bool = False


loaded: dict[str, str] = {}
"""Plugins that this process has run: name of the module → digest of its text."""


def load_plugins(files: typing.Iterable[str | Path]) -> None:
    """Run Python files whose top level adds entries to the public tables, once in a process and version.

    Raises:
        InputError: a file is missing, or raises.
    """
    if isinstance(files, str) or not all(isinstance(file, str | Path) for file in _listed(files)):
        raise InputError(f"plugins must be a list of file names, got {files!r}. Write `plugins: [my_plugin.py]`.")
    for file in map(Path, files):
        if not file.is_file():
            raise InputError(f"plugins: there is no file {str(file)!r}. Paths start at the working directory.")
        name = f"sciflow_plugin_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
        text = hashlib.sha256(file.read_bytes()).hexdigest()
        if loaded.get(name) == text:  # one that wraps an entry would wrap its own the next time
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise InputError(f"plugins: {file} is no Python file. Its name must end in .py.")
        sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look up written annotations
        try:
            spec.loader.exec_module(sys.modules[name])
        except (Exception, SystemExit) as error:
            raise InputError(f"plugins: {file} raised {type(error).__name__}: {error}. Mend the plugin.") from error
        loaded[name] = text
    if files:
        model.cache_clear()
        _finished.cache_clear()


def _listed(value: Any) -> list[Any]:
    """A list as it is; anything else as a list of one wrong entry."""
    return list(value) if isinstance(value, list | tuple) else [None]


def _number(value: Any) -> Any:
    """Text and truth values are no numbers, though Python can make numbers of them."""
    if isinstance(value, bool | str):
        raise ValueError("must be a number")
    return value


def _is_open(hint: Any) -> bool:
    """Whether YAML cannot express a value of this type."""
    if hint in OPEN or typing.get_origin(hint) in OPEN or typing.get_origin(hint) is Callable:
        return True
    return any(_is_open(part) for part in typing.get_args(hint) if part is not type(None))


def fields(cls: type) -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """The fields of a public class that a run file may set, with their resolved types."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.init and not _is_open(hints[field.name]):
            yield field.name, hints[field.name], field


def _slot(hint: Any, named: frozenset[str] | None) -> Any:
    """The type that pydantic validates in place of `hint`: protocols become unions over their table."""
    if hint in SLOTS:
        return _union(hint, named)
    if hint in (int, float):
        return Annotated[hint, BeforeValidator(_number)]
    if typing.get_origin(hint) is Annotated and typing.get_args(hint)[0] in (int, float):
        return Annotated[(*typing.get_args(hint), BeforeValidator(_number))]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return model(hint, named=named)
    arguments = typing.get_args(hint)
    if not arguments or typing.get_origin(hint) is Literal:
        return hint
    if typing.get_origin(hint) is Annotated:
        return Annotated[(_slot(arguments[0], named), *arguments[1:])]
    arguments = tuple(_slot(part, named) for part in arguments)
    if isinstance(hint, types.UnionType):
        return Union[arguments]  # noqa: UP007
    return typing.get_origin(hint)[arguments]


_unfinished: set[type] = set()


@functools.cache
def _finished(protocol: type, named: frozenset[str] | None) -> Any:
    """The union over a protocol's table; entries that hold others of the same table refer to it by name.

    Of the named kinds alone, where some are given; of one at least, which refuses what names none of the table.
    """
    _unfinished.add(protocol)
    table = SLOTS[protocol]
    kinds = list(table) if named is None else [kind for kind in table if kind in named] or list(table)[:1]
    entries = [model(table[kind], kind, named) for kind in kinds]
    _unfinished.discard(protocol)
    several = len(entries) > 1
    union = Annotated[Union[tuple(entries)], Field(discriminator="kind")] if several else entries[0]  # noqa: UP007
    for entry in entries:
        entry.model_rebuild(_types_namespace={_later(protocol): union})
    return union


def _later(protocol: type) -> str:
    """Name of a union that is not made yet: no name of this module, or it would be looked up here."""
    return f"{protocol.__name__}_entry"


def _union(protocol: type, named: frozenset[str] | None) -> Any:
    return typing.ForwardRef(_later(protocol)) if protocol in _unfinished else _finished(protocol, named)


@functools.cache
def model(cls: type, kind: str = "", named: frozenset[str] | None = None) -> type[pydantic.BaseModel]:
    """The pydantic model with the fields of `cls`, and its kind as a literal where it stands in a table.

    Args:
        cls: a dataclass.
        kind: its name in a table.
        named: the kinds that a run file names: models of all others are not made, which takes a fifth of a second; None
            makes them all.
    """
    members: dict[str, Any] = {"kind": (Literal[kind], ...)} if kind else {}
    for name, hint, field in fields(cls):
        if field.default is not dataclasses.MISSING:
            default = Field(default=field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        else:
            default = Field()
        members[name] = (_slot(hint, named), default)
    config = ConfigDict(**STRICT, json_schema_extra={"x-module": cls.__module__})
    created = pydantic.create_model(
        f"{cls.__name__}", __config__=config, __doc__=(cls.__doc__ or "").split("\n")[0], **members
    )
    created.__sciflow_class__ = cls
    return created


def build(value: Any) -> Any:
    """The objects that a validated model describes."""
    if isinstance(value, pydantic.BaseModel):
        cls = value.__sciflow_class__  # type: ignore[attr-defined]
        built = {name: build(getattr(value, name)) for name, *_ in fields(cls)}
        given = {name for name, *_ in fields(cls)}
        is_open = any(
            field.init
            and field.name not in given
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            for field in dataclasses.fields(cls)
        )
        return functools.partial(cls, **built) if is_open else cls(**built)
    if isinstance(value, Mapping):
        return {key: build(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(build(entry) for entry in value)
    return value


class _JsonSchema(GenerateJsonSchema):
    """Defaults that are classes (a guidance, a likelihood) have no place in JSON; the classes themselves state them."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (pydantic's own name and type)


def schema() -> dict[str, Any]:
    """The JSON schema of run files, for editors and for the check at parse time."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sciflow run file",
        **model(RunFile).model_json_schema(schema_generator=_JsonSchema),
    }


def parse(values: Mapping[str, Any], where: str | Path) -> RunFile:
    """The run that the values of a run file describe.

    Raises:
        InputError: every mistake at once, one line each: file, key, what was expected, what to do.
    """
    load_plugins(values.get("plugins") or ())
    foreign = _foreign_dataset(values)
    try:
        checked = _checked(dict(values))
    except pydantic.ValidationError as error:
        lines = list(messages(error, values, model(RunFile), settled="dataset" if foreign else ""))
        raise InputError("\n".join(f"{where}: {line}" for line in ([foreign] if foreign else []) + lines)) from None
    if foreign:
        raise InputError(f"{where}: {foreign}")
    try:
        run = build(checked)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error
    problems = list(inconsistencies(run))
    if problems:
        raise InputError("\n".join(f"{where}: {problem}" for problem in problems))
    return run


def _checked(values: dict[str, Any]) -> pydantic.BaseModel:
    """The run file against the kinds that it names; against all of them, if that fails, for the messages."""
    try:
        return model(RunFile, named=frozenset(_named(values))).model_validate(values)
    except pydantic.ValidationError:
        return model(RunFile).model_validate(values)


def _named(value: Any) -> Iterator[str]:
    """Every kind that is named anywhere."""
    if isinstance(value, Mapping):
        if isinstance(kind := value.get("kind"), str):
            yield kind
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _named(entry)


def check_run(values: Mapping[str, Any], where: str | Path) -> None:
    """Raise InputError if a run file is wrong; the slow check with the good messages."""
    parse(values, where)


def _foreign_dataset(values: Mapping[str, Any]) -> str:
    """What to say if the data set is of another domain; '' if it is not."""
    domain, dataset = values.get("domain"), values.get("dataset")
    kind = dataset.get("kind") if isinstance(dataset, Mapping) else None
    if domain not in list(DOMAINS) or not isinstance(kind, str) or kind not in DATASETS:
        return ""
    known = question(str(domain), "dataset").DATASETS
    if DATASETS[kind] in known.values():
        return ""
    return f"dataset.kind must be one of {sorted(known)} for domain {domain!r}, got {kind!r} of another domain."
