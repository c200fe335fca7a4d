"""Every entry of the tables that a run file may name runs to its end, with its defaults, in a run of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow import config
from sciflow.diffusion.forecast import Forecaster
from sciflow.diffusion.model import load
from sciflow.domains.molecules.potential import Potential
from sciflow.domains.molecules.systems import MolecularSystem
from sciflow.domains.pde.equations import PeriodicEquation
from sciflow.inverse import NONLINEAR_OPERATORS
from sciflow.inverse.guidance import Guidance
from sciflow.inverse.likelihood import NoiseModel
from sciflow.inverse.operator import LinearOperator, Operator
from sciflow.inverse.posterior import Posterior
from sciflow.networks.mlp import Network
from sciflow.particles.kernels import Kernel
from sciflow.search.reference import Search
from sciflow.solvers.kinetic import LangevinSolver
from sciflow.solvers.solve import Solver
from tests.tiny import ANALYTIC, FORECAST, IMAGING, MOLECULES, PATHS, PDE, Place, change

GUIDED: dict[str, Any] = {"kind": "guided"}
NOISE = {kind: {"noise_level": 1.0} for kind in ("euler_maruyama", "torchsde")}  # the solvers of SDEs
PROJECTED = {"kind": "twisted_smc", "n_particles": 16, "twist": "pigdm"}
SIMULATED = {"kind": "simulated", "n_chains": 4, "thinning": 2}
TEMPERED = {"kind": "tempered", "n_particles": 32}
FILTERS = {"particle_filter", "ensemble_kalman"}  # of equations, not of denoisers
ROLLOUT = {"kind": "rollout"}
N_STEPS = {"sample.times.n_steps": 6}  # as many as the highest order of the multistep solvers

SMALL = {"step_choices": {"evolving": {"population": 4, "n_generations": 2}}}
SEARCHED = {kind: {"kind": kind, "n_samples": 4, **SMALL.get(kind, {})} for kind in config.SLOTS[Search]}
SCHEDULED = {**GUIDED, "solver": {"kind": "scheduled"}}  # the solver into which a search may put its choices


CENTRED = {
    "kind": "network", "network": {"kind": "egnn", "width": 8}, "optimisation": {"n_steps": 2}, "centred": True,
}  # fmt: skip
FLAT = {"kind": "network", "network": {"kind": "mlp", "width": 8}, "optimisation": {"n_steps": 2}}
ONCE = {"train.optimisation.n_steps": 1}
LEARNING = {"fokker_planck": {"train.network": {"kind": "energy_mlp"}}}  # it needs a network with a density


def posterior(entry: dict[str, Any]) -> dict[str, Any]:
    return {**N_STEPS, "sample.posteriors": {"a": entry}}


def operator(kind: str) -> dict[str, Any]:
    names = ("dataset.observation.operator", "sample.likelihood.operator")
    return {**{name: {"kind": kind} for name in names}, **posterior(GUIDED), "train": {"kind": "closed_form"}}


def assumed(kind: str) -> dict[str, Any]:
    """As an operator that need not be linear, by a posterior that asks for the likelihood's value alone."""
    changes = operator(kind) | posterior({"kind": "fk_steering", "n_particles": 16})
    return changes | {"sample.likelihood": {"kind": "nonlinear_gaussian", "operator": {"kind": kind}, "sigma": 0.1}}


