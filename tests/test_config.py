"""The constructors are the schema of run files: what they accept, what they build, and what they say to mistakes."""

from __future__ import annotations

import functools
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sciflow import config
from sciflow.errors import InputError
from sciflow.inverse.guidance import MomentMatching, PiGDM
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.operator import Composition
from sciflow.inverse.posterior import Guided
from sciflow.networks.mlp import MLP
from sciflow.runs import read
from sciflow.solvers.explicit import Heun
from tests.tiny import ANALYTIC, IMAGING, Place, change

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = [(protocol, kind) for protocol, table in config.SLOTS.items() for kind in table]
SAMPLER = "sample.posteriors.PiGDM"
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown kind": (
        {f"{SAMPLER}.solver.kind": "huen"},
        "sample.posteriors.PiGDM.solver.kind must be one of [",
    ),
    "suggestion": ({f"{SAMPLER}.solver.kind": "huen"}, "got 'huen'. Did you mean 'heun'?"),
    "kind of another table": ({f"{SAMPLER}.solver.kind": "unet"}, "PiGDM.solver.kind must be one of ["),
    "kind that is no text": ({f"{SAMPLER}.solver.kind": 3}, "solver.kind must be one of ["),
    "no kind": ({f"{SAMPLER}.solver": {}}, "solver needs a `kind`, got {}."),
    "kind without braces": (
        {f"{SAMPLER}.solver": "heun"},
        "solver must be a mapping, got 'heun'. Write `solver: {kind: heun}`.",
    ),
    "unknown key": (
        {"sample.n_smaples": 3},
        "sample.n_smaples is not a key of sample, which has ['likelihood', 'posteriors', 'times', 'search', "
        "'n_samples', 'precision', 'tile']. Did you mean 'n_samples'?",
    ),
    "unknown key below a kind": (
        {"train.network.widht": 3},
        "train.network.widht is not a key of train.network, which has ['channels',",
    ),
    "unknown key at the top": ({"sampel": {}}, "sampel is not a key of a run file, which has ["),
    "text for a number": ({"sample.n_samples": "many"}, "sample.n_samples must be a number, got 'many'."),
    "yes for a number": ({"sample.n_samples": True}, "sample.n_samples must be a number, got True."),
    "a fraction of a sample": ({"sample.n_samples": 1.5}, "sample.n_samples must be a valid integer"),
    "no samples": ({"sample.n_samples": 0}, "sample.n_samples must be greater than 0, got 0."),
    "negative samples": ({"sample.n_samples": -3}, "sample.n_samples must be greater than 0, got -3."),
    "one sample for a spread": ({"sample.n_samples": 1}, "sample.n_samples must be at least 2 for the metrics of"),
    "no noise": ({"sample.likelihood.sigma": 0.0}, "sample.likelihood.sigma must be greater than 0, got 0.0."),
    "noise that is not a number": ({"sample.likelihood.sigma": float("nan")}, "must be a finite number, got nan."),
    "infinite rate": ({"train.optimisation.learning_rate": float("inf")}, "must be a finite number, got inf."),
    "every pixel missing": (
        {"dataset.observation.operator.missing": 1.0},
        "dataset.observation.operator.missing must be less than 1, got 1.0.",
    ),
    "negative seed": ({"seed": -1}, "seed must be greater than or equal to 0, got -1."),
    "a list where one belongs": ({"train.network.channels": 4}, "train.network.channels must be a valid list, got 4."),
    "an empty list": ({"train.network.channels": []}, "train.network.channels must have at least 1 item"),
    "inside a list": ({"train.network.channels": [4, 0]}, "train.network.channels.1 must be greater than 0, got 0."),
    "choice": ({"sample.precision": "float16"}, "sample.precision must be one of ['float32', 'float64'], got"),
    "no section": ({"sample": None}, "sample must be a mapping, got None."),
    "unknown domain": (
        {"domain": "imagin"},
        "domain must be one of ['analytic', 'imaging', 'molecules', 'pde'], got 'imagin'. Did you",
    ),
    "data set of another domain": (
        {"dataset": {"kind": "mixture_grid", "dimension": 4}},
        "dataset.kind must be one of ['digits', 'ellipses', 'file', 'head_slice', 'patches'] for domain 'imaging', got "
        "'mixture_grid' of another "
        "domain.",
    ),
    "keys of another domain": (
        {"dataset.kind": "mixture_grid"},
        "dataset.kind must be one of ['digits', 'ellipses', 'file', 'head_slice', 'patches'] for",
    ),
    "forces that nobody knows": (
        {"train.loss": {"kind": "target_score"}},
        "train.loss: target_score: the domain 'imaging' does not know the score of its data.",
    ),
    "unknown metric": ({"evaluate.metrics": ["crsp"]}, "evaluate.metrics must be among ["),
    "unknown metric, suggestion": ({"evaluate.metrics": ["crsp"]}, "got 'crsp'. Did you mean 'crps'?"),
    "unknown figure": ({"report.figures": ["calibratoin"]}, "got 'calibratoin'. Did you mean 'calibration'?"),
    "order beyond the history": (
        {"sample.times.n_steps": 1},
        "sample.posteriors.PiGDM.solver.order is 2, more than the 1 steps of sample.times: there is no history for it.",
    ),
    "a solver of other equations": (
        {f"{SAMPLER}.solver": {"kind": "torchsde"}},
        "sample.posteriors.PiGDM.solver: TorchSDE solves SDEs, got dynamics without noise.",
    ),
    "exact inversion with noise": (
        {f"{SAMPLER}.solver": {"kind": "bdia"}, f"{SAMPLER}.noise_level": 0.5},
        "sample.posteriors.PiGDM.solver: BDIA takes the probability flow; what noise it adds",
    ),
    "a grid that runs backwards": (
        {"sample.times.ratio_max": 0.01, "sample.times.ratio_min": 0.1},
        "sample.times: times must hold at least two increasing numbers, got [",
    ),
    "no posterior": ({"sample.posteriors": {}}, "sample.posteriors is empty. Name at least one sampler;"),
    "nameless posterior": ({"sample.posteriors": {" ": {"kind": "guided"}}}, "sample.posteriors: ' ' is no name."),
    "name with a bell": ({"sample.posteriors": {"a\a": {"kind": "guided"}}}, "sample.posteriors: 'a\\x07' is no name."),
    "no file for the data": ({"dataset": {"kind": "file"}}, "dataset.path is empty. Name the file;"),
    "no file for the model": ({"train": {"kind": "checkpoint"}}, "train.path is empty. Name the file;"),
    "unknown stage": ({"resources": {"trian": {}}}, "resources.trian must be one of ['dataset', 'train',"),
    "nothing to train on": (
        {"dataset.test": 0.6, "dataset.validation": 0.5},
        "dataset.test 0.6 and dataset.validation 0.5 leave nothing to train on.",
    ),
    "a search among too few": (
        {"sample.search": {"kind": "evolution", "n_candidates": 2}, "sample.times.n_steps": 3},
        "sample.search.n_candidates is 2, fewer than the 3 steps of sample.times. Raise it well above.",
    ),
    "choices that nobody takes": (
        {"sample.search": {"kind": "compensation"}},
        "sample.search finds what each step of a `scheduled` solver does, and no posterior has that solver. Give one",
    ),
    "no choice at all": (
        {f"{SAMPLER}.solver": {"kind": "scheduled", "choices": []}},
        "sample.posteriors.PiGDM.solver.choices must have at least 1 item",
    ),
    "more choices than steps": (
        {f"{SAMPLER}.solver": {"kind": "scheduled", "choices": 4 * [{"order": 1}]}},
        "sample.posteriors.PiGDM.solver: Scheduled needs 1 to 3 choices for 3 steps, got 4.",
    ),
    "a plugin without brackets": ({"plugins": "mine.py"}, "plugins must be a list of file names, got 'mine.py'."),
    "a plugin that is not there": ({"plugins": ["mine.py"]}, "plugins: there is no file 'mine.py'."),
}


