"""The constructor is the schema: run files are checked against, and built from, the signatures of the public classes.

A field typed by a protocol takes any entry of that protocol's table (`{kind: heun}`); a field typed by a dataclass
takes a mapping of its fields; a field that YAML cannot express (a tensor, a model, an observation) is left open, and
the built value is a `functools.partial` that waits for it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union  # a union over a table is made at run time

import pydantic
import torch
from pydantic import ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

from sciflow.diffusion import LOSSES, SCHEDULES, TIMES
from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.loss import Loss
from sciflow.diffusion.schedule import Schedule
from sciflow.diffusion.times import Times
from sciflow.domains import DATASETS, DOMAINS
from sciflow.domains.protocol import Dataset, question
from sciflow.errors import InputError
from sciflow.inverse import GUIDANCE, LIKELIHOODS, NOISES, OPERATORS, POSTERIORS
from sciflow.inverse.guidance import Guidance
from sciflow.inverse.likelihood import Likelihood, LikelihoodModel, NoiseModel
from sciflow.inverse.operator import LinearOperator
from sciflow.inverse.posterior import Posterior
from sciflow.networks import NETWORKS
from sciflow.networks.mlp import Network
from sciflow.runs import did_you_mean
from sciflow.solvers import SOLVERS
from sciflow.solvers.solve import Solver
from sciflow.stages import TRAININGS
from sciflow.stages.evaluate import EvaluateSection
from sciflow.stages.report import ReportSection
from sciflow.stages.sample import SampleSection
from sciflow.stages.train import Training

SLOTS: dict[type, dict[str, type]] = {
    Solver: SOLVERS,
    Schedule: SCHEDULES,
    Times: TIMES,
    Loss: LOSSES,
    Network: NETWORKS,
    LinearOperator: OPERATORS,
    NoiseModel: NOISES,
    LikelihoodModel: LIKELIHOODS,
    Guidance: GUIDANCE,
    Posterior: POSTERIORS,
    Dataset: DATASETS,
    Training: TRAININGS,
}
OPEN = (torch.Tensor, torch.nn.Module, Denoiser, Likelihood, Callable)
STRICT = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


@dataclasses.dataclass(frozen=True)
class Resources:
    """What one stage may use.

    Args:
        threads: CPU threads of the process.
        gpu: devices.
        mem_mb: memory [MB].
        runtime: time limit [minutes].
        shards: parts that `sample` is cut into.
    """

    threads: Annotated[int, Field(gt=0)] = 1
    gpu: Annotated[int, Field(ge=0)] = 0
    mem_mb: Annotated[int, Field(gt=0)] = 2000
    runtime: Annotated[int, Field(gt=0)] = 60
    shards: Annotated[int, Field(gt=0)] = 1


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
    seed: Annotated[int, Field(ge=0)] = 0
    title: str = ""
    question: str = ""
    plugins: tuple[str, ...] = ()
    resources: dict[Literal["dataset", "train", "sample", "evaluate", "report"], Resources] = dataclasses.field(
        default_factory=dict
    )
    sweep: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    smoke: dict[str, Any] = dataclasses.field(default_factory=dict)
    freeze: bool = False


def load_plugins(files: typing.Iterable[str | Path]) -> None:
    """Run Python files whose top level adds entries to the public tables.

    Raises:
        InputError: a file is missing, or raises.
    """
    for file in map(Path, files):
        if not file.is_file():
            raise InputError(f"plugins: there is no file {str(file)!r}. Paths start at the working directory.")
        spec = importlib.util.spec_from_file_location(f"sciflow_plugin_{file.stem}", file)
        assert spec is not None and spec.loader is not None
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except Exception as error:
            raise InputError(f"plugins: {file} raised {type(error).__name__}: {error}. Mend the plugin.") from error
    if files:
        model.cache_clear()
        _finished.cache_clear()


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


def _slot(hint: Any) -> Any:
    """The type that pydantic validates in place of `hint`: protocols become unions over their table."""
    if hint in SLOTS:
        return _union(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return model(hint)
    arguments = typing.get_args(hint)
    if not arguments or typing.get_origin(hint) is Literal:
        return hint
    if typing.get_origin(hint) is Annotated:
        return Annotated[(_slot(arguments[0]), *arguments[1:])]  # type: ignore[return-value]
    arguments = tuple(_slot(part) for part in arguments)
    if isinstance(hint, types.UnionType):
        return Union[arguments]  # noqa: UP007
    return typing.get_origin(hint)[arguments]


_unfinished: set[type] = set()


@functools.cache
def _finished(protocol: type) -> Any:
    """The union over a protocol's table; entries that hold others of the same table refer to it by name."""
    _unfinished.add(protocol)
    entries = [model(cls, kind) for kind, cls in SLOTS[protocol].items()]
    _unfinished.discard(protocol)
    union = Annotated[Union[tuple(entries)], Field(discriminator="kind")] if len(entries) > 1 else entries[0]
    for entry in entries:
        entry.model_rebuild(_types_namespace={protocol.__name__: union})
    return union


def _union(protocol: type) -> Any:
    return typing.ForwardRef(protocol.__name__) if protocol in _unfinished else _finished(protocol)