# Table → (run, last stage, what to change for a kind)
ROWS: dict[type, tuple[dict[str, Any], str, Callable[[str], dict[str, Any]]]] = {
    config.Schedule: (ANALYTIC, "sample", lambda kind: {"train.schedule": {"kind": kind}, **posterior(PROJECTED)}),
    config.Times: (ANALYTIC, "sample", lambda kind: {"sample.times": {"kind": kind, "n_steps": 6}}),
    Search: (ANALYTIC, "sample", lambda kind: {**posterior(SCHEDULED), "sample.search": SEARCHED[kind]}),
    Guidance: (ANALYTIC, "sample", lambda kind: posterior({**GUIDED, "guidance": {"kind": kind}})),
    Kernel: (ANALYTIC, "sample", lambda kind: posterior({**TEMPERED, "kernel": {"kind": kind}})),
    Posterior: (ANALYTIC, "sample", lambda kind: posterior({"kind": kind})),
    NoiseModel: (IMAGING, "dataset", lambda kind: {"dataset.observation.noise": {"kind": kind}}),
    LinearOperator: (IMAGING, "sample", operator),
    Operator: (IMAGING, "sample", assumed),
    config.Loss: (IMAGING, "train", lambda kind: {**LEARNING.get(kind, {}), "train.loss": {"kind": kind}, **ONCE}),
    PeriodicEquation: (
        PDE,
        "sample",
        lambda kind: {"dataset.equation": {"kind": kind}, "train.schedule": {"kind": "edm"}},
    ),
    LangevinSolver: (ANALYTIC, "sample", lambda kind: posterior({**SIMULATED, "method": {"kind": kind}})),
    Potential: (MOLECULES, "dataset", lambda kind: {"dataset.potential": {"kind": kind}}),
    Forecaster: (FORECAST, "sample", lambda kind: {"train.forecasters": {"a": {"kind": kind}}, **posterior(ROLLOUT)}),
    Network: (IMAGING, "train", lambda kind: {"train.network": {"kind": kind}, "train.optimisation.n_steps": 1}),
}
TOGETHER = {Solver}  # as posteriors of one run: a run for each of some forty would take minutes
ELSEWHERE = {config.Training, config.Dataset, config.LikelihoodModel, MolecularSystem}  # test_train, domains, all
SINGLE = {"analytic": "dataset.n_problems", "molecules": "dataset.n_repeats"}
SINGLE |= dict.fromkeys(("imaging", "pde"), "dataset.n_observations")
KINDS = [
    (protocol, kind)
    for protocol in ROWS
    for kind in (NONLINEAR_OPERATORS if protocol is Operator else config.SLOTS[protocol])  # the others: LinearOperator
]


def test_every_table_is_looked_at() -> None:
    assert set(config.SLOTS) == {*ROWS, *TOGETHER, *ELSEWHERE}