@pytest.mark.parametrize(("protocol", "kind"), ENTRIES, ids=lambda value: getattr(value, "__name__", value))
def test_every_entry_is_built_from_its_kind_alone(protocol: type, kind: str) -> None:
    cls = config.SLOTS[protocol][kind]
    built = config.build(config.model(cls, kind)(kind=kind))
    made = built.func if isinstance(built, functools.partial) else type(built)
    assert made is cls
    for name, _, field in config.fields(cls):
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = built.keywords[name] if isinstance(built, functools.partial) else getattr(built, name)
        stated = (default.func, default.keywords) if isinstance(default, functools.partial) else default
        assert value == stated or isinstance(value, functools.partial), f"{cls.__name__}.{name}"


@pytest.mark.parametrize(("protocol", "kind"), ENTRIES, ids=lambda value: getattr(value, "__name__", value))
def test_every_entry_stands_in_the_schema_with_its_module(protocol: type, kind: str) -> None:
    cls = config.SLOTS[protocol][kind]
    found = [
        entry
        for entry in schema()["$defs"].values()
        if (entry["x-module"], entry["title"]) == (cls.__module__, cls.__name__)
    ]
    assert len(found) == 1
    assert found[0]["properties"]["kind"]["const"] == kind
    assert set(found[0]["properties"]) == {"kind", *(name for name, *_ in config.fields(cls))}
    assert found[0]["additionalProperties"] is False