@functools.cache
def model(cls: type, kind: str = "") -> type[pydantic.BaseModel]:
    """The pydantic model with the fields of `cls`, and its kind as a literal where it stands in a table."""
    members: dict[str, Any] = {"kind": (Literal[kind], ...)} if kind else {}
    for name, hint, field in fields(cls):
        if field.default is not dataclasses.MISSING:
            default = Field(default=field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        else:
            default = Field()
        members[name] = (_slot(hint), default)
    config = ConfigDict(**STRICT, json_schema_extra={"x-module": cls.__module__})
    created = pydantic.create_model(
        f"{cls.__name__}", __config__=config, __doc__=(cls.__doc__ or "").split("\n")[0], **members
    )
    created.__sciflow_class__ = cls  # type: ignore[attr-defined]
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

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})


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
    try:
        checked = model(RunFile).model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise InputError("\n".join(_message(problem, values, where) for problem in error.errors())) from None
    try:
        run = build(checked)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error
    problems = list(_inconsistencies(run))
    if problems:
        raise InputError("\n".join(f"{where}: {problem}" for problem in problems))
    return run


def check_run(values: Mapping[str, Any], where: str | Path) -> None:
    """Raise InputError if a run file is wrong; the slow check with the good messages."""
    parse(values, where)


def _path(problem: Mapping[str, Any], values: Any) -> tuple[str, Any]:
    """Dotted key of a problem, without the kinds that the validator adds, and the mapping it lies in."""
    names, inside = [], values
    for step in problem["loc"]:
        if isinstance(inside, Mapping) and step not in inside and step == inside.get("kind"):
            continue
        names.append(str(step))
        parent = inside
        inside = inside.get(step) if isinstance(inside, Mapping) else inside[step] if _has(inside, step) else None
        if inside is None:
            inside = {} if not isinstance(parent, Mapping) or step not in parent else None
    return ".".join(names), inside


def _has(container: Any, index: Any) -> bool:
    return isinstance(container, list | tuple) and isinstance(index, int) and index < len(container)


def _message(problem: Mapping[str, Any], values: Mapping[str, Any], where: str | Path) -> str:
    """One line in the house style for one pydantic error."""
    key, _ = _path(problem, values)
    got, context = problem["input"], problem.get("ctx", {})
    if problem["type"] in ("union_tag_invalid", "literal_error"):
        tag = problem["type"] == "union_tag_invalid"
        text = context["expected_tags"] if tag else context["expected"].replace(" or ", ", ")
        known = [name.strip().strip("'") for name in text.split(",")]
        value = str(context["tag"]) if tag else str(got)
        name = f"{key}.kind" if tag else key
        return f"{where}: {name} must be one of {known}, got {value!r}.{did_you_mean(value, known)}"
    if problem["type"] == "union_tag_not_found":
        return f"{where}: {key} needs a `kind`, got {got!r}. `sciflow list` prints the kinds."
    if problem["type"] == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        known = _known_keys(problem, values)
        return f"{where}: {key} is not a key of {parent or 'a run file'}, which has {known}.{did_you_mean(name, known)}"
    if problem["type"] == "missing":
        return f"{where}: {key} is missing. Add it; `sciflow new` writes a run file that has it."
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {key}: {reason}, got {got!r}. See `sciflow schema` or the reference of the class."


def _known_keys(problem: Mapping[str, Any], values: Any) -> list[str]:
    """The keys that the mapping of an unknown key may have."""
    current: Any = model(RunFile)
    inside: Any = values
    for step in problem["loc"][:-1]:
        if isinstance(inside, Mapping) and step not in inside and step == inside.get("kind"):
            continue
        inside = inside[step] if isinstance(inside, Mapping) or _has(inside, step) else {}
        current = _member(current, step, inside)
    return [name for name in getattr(current, "model_fields", {}) if name != "kind"]


def _member(current: Any, step: Any, inside: Any) -> Any:
    """The model behind one key, chosen by kind where there are several."""
    members = getattr(current, "model_fields", {})
    hint = members[step].annotation if step in members else current
    candidates = [*_models(hint)]
    kind = inside.get("kind") if isinstance(inside, Mapping) else None
    for candidate in candidates:
        declared = candidate.model_fields.get("kind")
        if declared is None or kind in typing.get_args(declared.annotation):
            return candidate
    return current


def _models(hint: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, pydantic.BaseModel):
        yield hint
    for part in typing.get_args(hint):
        yield from _models(part)


def _inconsistencies(run: RunFile) -> Iterator[str]:
    """What no single field shows."""
    datasets = question(run.domain, "dataset").DATASETS
    if type(run.dataset) not in datasets.values():
        kind = next(kind for kind, cls in DATASETS.items() if cls is type(run.dataset))
        yield f"dataset.kind {kind!r} is not of the domain {run.domain!r}, which has {sorted(datasets)}."
    for stage, names, table in (("evaluate", "metrics", "METRICS"), ("report", "figures", "FIGURES")):
        known = getattr(question(run.domain, stage), table)
        for name in getattr(getattr(run, stage), names):
            if name not in known:
                hint = did_you_mean(name, known)
                yield f"{stage}.{names} must be among {sorted(known)} for domain {run.domain!r}, got {name!r}.{hint}"
    if not run.sample.posteriors:
        yield "sample.posteriors is empty. Name at least one sampler; `sciflow list posteriors` prints the kinds."
    n_steps = run.sample.times.n_steps
    for name, posterior in run.sample.posteriors.items():
        order = getattr(getattr(posterior, "solver", None), "order", 1)
        if order > n_steps:
            yield (
                f"sample.posteriors.{name}.solver.order is {order}, more than the {n_steps} steps of sample.times: "
                "there is no history for it. Lower the order or raise sample.times.n_steps."
            )