@pytest.mark.parametrize(("protocol", "kind"), KINDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_entry_runs_to_its_end(protocol: type, kind: str, place: Place) -> None:
    values, last, changes = ROWS[protocol]
    if protocol is Posterior and kind in FILTERS:
        values = PATHS
    if protocol is Posterior and kind == "rollout":
        values, changes = FORECAST, lambda kind: {"sample.posteriors": {"a": {"kind": kind, "forecaster": "law"}}}
    if protocol is Network and kind == "egnn":
        values, changes = MOLECULES, lambda kind: {"train": CENTRED, "dataset.potential": {"kind": "dw4"}}
    if protocol is config.Loss and kind == "target_score":  # it needs a potential
        values, changes = MOLECULES, lambda kind: {"train": {**FLAT, "loss": {"kind": kind}}}
    results = place.build(change(values, {SINGLE[str(values["domain"])]: 1, **changes(kind)}), until=last)
    if last == "train":
        model = load(results / "model.pt")
        assert bool(model(torch.zeros(2, *model.shape), 0.5).isfinite().all())
    else:
        name = {"dataset": "data" if values is MOLECULES else "measured", "sample": "samples"}[last]
        with xr.open_dataset(results / {"dataset": "data.nc", "sample": "samples.nc"}[last]) as made:
            assert made[name].size and bool(np.isfinite(made[name]).all())


@pytest.mark.parametrize("kind", NONLINEAR_OPERATORS)
def test_operators_that_are_not_linear_are_taken_by_samplers_that_move(kind: str, place: Place) -> None:
    """And refused, before any draw, by one that needs a linear operator."""
    moved = {
        name: {"kind": name, "n_moves": 4, "kernel": {"kind": "hmc", "n_leapfrog": 2}} for name in ("daps", "pnp_dm")
    }
    changes = {"dataset.n_observations": 1, **assumed(kind), "sample.times.n_steps": 3, "sample.posteriors": moved}
    results = place.build(change(IMAGING, changes), until="sample")
    with xr.open_dataset(results / "samples.nc") as drawn:
        assert list(drawn["posterior"].to_numpy()) == ["daps", "pnp_dm"]
        assert bool(np.isfinite(drawn["samples"]).all())
    refused = place.write(change(IMAGING, {**changes, "sample.posteriors": {"a": {"kind": "diffpir"}}}))
    outcome = place.sciflow("sample", refused)
    assert outcome.status == 2 and "DiffPIR needs a GaussianLikelihood" in outcome.text
    unfit = {"sample.posteriors": {"a": {"kind": "daps", "kernel": {"kind": "ula"}}}}
    outcome = place.sciflow("check", place.write(change(IMAGING, {**changes, **unfit})))
    assert outcome.status == 2 and "DAPS needs a kernel with a test of its moves, got ULA" in outcome.text


def with_solvers(kinds: Iterable[str], noise: Mapping[str, Any]) -> dict[str, Any]:
    entries = {kind: {**GUIDED, **noise.get(kind, {}), "solver": {"kind": kind}} for kind in kinds}
    return change(ANALYTIC, {"dataset.n_problems": 1, **N_STEPS, "sample.posteriors": entries})


def test_every_solver_runs_to_its_end(place: Place) -> None:
    """When the run of all fails, each alone tells which it was."""
    solvers = sorted(config.SLOTS[Solver])
    place.build(with_solvers(solvers, NOISE), until="train")
    if place.sciflow("sample", "run.yaml").status:
        alone = {kind: place.sciflow("sample", place.write(with_solvers([kind], NOISE))) for kind in solvers}
        failed = [f"solver {kind}: {outcome.text}" for kind, outcome in alone.items() if outcome.status]
        pytest.fail("\n".join(failed) or "the solvers fail together, and none alone")
    with xr.open_dataset(place.results() / "samples.nc") as drawn:
        assert sorted(drawn["posterior"].values) == solvers
        assert bool(np.isfinite(drawn["samples"]).all())


@pytest.mark.parametrize("kind", ["step_choices", "compensation"])
def test_choices_that_were_found_are_taken_by_those_that_wait_for_them(kind: str, place: Place) -> None:
    """And by nobody else; the run that names them gives the same draws."""
    entries = {"a": SCHEDULED, "b": {**GUIDED, "solver": {"kind": "eabm", "order": 2}}}
    small = {"dataset.n_problems": 1, **N_STEPS, "sample.posteriors": entries}
    results = place.build(change(ANALYTIC, {**small, "sample.search": SEARCHED[kind]}), until="sample")
    with xr.open_dataset(results / "samples.nc") as found:
        found.load()
    choices = json.loads(found.attrs["searched_choices"])
    assert len(choices) == 6 and choices != 6 * choices[:1]
    plain = drawn(place, change(ANALYTIC, small), "plain")
    assert not np.array_equal(plain["samples"].sel(posterior="a"), found["samples"].sel(posterior="a"))
    if kind == "compensation":  # the grid stays
        named = {**small, "sample.posteriors": {"a": {**GUIDED, "solver": {"kind": "scheduled", "choices": choices}}}}
        by_name = drawn(place, change(ANALYTIC, named), "named")
        np.testing.assert_array_equal(by_name["samples"].sel(posterior="a"), found["samples"].sel(posterior="a"))
        np.testing.assert_array_equal(plain["samples"].sel(posterior="b"), found["samples"].sel(posterior="b"))


def drawn(place: Place, values: dict[str, Any], name: str) -> xr.Dataset:
    with xr.open_dataset(place.build(values, name, until="sample") / "samples.nc") as samples:
        return samples.load()


def test_first_steps_are_left_out_where_the_model_is_gaussian(place: Place) -> None:
    """Fewer calls, and nearly the same draws from the same starts."""
    far = {"teleport": {"tolerance": 1e-3}}
    entries = {"all": {"kind": "unguided"}, "few": {"kind": "unguided", **far}, "guided": {"kind": "guided", **far}}
    changes = {"dataset.n_problems": 1, "sample.times": {"kind": "karras", "n_steps": 40}, "sample.n_samples": 256}
    found = drawn(place, change(ANALYTIC, {**changes, "sample.posteriors": entries}), "run")
    nfe = dict(zip(entries, found["nfe"].squeeze().to_numpy().tolist(), strict=True))
    assert nfe["few"] < nfe["all"] - 3
    ends = found["samples"].sel(observation=0)
    gap = np.abs(ends.sel(posterior="few") - ends.sel(posterior="all"))
    assert float(np.median(gap)) < 0.03 * float(ends.sel(posterior="all").std())  # √tolerance of the spread
    assert bool(np.isfinite(ends.sel(posterior="guided")).all())


def test_a_solver_of_other_equations_is_refused_by_its_name(place: Place) -> None:
    outcome = place.sciflow("check", place.write(with_solvers(["euler", "torchsde"], {})))
    assert outcome.status == 2
    assert "sample.posteriors.torchsde.solver: TorchSDE solves SDEs" in outcome.text