@functools.cache
def schema() -> dict[str, Any]:
    return config.schema()


def test_the_committed_schema_is_current() -> None:
    committed = json.loads((ROOT / "workflows/config/schema.json").read_text())
    assert committed == schema(), "write it anew: sciflow schema --out workflows/config/schema.json"


def test_a_run_is_built_with_every_slot_filled() -> None:
    run = config.parse(IMAGING, "run.yaml")
    assert run.train.network.channels == (4, 8)
    assert run.dataset.observation.operator.missing == 0.5
    assert run.sample.posteriors["stochastic"].solver == Heun()
    assert run.sample.times.n_steps == 3 and run.sample.precision == "float32"
    assert list(run.sample.posteriors) == ["PiGDM", "stochastic"]


SHIPPED = sorted((ROOT / "workflows/runs").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_named_kinds_alone_check_a_run_as_all_kinds_do(file: Path) -> None:
    """Models of other kinds are not made; what comes out of it is the same."""
    values = dict(read(file).content)
    checked, by_all = config._checked(values), config.model(config.RunFile).model_validate(values)
    assert type(checked) is not type(by_all), "it was not checked against the named kinds alone"
    assert repr(checked) == repr(by_all)


def test_what_a_run_file_cannot_say_is_left_open() -> None:
    run = config.parse(IMAGING, "run.yaml")
    guidance, likelihood = run.sample.posteriors["PiGDM"].guidance, run.sample.likelihood
    assert isinstance(guidance, functools.partial) and guidance.func is PiGDM
    assert {"prior", "likelihood"}.isdisjoint(guidance.keywords)
    bound = likelihood(observation=torch.ones(2))
    assert isinstance(bound, GaussianLikelihood) and bound.sigma == 0.1


def test_what_a_run_file_leaves_out_has_the_default_of_the_class() -> None:
    run = config.parse(ANALYTIC, "run.yaml")
    posterior = run.sample.posteriors["moment matching"]
    assert replace(posterior, guidance=MomentMatching) == Guided()
    assert posterior.guidance.func is MomentMatching
    assert posterior.guidance.keywords == {name: field.default for name, _, field in config.fields(MomentMatching)}
    assert run.resources == {} and run.freeze is False
    for field in fields(config.Resources):
        assert getattr(config.Resources(), field.name) == field.default


def test_entries_of_one_table_hold_one_another() -> None:
    operator = {
        "kind": "composition",
        "outer": {"kind": "composition", "inner": {"kind": "identity"}, "outer": {"kind": "downsampling"}},
        "inner": {"kind": "gaussian_blur"},
    }
    run = config.parse(change(IMAGING, {"sample.likelihood.operator": operator}), "run.yaml")
    built = run.sample.likelihood.keywords["operator"]
    assert isinstance(built, Composition) and isinstance(built.outer, Composition)
    assert [type(part).__name__ for part in (built.inner, built.outer.inner, built.outer.outer)] == [
        "GaussianBlur",
        "Identity",
        "Downsampling",
    ]


def test_numbers_may_be_written_as_people_write_them() -> None:
    """1e3 is a whole number, 2 is a real one; quotes make text of a number, which is refused."""
    run = config.parse(change(ANALYTIC, {"sample.n_samples": 1e3, "sample.likelihood.sigma": 2}), "run.yaml")
    assert (run.sample.n_samples, run.sample.likelihood.keywords["sigma"]) == (1000, 2.0)
    assert isinstance(run.sample.n_samples, int)
    with pytest.raises(InputError, match="must be a number, got '64'"):
        config.parse(change(ANALYTIC, {"sample.n_samples": "64"}), "run.yaml")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_file_key_and_remedy(mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    with pytest.raises(InputError) as error:
        config.parse(change(IMAGING, changes), "run.yaml")
    lines = str(error.value).splitlines()
    assert len(lines) == 1, "one message for one mistake"
    assert message in lines[0]
    if "plugins" not in changes:
        assert lines[0].startswith("run.yaml: ")
    for word in ("pydantic", "Input should", "dictionary", "tuple", "[key]"):
        assert word not in lines[0]


def test_all_mistakes_are_listed_at_once() -> None:
    changes = {
        "seed": -1,
        "dataset.n_observations": 0,
        "train.network.kind": "unett",
        "train.optimisation.n_setps": 5,
        f"{SAMPLER}.guidance.kind": "pgdm",
        "sample.n_samples": 0,
        "sample.times.n_steps": "few",
    }
    with pytest.raises(InputError) as error:
        config.parse(change(IMAGING, changes), "run.yaml")
    lines = str(error.value).splitlines()
    keys = ["seed", "dataset.n_observations", "train.network.kind", "train.optimisation.n_setps",
            f"{SAMPLER}.guidance.kind", "sample.n_samples", "sample.times.n_steps"]  # fmt: skip
    assert sorted(line.split()[1] for line in lines) == sorted(keys)


def test_inconsistencies_are_listed_at_once() -> None:
    changes = {"sample.n_samples": 1, "evaluate.metrics": ["crsp"], "report.figures": ["x"], "sample.times.n_steps": 1}
    with pytest.raises(InputError) as error:
        config.parse(change(IMAGING, changes), "run.yaml")
    assert len(str(error.value).splitlines()) == 4


PLUGIN = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from sciflow.networks import NETWORKS
from sciflow.networks.mlp import MLP


@dataclass(frozen=True)
class Wide(MLP):
    """A wide perceptron."""

    limit: ClassVar[int] = 3
    factor: Annotated[float, Field(gt=0)] = 2.0


NETWORKS["wide"] = Wide
'''


def test_a_plugin_fills_a_table(place: Place) -> None:
    """With annotations written as text: they are looked up where the module is registered."""
    file = place.folder / "plugin.py"
    file.write_text(PLUGIN)
    values = change(ANALYTIC, {"train": {"kind": "network", "network": {"kind": "wide", "factor": 3.0, "depth": 1}}})
    with pytest.raises(InputError, match=r"train\.network\.kind must be one of \[.*'unet'.*\], got 'wide'"):
        config.parse(values, "run.yaml")
    for _ in range(2):  # a plugin may be loaded again
        run = config.parse({**values, "plugins": [str(file)]}, "run.yaml")
        assert isinstance(run.train.network, MLP)
        assert type(run.train.network).__name__ == "Wide" and run.train.network.factor == 3.0
    with pytest.raises(InputError, match=r"train\.network\.factor must be greater than 0, got -1"):
        config.parse(change({**values, "plugins": [str(file)]}, {"train.network.factor": -1}), "run.yaml")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "raised ZeroDivisionError: division by zero. Mend the plugin."),
        ("raise SystemExit(3)", "raised SystemExit: 3. Mend the plugin."),
        ("import nothing_of_that_name", "raised ModuleNotFoundError: No module named 'nothing_of_that_name'."),
        ("def f(:\n", "raised SyntaxError: "),
    ],
)
def test_a_plugin_that_raises_is_named(code: str, said: str, place: Place) -> None:
    file = place.folder / "plugin.py"
    file.write_text(code)
    with pytest.raises(InputError) as error:
        config.parse({**ANALYTIC, "plugins": [str(file)]}, "run.yaml")
    assert str(error.value).startswith(f"plugins: {file} {said}")


def test_plugins_of_one_name_do_not_meet(place: Place) -> None:
    files = [place.folder / name / "plugin.py" for name in ("a", "b")]
    for file, kind in zip(files, ("first", "second"), strict=True):
        file.parent.mkdir()
        file.write_text(PLUGIN.replace('"wide"', f'"{kind}"'))
    config.load_plugins([str(file) for file in files])
    first, second = (config.SLOTS[config.Network][kind] for kind in ("first", "second"))
    assert first.__module__ != second.__module__


def test_ranges_reach_the_schema() -> None:
    """An editor, and the check without torch, know them only from there."""
    definitions = schema()["$defs"]
    assert definitions["SampleSection"]["properties"]["n_samples"]["exclusiveMinimum"] == 0
    assert definitions["GaussianNoise"]["properties"]["sigma"]["minimum"] == 0
    assert definitions["Inpainting"]["properties"]["missing"]["exclusiveMaximum"] == 1
    assert schema()["properties"]["seed"]["minimum"] == 0
    constraints = {"gt", "ge", "lt", "le"}
    assert not [
        name for name, entry in definitions.items() for p in entry["properties"].values() if constraints & set(p)
    ]
